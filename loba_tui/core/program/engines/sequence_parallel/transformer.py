"""Sequence parallelism of transformers, by diffusers' own context parallelism.

diffusers has a plan of where tokens are split and joined for some classes, and exchanges them in
its attention: heads for tokens (Ulysses), or keys and values passed round (ring attention, Liu et
al. 2023, https://arxiv.org/abs/2310.01889). Here it is switched on for training alone, and what it
would compute wrong in silence is refused.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from diffusers import ContextParallelConfig, ParallelConfig
from diffusers.hooks.context_parallel import apply_context_parallel, remove_context_parallel
from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed.device_mesh import DeviceMesh

from loba_tui.core.errors import RecipeError

RING_DEVICES = ("cuda",)
"""Devices whose attention returns the sums that a ring has to combine its parts by."""
_RING_BACKEND = "_native_flash"


class SplitTransformer:
    """Has a transformer compute this process's tokens alone, while that is on.

    Attributes:
        loss_factor: What a loss has to be multiplied by, for a mean of gradients over processes:
            each process has its tokens' part, and it is their sum that counts.

    Raises:
        RecipeError: diffusers cannot share this class's tokens, or not in this way.
    """

    def __init__(
        self,
        transformer: nn.Module,
        group: Any,
        *,
        ulysses: int,
        ring: int,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self._transformer = transformer
        self._plan = _checked_plan(transformer, ulysses=ulysses, ring=ring)
        self._ring = ring
        self.loss_factor = dist.get_world_size(group)
        if ring > 1:
            _check_ring(device, dtype)
        self._processors = [
            each.processor
            for each in transformer.modules()
            if hasattr(getattr(each, "processor", None), "_parallel_config")
        ]
        if not self._processors:
            raise RecipeError(
                "parallel: this base_model.attention cannot share tokens",
                "Take base_model.attention: auto.",
            )
        self._config = _config_of(group, ulysses, ring, device)
        parameters = inspect.signature(type(transformer).forward).parameters
        self._reads_mask = "encoder_hidden_states_mask" in parameters
        self._is_on = False
        transformer.register_forward_pre_hook(self._prepare, with_kwargs=True)

    @contextmanager
    def on(self) -> Iterator[None]:
        """Share tokens inside a `with` block, backward pass included."""
        transformer, cp_config = self._transformer, self._config.context_parallel_config
        if self._ring > 1 and getattr(transformer, "is_gradient_checkpointing", False):
            # diffusers' ring reads what it saved once for each process, and checkpointing hands it
            # out once.
            raise RecipeError(
                "parallel.ring does not go with gradient checkpointing",
                "Set base_model.gradient_checkpointing: false, or take parallel.ulysses.",
            )
        # Of each processor: diffusers' own switch of the backend is one for the whole process.
        backend = _RING_BACKEND if self._ring > 1 else "native"
        before = [processor._attention_backend for processor in self._processors]
        apply_context_parallel(transformer, cp_config, self._plan)
        for processor in self._processors:
            processor._parallel_config, processor._attention_backend = self._config, backend
        self._is_on = True
        try:
            yield
        finally:
            self._is_on = False
            for processor, backend in zip(self._processors, before, strict=True):
                processor._parallel_config, processor._attention_backend = None, backend
            remove_context_parallel(transformer, self._plan)

    def _prepare(
        self, _module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """Make numbers of tokens divide, or refuse them, before diffusers splits them."""
        if not self._is_on:
            return None
        given = dict(kwargs)
        if args:
            raise TypeError("a transformer that shares tokens takes its arguments by name")
        degree, states = self.loss_factor, given["encoder_hidden_states"]
        if given["hidden_states"].shape[1] % degree:
            raise _does_not_divide(given["hidden_states"].shape[1], "tokens of an image", degree)
        if self._reads_mask:
            given["encoder_hidden_states"], given["encoder_hidden_states_mask"] = _padded(
                states, given.get("encoder_hidden_states_mask"), degree
            )
            if self._ring > 1 and given["encoder_hidden_states_mask"] is not None:
                raise RecipeError(
                    "parallel.ring: prompts of unlike length, or of one that the degree does not"
                    " divide, need a mask, which a ring has not",
                    "Take parallel.ulysses in its place.",
                )
        elif states.shape[1] % degree:
            raise _does_not_divide(states.shape[1], "states of a prompt", degree)
        for name, planned in self._plan.get("", {}).items():
            given[name] = _with_dims(given[name], planned.expected_dims)
        return args, given


def _checked_plan(transformer: nn.Module, *, ulysses: int, ring: int) -> Mapping[str, Any]:
    """Return diffusers' plan of where tokens are split and joined, or say why there is none."""
    name = type(transformer).__name__
    plan: Mapping[str, Any] | None = getattr(transformer, "_cp_plan", None)
    if plan is None:
        raise RecipeError(
            f"parallel.ulysses and parallel.ring: diffusers has no plan for {name} of how its"
            " tokens could be shared",
            "Leave them out; more processes then share the rows.",
        )
    heads = transformer.config.num_attention_heads
    if heads % ulysses:
        raise RecipeError(
            f"parallel.ulysses: {ulysses} does not divide the {heads} heads of {name}",
            f"Take a divisor of {heads}, or parallel.ring.",
        )
    if ulysses > 1 and ring > 1:
        raise RecipeError(
            "parallel.ulysses and parallel.ring do not go together", "Leave one of both out."
        )
    return plan


