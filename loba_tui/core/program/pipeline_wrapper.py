"""Hold a pipeline the way a recipe's base_model section asks: the one place for its settings.

Device, dtype, attention backend, gradient checkpointing, offloading and CPU threads are applied
here when it is loaded, and nowhere else.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from loba_tui.core.associate.caches.memory.block_offload import (
    BlockOffload,
    blocks_of,
    offload_of,
)
from loba_tui.core.associate.caches.memory.components import TEXT_ENCODERS
from loba_tui.core.associate.caches.tensors.file_hashes import FileHashes
from loba_tui.core.associate.caches.tensors.fingerprint import producer_fingerprint
from loba_tui.core.associate.caches.tensors.layout import TensorKind
from loba_tui.core.associate.caches.tensors.store import TensorStore
from loba_tui.core.associate.containers.base import ModelContainer
from loba_tui.core.associate.containers.loading import as_read, component_names
from loba_tui.core.associate.containers.prompt_reading import PromptReading
from loba_tui.core.associate.devices import resolve_device
from loba_tui.core.associate.machine import library_versions
from loba_tui.core.associate.model_cache import ModelCache
from loba_tui.core.associate.quantized import DENOISERS, Quantization, Quantizer
from loba_tui.core.associate.sources.hub_snapshot import OnFetch
from loba_tui.core.associate.sources.locate import ModelSource
from loba_tui.core.associate.sources.overrides import Overrides
from loba_tui.core.errors import RecipeError, ResourceError
from loba_tui.core.plugins import Plugins
from loba_tui.core.program.drop_ins import load_choice, package_of
from loba_tui.core.recipe.schema import BaseModelSection
from loba_tui.core.recipe.sections.method import Choice

logger = logging.getLogger(__name__)

_THREADS_KEY = "cpu_threads"
# What a diffusers folder calls the parts that make each kind of tensor begins with these.
_TEXT_ENCODERS = ("text_encoder",)
_MAKERS: MappingProxyType[TensorKind, tuple[str, ...]] = MappingProxyType(
    {"latents": ("vae",), "embeds": ("tokenizer", *_TEXT_ENCODERS)}
)
_SDPA_KERNELS = MappingProxyType({"math": SDPBackend.MATH, "flash": SDPBackend.FLASH_ATTENTION})


@dataclass(frozen=True)
class PipelineWrapper:
    """Loads the base model of a run into the cache that the pipeline lives in.

    Attributes:
        quantization: Packs what the cache reads; None where the settings ask for none.
    """

    settings: BaseModelSection
    cache: ModelCache
    quantization: Quantization | None = None

    @classmethod
    def of(
        cls,
        settings: BaseModelSection,
        plugins: Plugins,
        *,
        local_rank: int = 0,
        on_fetch: OnFetch = lambda done, total: None,
    ) -> PipelineWrapper:
        """Return the wrapper of a base model with a cache of its own.

        Raises:
            ResourceError: The device or the quantizer's package is not there.
        """
        quantization = None
        if settings.quantize is not None:
            device = resolve_device(settings.device, local_rank=local_rank)
            quantizer = quantizer_of(settings.quantize, plugins)
            quantization = Quantization(settings.quantize.name, quantizer, device)
        cache = ModelCache(
            settings.device,
            settings.dtype,
            local_rank=local_rank,
            # What waits is brought by `place_denoiser` and as it is needed.
            on_host=DENOISERS | TEXT_ENCODERS if settings.offload == "blocks" else DENOISERS,
            on_fetch=on_fetch,
            on_read=quantization or as_read,
        )
        return cls(settings, cache, quantization)

    def load(
        self,
        *,
        with_text_encoders: bool = True,
        denoiser_waits: bool = False,
        trains_text_encoders: bool = False,
    ) -> ModelContainer:
        """Load the pipeline and apply every setting.

        Args:
            with_text_encoders: Load these too; without, they come when something is to be encoded.
            denoiser_waits: Leave the denoiser in main memory, as long as text encoders take the
                device; `place_denoiser` brings it.
            trains_text_encoders: Bring them whole, whatever their blocks could do.

        Raises:
            RecipeError: The model cannot be used as it is named.
            ResourceError: A setting asks for what this machine does not have.
        """
        settings, device = self.settings, self.cache.device
        self._check()
        container = self.cache.container(
            settings.id,
            settings.revision,
            settings.variant,
            Overrides.of(settings),
            to_device=self._moves_by_hand,
            leave_out=() if with_text_encoders else self._parts(_TEXT_ENCODERS),
        )
        self._apply_threads()
        container.reading = reading_of(settings)
        container.slices_vae, container.tiles_vae = settings.vae_slicing, settings.vae_tiling
        if self._moves_by_hand and device.type != "cpu":
            container.home = device
        apply_attention(settings.attention, container.denoiser)
        if settings.offload == "blocks":
            self._place_text_encoders(container, whole=trains_text_encoders)
        if not denoiser_waits:
            self.place_denoiser(container)
        # Hooks of accelerate bring components to the device when they are called.
        if settings.offload == "model":
            container.pipeline.enable_model_cpu_offload(device=device)
        elif settings.offload == "sequential":
            container.pipeline.enable_sequential_cpu_offload(device=device)
        return container

    def _place_text_encoders(self, container: ModelContainer, *, whole: bool) -> None:
        """Bring the text encoders that are there, or have their blocks wait in main memory."""
        for name in container.text_encoders:
            encoder = getattr(container.pipeline, name, None)
            if whole and encoder is not None:
                encoder.to(self.cache.device)
            elif encoder is not None and offload_of(encoder) is None:
                BlockOffload(encoder, self.cache.device, looks_for_added=True)

    def place_denoiser(self, container: ModelContainer) -> None:
        """Bring the denoiser to where it computes, and have it checkpoint as the recipe says."""
        checkpoint = None
        if self.settings.offload == "blocks":
            checkpoint = self._offload_blocks(container.denoiser).checkpoint
        elif self._moves_by_hand:
            container.denoiser.to(self.cache.device)
        if self.settings.gradient_checkpointing is True:  # `auto` is settled for what trains
            container.denoiser.enable_gradient_checkpointing(checkpoint)

    def rest_vae(self) -> None:
        """Have the VAE wait in main memory, from where a container brings it when it is needed."""
        if self._moves_by_hand and self.cache.device.type != "cpu":
            self.cache.offload(self.settings.id, "vae")

    @property
    def _moves_by_hand(self) -> bool:
        """Whether components are moved here, and not by hooks of accelerate."""
        return self.settings.offload in ("none", "blocks")

    def store(
        self, root: Path | None, kind: TensorKind, *, on_problem: Callable[[str], None]
    ) -> TensorStore | None:
        """Return where below `root` this model's tensors of a kind are kept; None keeps none.

        The model need not be loaded.
        """
        if root is None:
            return None
        self._check()
        self._apply_threads()  # the order of additions, and so the bits, depend on them
        fingerprint = producer_fingerprint(
            self._source(),
            self._parts(_MAKERS[kind]),
            variant=self.settings.variant,
            device=self.cache.device,
            dtype=self.cache.dtype,
            hashes=FileHashes(root),
        )
        reading = reading_of(self.settings)
        if kind == "embeds" and not reading.is_plain:
            fingerprint["reading"] = asdict(reading)
        # Hundreds of prompts take less to encode again than to wait for the disk with each.
        return TensorStore(root, kind, fingerprint, on_problem=on_problem, sync=kind == "latents")

    def _offload_blocks(self, denoiser: nn.Module) -> BlockOffload:
        """Have the denoiser's blocks wait in main memory, unless they do already."""
        known = offload_of(denoiser)
        if known is not None:
            return known
        count, there = self.settings.blocks_on_host, len(blocks_of(denoiser))
        if count is not None and count > there:
            raise RecipeError(
                f"base_model.blocks_on_host: {count} is more than the {there} blocks of"
                f" {self.settings.id}",
                "Leave it out to keep all of them in main memory.",
            )
        return BlockOffload(denoiser, self.cache.device, count)

    def _check(self) -> None:
        """Say what cannot be had before anything is downloaded."""
        assert (self.settings.quantize is None) == (self.quantization is None), "see `of`"
        check_attention(self.settings.attention, self.cache.device, self.cache.dtype)
        offload, device = self.settings.offload, self.cache.device
        if offload != "none" and device.type == "cpu":
            raise ResourceError(
                f"base_model.offload: {offload} needs an accelerator, and the device is cpu.",
                "Set base_model.offload: none.",
            )

    def _source(self) -> ModelSource:
        settings = self.settings
        return self.cache.locate(
            settings.id, settings.revision, settings.variant, Overrides.of(settings)
        )

    def _parts(self, beginnings: tuple[str, ...]) -> list[str]:
        """Return the model's components whose names begin with one of these."""
        return [name for name in component_names(self._source()) if name.startswith(beginnings)]

    def _apply_threads(self) -> None:
        """Set torch's CPU threads to the recipe's number, or to what the model asks for."""
        threads = self.settings.threads
        if threads is None:
            threads = self._source().settings().get(_THREADS_KEY)
            if threads is not None and (type(threads) is not int or threads < 1):
                raise RecipeError(
                    f"{self.settings.id}: {_THREADS_KEY} in its loba.json is {threads!r}.",
                    "It has to be a whole number above 0.",
                )
        if threads is not None:
            torch.set_num_threads(threads)


