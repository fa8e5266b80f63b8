"""Estimate of a run before it starts: parameters, memory, disk and work.

Nothing is loaded: the recipe's own adapter, optimizer, method and samplers run on a model of shapes
(`model_shapes`), and what they take is counted (`simulation`). Only two things are assumed rather
than counted: a margin for the allocator and for workspaces inside kernels, and the size of
compressed pictures.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from loba_tui.core.associate.caches.tensors.prompt_embeds import MOST_ON_DEVICE
from loba_tui.core.associate.containers.base import ModelContainer
from loba_tui.core.associate.devices import resolve_device, resolve_dtype
from loba_tui.core.associate.image_models.files import most_bytes
from loba_tui.core.associate.machine import dtype_name
from loba_tui.core.associate.model_shapes import open_shapes, parameters_of
from loba_tui.core.associate.sources.overrides import Overrides
from loba_tui.core.errors import ResourceError
from loba_tui.core.plugins import Plugins
from loba_tui.core.program.adapter_layers.strength import AdapterScale, NoScale
from loba_tui.core.program.changed_text import (
    attach_trained_text,
    solves,
    trains_text,
)
from loba_tui.core.program.engines.shares import Share
from loba_tui.core.program.evaluation.attacks.attack import backward_rows, most_rows
from loba_tui.core.program.evaluation.calibration.looks import expected_images
from loba_tui.core.program.kernels.exactness import autocast_dtype
from loba_tui.core.program.open_model import prompts_of
from loba_tui.core.program.planning.estimate_records import Estimate, Memory, Work
from loba_tui.core.program.planning.method_calls import (
    NO_CALLS,
    Call,
    attach_adapter_or_bound,
    record_calls,
)
from loba_tui.core.program.planning.network_costs import Networks, pack_shapes
from loba_tui.core.program.planning.simulation import Cost
from loba_tui.core.program.planning.state_sizes import disk_of, optimizer_state_bytes
from loba_tui.core.program.planning.validation_rows import validation_rows
from loba_tui.core.program.training.parameter_groups import parameter_groups
from loba_tui.core.program.trajectories.held_out import BATCH_SIZE
from loba_tui.core.program.validation.drawn_figure import images_of_best
from loba_tui.core.recipe.measure_models import measure_models
from loba_tui.core.recipe.schema import Recipe

MARGIN = 0.08
"""Share added for fragmentation: an allocator cannot use every hole it has."""
_WORKSPACE_BYTES = {"cuda": 512 * 2**20}
"""What cuBLAS, cuDNN and attention kernels take beside tensors, by device type."""
_SMALL_MODEL, _SMALL_BATCH = 20_000_000, 64 * 64**2
"""Parameters and pixels up to which real operators are faster than shapes."""


@dataclass
class Estimator:
    """Estimates recipes for one device; what they have in common is computed once.

    It is what one of so many `processes` needs.
    With `shapes_only` no real tensors are made, not even of a small model, where that is faster.
    """

    device: torch.device
    plugins: Plugins
    shapes_only: bool = False
    processes: int = 1
    _networks: dict[Any, Networks] = field(default_factory=dict)

    def estimate(self, recipe: Recipe) -> Estimate:
        """Return what a recipe will need.

        Raises:
            RecipeError: The recipe does not fit its model.
        """
        dtype = dtype_on(self.device, recipe)
        networks = self._open(recipe, dtype)
        shapes, container, calls = networks.shapes, networks.shapes.container, networks.calls
        own = {networks.denoiser_name: _numbers(networks.adapter)}
        own |= {name: _numbers(parameters) for name, parameters in networks.text.items()}
        adapter = sum(own.values())
        trained = sum(parameter.numel() for parameter in networks.trained)
        state, is_measured = optimizer_state_bytes(
            recipe, [parameter.shape for parameter in networks.trained], self.plugins
        )
        if recipe.train.ema is not None:
            state += 4 * trained  # the average is as large as what it averages
        memory = self._memory(recipe, networks, own, trained=trained, state=state)
        disk = disk_of(
            recipe,
            container,
            adapter=adapter,
            trained=trained,
            num_tensors=len(networks.trained),
            state=state,
            calls=calls,
        )
        notes = []
        if solves(recipe, self.plugins):
            notes.append("The adapter is computed, not trained; this is the most it can have.")
        if shapes.origin == "assumed":
            notes.append(
                f"The configuration of {recipe.base_model.id} is not on this machine; it is taken"
                " for an SD-XL 1.0."
            )
        if not is_measured:
            notes.append(f"{recipe.optimizer.name} does not run here; it is taken for Adam.")
        if recipe.base_model.offload in ("model", "sequential"):
            notes.append("With offload, only the network in use counts as on the device.")
        return Estimate(
            device=str(self.device),
            dtype=dtype_name(dtype),
            origin=shapes.origin,
            resolution=recipe.train.resolution or container.resolution,
            parameters={
                name: parameters_of(module) - own.get(name, 0)
                for name, module in shapes.modules().items()
            },
            adapter_parameters=adapter,
            trained_parameters=trained,
            memory=memory,
            disk=disk,
            work=_work(recipe, networks),
            calls=calls,
            notes=tuple(notes),
        )

    def _open(self, recipe: Recipe, dtype: torch.dtype) -> Networks:
        # What of a recipe does not change the networks and their calls.
        key = recipe.model_dump_json(
            exclude={
                "name": True,
                "optimizer": True,
                "save": True,
                "sample": True,
                "proof": True,
                "validation": True,
                "parallel": True,
                "base_model": {"offload", "blocks_on_host", "vae_slicing", "vae_tiling"},
                "train": {"gradient_accumulation"},
                "scheduler": {"model"},
            }
        )
        if key not in self._networks:
            settings = recipe.base_model
            shapes = open_shapes(settings.id, settings.revision, dtype, Overrides.of(settings))
            saved = pack_shapes(shapes.container.denoiser, settings, self.plugins)
            if not (saved or self.shapes_only) and _is_small(recipe, shapes.container):
                shapes.materialise()
            attach_adapter_or_bound(recipe, shapes.container, self.plugins)
            denoiser = shapes.container.denoiser
            adapter = {n: p for n, p in denoiser.named_parameters() if p.requires_grad}
            scale = AdapterScale(denoiser) if adapter else NoScale()
            encoders: Mapping[str, nn.Module] = {}
            text: Mapping[str, nn.Parameter] = {}
            if trains_text(recipe, self.plugins):
                trained_text = attach_trained_text(recipe, shapes.container, self.plugins)
                encoders, text = trained_text.encoders, trained_text.parameters()
            trained: dict[str, nn.Parameter] = {}
            calls = NO_CALLS
            if not solves(recipe, self.plugins):
                _, _, trained = parameter_groups(recipe, adapter, self.plugins, text)
                if isinstance(scale, AdapterScale):
                    calls = record_calls(recipe, shapes.container, scale, self.plugins)
            self._networks[key] = Networks(
                shapes=shapes,
                scale=scale,
                saved_bytes=saved,
                adapter=tuple(adapter.values()),
                text={
                    name: tuple(p for p in encoder.parameters() if p.requires_grad)
                    for name, encoder in encoders.items()
                },
                trained=tuple(trained.values()),
                calls=calls,
                resolution=recipe.train.resolution,
                device_type=self.device.type,
                autocast=autocast_dtype(denoiser, scale, dtype),
                fused=settings.attention != "math",
                checkpointing=settings.gradient_checkpointing is True,
            )
        container, base = self._networks[key].shapes.container, recipe.base_model
        container.slices_vae, container.tiles_vae = base.vae_slicing, base.vae_tiling
        return self._networks[key]

    def _memory(
        self,
        recipe: Recipe,
        networks: Networks,
        own: Mapping[str, int],
        *,
        trained: int,
        state: int,
    ) -> Memory:
        share = Share.of(recipe.parallel, self.processes)
        adapter = 4 * sum(own.values())
        average = 4 * trained if recipe.train.ema is not None else 0
        state = int((state - average) * share.optimizer) + average
        weights = networks.base_weights(recipe, own, share)
        calls, settings = networks.calls, recipe.sample
        student = networks.denoiser_cost(Call(calls.student_rows, with_grad=True))
        teacher = networks.denoiser_cost(Call(calls.teacher_rows, with_grad=False))
        if networks.text:
            # Their activations are held until the denoiser's backward pass has come to them.
            rows = calls.student_rows or recipe.train.micro_batch_size
            encoding = networks.encoder_cost(rows)
            student = Cost(
                encoding.kept_bytes + student.kept_bytes,
                max(encoding.peak_bytes, encoding.kept_bytes + student.peak_bytes),
                encoding.flops + student.flops,
                encoding.operators + student.operators,
                student.shared_bytes,
            )
        trained_bytes = adapter + state
        embeds = networks.embeds_bytes * len(prompts_of(recipe))
        embeds = embeds if self.device.type == "cpu" else min(embeds, MOST_ON_DEVICE)
        trained_bytes += embeds
        elsewhere = int(student.shared_bytes * (1 - share.tokens))
        passes = max(student.peak_bytes - elsewhere, teacher.peak_bytes)
        training = weights.training + trained_bytes + passes
        looks = recipe.proof.enabled or recipe.train.efficacy_every > 0
        rows = max(settings.batch_size * settings.rows_per_image, BATCH_SIZE * looks)
        drawing = networks.denoiser_cost(Call(rows, with_grad=False)).peak_bytes
        drawing = max(drawing, networks.decode_cost(settings.batch_size).peak_bytes)
        reading = most_bytes(measure_models(recipe, self.plugins))
        if recipe.proof.attacks is not None:
            attack = Call(backward_rows(recipe), with_grad=True)
            drawing = weights.encoders + max(drawing, networks.denoiser_cost(attack).peak_bytes)
        sampling = weights.sampling + trained_bytes + max(drawing, reading)
        loading = weights.loading + embeds
        peak = max(training, sampling, loading)
        return Memory(
            weights=weights.training,
            loading=loading,
            adapter=adapter,
            gradients=int(4 * trained * share.gradients),
            optimizer=state,
            activations=student.kept_bytes - elsewhere,
            training=training,
            sampling=sampling,
            peak=peak,
            needed=needed_of(peak, self.device),
        )


def needed_of(peak_bytes: float, device: torch.device) -> int:
    """Return what a peak needs on a device: with the margin and with workspaces in kernels."""
    return int(peak_bytes * (1 + MARGIN)) + _WORKSPACE_BYTES.get(device.type, 0)


def _is_small(recipe: Recipe, container: ModelContainer) -> bool:
    side = recipe.train.resolution or container.resolution
    pixels = side**2 * recipe.train.micro_batch_size
    return parameters_of(container.denoiser) <= _SMALL_MODEL and pixels <= _SMALL_BATCH


def dtype_on(device: torch.device, recipe: Recipe) -> torch.dtype:
    """Return the dtype of base weights, also for a device that is not here."""
    name = recipe.base_model.dtype
    if name == "auto" and device.type == "cuda" and not torch.cuda.is_available():
        return torch.bfloat16  # as on every card of the last years
    return resolve_dtype(name, device)


def device_of(recipe: Recipe) -> tuple[torch.device, bool]:
    """Return the device that a recipe names, and whether it is here."""
    try:
        return resolve_device(recipe.base_model.device), True
    except ResourceError:
        return torch.device(recipe.base_model.device.partition(":")[0]), False


def _work(recipe: Recipe, networks: Networks) -> Work:
    calls, train, sample = networks.calls, recipe.train, recipe.sample
    num_steps = train.steps if calls.student_rows else 0
    with_grad = calls.rows_per_step(with_grad=True) * train.gradient_accumulation
    without = calls.rows_per_step(with_grad=False) * train.gradient_accumulation
    one = Call(calls.student_rows, with_grad=True)
    flops_with_grad = networks.denoiser_cost(one).flops / max(1, one.rows)
    flops_without = networks.denoiser_cost(Call(1, with_grad=False)).flops
    per_step = with_grad * flops_with_grad + without * flops_without
    scales = len(sample.scales)
    pictures = len(recipe.sample_prompts) * len(sample.seeds) * scales
    pictures *= 1 + (num_steps // sample.every if sample.every else 0)
    if recipe.proof.enabled:
        pictures += len(recipe.proof_prompts) * len(recipe.proof.seeds) * (scales + 1)
    pictures += expected_images(recipe) + (images_of_best(recipe) if num_steps else 0)
    rows = pictures * sample.steps * sample.rows_per_image + most_rows(recipe)
    evaluated = validation_rows(recipe, calls)
    extra_steps = int(recipe.adapter.init == "gradient" and num_steps > 0)
    return Work(
        rows_per_step=2 * with_grad + without,
        warm_up_rows=calls.warm_up_rows,
        sample_rows=rows,
        validation_rows=evaluated,
        extra_steps=extra_steps,
        operators_per_step=networks.operators_of(calls) * train.gradient_accumulation,
        flops_per_step=per_step,
        flops=(num_steps + extra_steps) * per_step
        + (calls.warm_up_rows + rows + evaluated) * flops_without,
    )


def _numbers(parameters: Iterable[nn.Parameter]) -> int:
    return sum(parameter.numel() for parameter in parameters)