def _check_ring(device: torch.device, dtype: torch.dtype) -> None:
    if device.type not in RING_DEVICES:
        raise RecipeError(
            f"parallel.ring needs CUDA, and the device is {device}", "Take parallel.ulysses."
        )
    if device.type == "cuda" and dtype not in (torch.float16, torch.bfloat16):
        raise RecipeError(
            f"parallel.ring needs flash attention, which does not run in {dtype}",
            "Set base_model.dtype: bfloat16, or take parallel.ulysses.",
        )


def _config_of(group: Any, ulysses: int, ring: int, device: torch.device) -> ParallelConfig:
    """Return diffusers' settings for a group.

    Its own set-up asks for the number of accelerators, which is 0 on a CPU, and makes groups of its
    own, which would not fail after `parallel.timeout`.
    """
    config = ContextParallelConfig(ulysses_degree=ulysses, ring_degree=ring)
    mesh = DeviceMesh.from_group(group, device.type, mesh_dim_names=("tokens",))
    config._rank, config._world_size = dist.get_rank(), dist.get_world_size()
    config._device = device
    config._mesh = config._flattened_mesh = config._ring_mesh = config._ulysses_mesh = mesh
    config._ring_local_rank = config._ulysses_local_rank = mesh.get_local_rank()
    return ParallelConfig(context_parallel_config=config)


def _padded(states: Tensor, mask: Tensor | None, degree: int) -> tuple[Tensor, Tensor | None]:
    """Return a prompt's states (B, T, D) and mask (B, T) with T a multiple of the degree."""
    missing = -states.shape[1] % degree
    if mask is None and not missing:
        return states, None
    if mask is None:
        mask = torch.ones(states.shape[:2], dtype=torch.bool, device=states.device)
    mask = nn.functional.pad(mask.bool(), (0, missing))
    return nn.functional.pad(states, (0, 0, 0, missing)), mask


def _with_dims(places: Tensor, num_dims: int) -> Tensor:
    """Return places of tokens with a dimension for rows, or without, as a plan wants it.

    A transformer takes both; what has other dimensions than the plan's would not be split.
    """
    if places.ndim + 1 == num_dims:
        return places.unsqueeze(0)
    return places[0] if places.ndim == num_dims + 1 else places


def _does_not_divide(number: int, what: str, degree: int) -> RecipeError:
    return RecipeError(
        f"parallel: {degree} processes cannot share {number} {what} evenly",
        "Take another train.resolution, data.buckets.step or degree, so that they divide.",
    )