def quantizer_of(choice: Choice, plugins: Plugins, *, is_used: bool = True) -> Quantizer:
    """Return what packs a denoiser's weights.

    Args:
        is_used: Its package has to be there; without it shapes can be told all the same.

    Raises:
        ResourceError: The package is not installed.
    """
    package = package_of(choice, plugins)
    if is_used and package is not None and library_versions([package])[package] is None:
        raise ResourceError(
            f"base_model.quantize: {choice.name} needs the package {package}, which is not"
            " installed.",
            f"pip install {package}, or pip install 'loba-trainer[quantize]' for all of them.",
        )
    quantizer: Quantizer = load_choice("quantizers", choice, plugins)()
    return quantizer


def reading_of(settings: BaseModelSection) -> PromptReading:
    """Return how prompts are read."""
    return PromptReading(settings.long_prompts, settings.prompt_weights)


def check_attention(backend: str, device: torch.device, dtype: torch.dtype) -> None:
    """Raise `ResourceError` if an attention backend cannot run here."""
    if backend == "xformers":
        if importlib.util.find_spec("xformers") is None:
            raise ResourceError(
                "base_model.attention: xformers is not installed.",
                "pip install xformers, or set base_model.attention: auto.",
            )
        if device.type != "cuda":
            raise ResourceError(
                f"base_model.attention: xformers needs CUDA, and the device is {device}.",
                "Set base_model.attention: auto.",
            )
    half = dtype in (torch.float16, torch.bfloat16)
    if backend == "flash" and device.type != "cpu" and not (device.type == "cuda" and half):
        raise ResourceError(
            f"base_model.attention: flash does not run in {dtype} on {device}.",
            "Set base_model.dtype: bfloat16, or base_model.attention: auto.",
        )


def apply_attention(backend: str, denoiser: nn.Module) -> None:
    """Switch a denoiser's attention; "auto" leaves diffusers' own choice, which is SDPA.

    diffusers' backend registry does not reach the processors of UNets, and it is global; a
    processor belongs to its model.
    """
    if backend == "sdpa":
        denoiser.set_attn_processor(AttnProcessor2_0())
    elif backend == "xformers":
        denoiser.enable_xformers_memory_efficient_attention()
    elif backend in _SDPA_KERNELS:
        denoiser.set_attn_processor(_OneKernelProcessor(_SDPA_KERNELS[backend]))


class _OneKernelProcessor(AttnProcessor2_0):
    """diffusers' SDPA processor, held to one of torch's kernels."""

    def __init__(self, kernel: SDPBackend) -> None:
        super().__init__()
        self.kernel = kernel

    def __call__(self, attn: Attention, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        with sdpa_kernel(self.kernel):
            return super().__call__(attn, hidden_states, *args, **kwargs)
