"""The costs of one model with one adapter, each simulated once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from torch import Tensor, nn

from loba_tui.core.associate.caches.memory import block_offload
from loba_tui.core.associate.model_shapes import ModelShapes, bytes_of
from loba_tui.core.associate.quantized import quantize_shapes
from loba_tui.core.plugins import Plugins
from loba_tui.core.program.adapter_layers.strength import AdapterScale, NoScale
from loba_tui.core.program.engines.shares import Share
from loba_tui.core.program.pipeline_wrapper import quantizer_of
from loba_tui.core.program.planning.method_calls import Call, MethodCalls
from loba_tui.core.program.planning.simulation import Cost, RealDeviceRules, measure
from loba_tui.core.recipe.schema import BaseModelSection, Recipe


@dataclass(frozen=True)
class BaseWeights:
    """Bytes of the base's weights on the device.

    Attributes:
        loading: Most while prompts are encoded and the denoiser is brought.
        training: Between pictures.
        sampling: While pictures are drawn.
        encoders: Of text encoders that are not trained; in `loading` alone.
    """

    loading: int
    training: int
    sampling: int
    encoders: int


@dataclass
class Networks:
    """A model of shapes with its adapter attached.

    Attributes:
        saved_bytes: What the denoiser's weights take less since they are quantised.
        adapter: Parameters of the denoiser's adapter.
        text: Parameters of the text encoders', by component; none where they are not trained.
        trained: Those of both that train.
        resolution: Pixels that are trained and drawn at; None takes the model's own.
        device_type: Whose autocast rules hold.
        autocast: Its lower precision; None for none.
        fused: Whether attention runs in fused kernels.
    """

    shapes: ModelShapes
    scale: AdapterScale | NoScale
    saved_bytes: int
    adapter: tuple[nn.Parameter, ...]
    text: Mapping[str, tuple[nn.Parameter, ...]]
    trained: tuple[nn.Parameter, ...]
    calls: MethodCalls
    resolution: int | None
    device_type: str
    autocast: torch.dtype | None
    fused: bool
    checkpointing: bool
    _costs: dict[object, Cost] = field(default_factory=dict)

    @property
    def denoiser_name(self) -> str:
        """The component that is trained."""
        denoiser = self.shapes.container.denoiser
        return next(name for name, part in self.shapes.modules().items() if part is denoiser)

    @property
    def embeds_bytes(self) -> int:
        """Bytes of one prompt's embeddings."""
        row = self.shapes.container.empty_embeds()
        tensors = [row.embeds] if row.pooled is None else [row.embeds, row.pooled]
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    def base_weights(self, recipe: Recipe, own: Mapping[str, int], share: Share) -> BaseWeights:
        """Return what the base's weights take on the device, phase by phase.

        Args:
            own: How many parameters of adapters are in each component.
            share: Of the denoiser's, on one process. It is read whole before it is shared.
        """
        modules = self.shapes.modules().items()
        sizes = {name: bytes_of(module) - 4 * own.get(name, 0) for name, module in modules}
        going = [name for name in sizes if name.startswith("text_encoder") and name not in own]
        encoders, vae = sum(sizes[name] for name in going), sizes.get("vae", 0)
        denoiser, total = sizes[self.denoiser_name], sum(sizes.values())
        base = recipe.base_model
        if base.offload in ("model", "sequential"):
            return BaseWeights(max(sizes.values()), denoiser, denoiser + vae, encoders)
        if self.device_type == "cpu":
            loading = total + self.saved_bytes  # they are read before they are packed
            staying = total - encoders - self._saved(denoiser, share)
            return BaseWeights(loading, staying, staying, encoders)
        # Prompts are encoded before the denoiser is there, and the VAE comes for pictures.
        encoding, trained = total - denoiser, total - denoiser - encoders - vae
        if base.offload == "blocks":
            network = self.shapes.container.denoiser
            held = block_offload.resident_bytes(network, base.blocks_on_host, self.adapter)
            denoiser = sum(held)
            waiting = [sum(block_offload.resident_bytes(dict(modules)[n], None)) for n in going]
            encoding = trained + vae + sum(waiting)
        needs_vae = recipe.data is not None and recipe.data.cache == "none"
        drawing = denoiser + trained + vae
        training = drawing if needs_vae else denoiser + trained
        saved = self._saved(denoiser, share)
        loading = max(encoding, drawing)
        return BaseWeights(loading, training - saved, drawing - saved, encoders)

    def _saved(self, num_bytes: int, share: Share) -> int:
        """Return what a process need not hold of the denoiser's base weights.

        What is gathered while it computes counts as held: all that is outside of blocks, the block
        that computes, and the next one.
        """
        if share.base == 1:
            return 0
        gathered = sum(
            block_offload.resident_bytes(self.shapes.container.denoiser, None, self.adapter)
        )
        return max(0, num_bytes - int(num_bytes * share.base) - gathered)

    def denoiser_cost(self, call: Call) -> Cost:
        """Return what a prediction costs.

        Without gradients nothing is held but the rows of the layer that runs, so one row tells
        the rest; with them, adapter weights that are cast count once however many rows there are.
        """
        if call.rows == 0:
            return Cost(0, 0, 0)
        simulated = call if call.with_grad else replace(call, rows=1)
        if simulated not in self._costs:
            self._costs[simulated] = self._simulate(simulated)
        cost = self._costs[simulated]
        if call.with_grad:
            return cost
        rows = call.rows
        return Cost(0, cost.peak_bytes * rows, cost.flops * rows, cost.operators)

    def operators_of(self, calls: MethodCalls) -> float:
        """Return the mean operators of a micro-step, the first one left out."""
        found = [call.with_grad for step in calls.later for call in step]
        student = self.denoiser_cost(Call(calls.student_rows, with_grad=True)).operators
        teacher = self.denoiser_cost(Call(calls.teacher_rows, with_grad=False)).operators
        with_grad = sum(found)
        return (with_grad * student + (len(found) - with_grad) * teacher) / len(calls.later)

    def encoder_cost(self, rows: int) -> Cost:
        """Return what it costs to encode so many prompts with gradients, all encoders together."""
        costs = [self._encoding(name, rows) for name in self.text]
        return Cost(
            sum(cost.kept_bytes for cost in costs),
            sum(cost.kept_bytes for cost in costs[:-1]) + max(cost.peak_bytes for cost in costs),
            sum(cost.flops for cost in costs),
            sum(cost.operators for cost in costs),
        )

    def _encoding(self, name: str, rows: int) -> Cost:
        key = (name, rows)
        if key not in self._costs:
            container = self.shapes.container
            encoder = getattr(container.pipeline, name)
            ids = torch.zeros(
                (rows, container.most_tokens), dtype=torch.int64, device=container.device
            )
            rules = RealDeviceRules(device_type=self.device_type, fused=self.fused)
            present = [*encoder.parameters(), *encoder.buffers()]
            self._costs[key] = measure(
                lambda: encoder(ids).last_hidden_state,
                with_grad=True,
                rules=rules,
                present=present,
            )
            for parameter in self.text[name]:
                parameter.grad = None
        return self._costs[key]

    def decode_cost(self, rows: int) -> Cost:
        """Return what the VAE takes to decode this many latents at once."""
        container = self.shapes.container
        # Slices are taken one after another, so that one tells nothing of several.
        at_once = rows if container.slices_vae else 1
        key = ("decode", at_once, container.slices_vae, container.tiles_vae)
        if key not in self._costs:
            vae = container.pipeline.vae
            # As the pipeline does: float16 overflows in SD-XL's VAE, so it is upcast for the while.
            upcast = vae.dtype == torch.float16 and container.decodes_in_float32
            dtype = torch.float32 if upcast else vae.dtype
            if upcast:
                vae.to(dtype)

            def decode() -> Tensor:
                shape = (at_once, *container.latent_shape(self.resolution))
                latents = torch.zeros(shape, dtype=dtype, device=container.device)
                return container.decode_own(latents).float()

            present = [*vae.parameters(), *vae.buffers()]
            rules = RealDeviceRules(device_type=self.device_type, fused=self.fused)
            container.require("vae")
            self._costs[key] = measure(decode, with_grad=False, rules=rules, present=present)
        cost, times = self._costs[key], rows // at_once
        return Cost(0, cost.peak_bytes * times, cost.flops * times)

    def _simulate(self, call: Call) -> Cost:
        container, denoiser = self.shapes.container, self.shapes.container.denoiser
        rules = RealDeviceRules(
            autocast=self.autocast, device_type=self.device_type, fused=self.fused
        )
        denoiser.train(call.with_grad)
        if self.checkpointing:
            denoiser.enable_gradient_checkpointing(rules.checkpoint)
        device = container.device
        # A strength of 1 would be left out where it can be seen, on a CPU.
        self.scale.set(torch.full((call.rows,), 0.5, device=device))
        latents_shape = (call.rows, *container.latent_shape(self.resolution))

        def forward() -> Tensor:
            return container.predict(
                torch.zeros(latents_shape, device=device),
                torch.zeros(call.rows, device=device, dtype=torch.int64),
                container.empty_embeds().select([0] * call.rows),
            )

        present = [*denoiser.parameters(), *denoiser.buffers()]
        cost = measure(
            forward,
            with_grad=call.with_grad,
            rules=rules,
            present=present,
            shared=_token_blocks(denoiser),
        )
        for parameter in self.trained:
            parameter.grad = None
        return cost


def _token_blocks(denoiser: nn.Module) -> list[nn.Module]:
    """Return the blocks that compute a process's own tokens under `parallel.ulysses`.

    A UNet's convolutions, and what enters and leaves its transformers, are computed whole.
    """
    if not isinstance(denoiser, UNet2DConditionModel):
        return [denoiser]
    transformers = [each for each in denoiser.modules() if isinstance(each, Transformer2DModel)]
    return [block for each in transformers for block in each.transformer_blocks]


def pack_shapes(denoiser: nn.Module, settings: BaseModelSection, plugins: Plugins) -> int:
    """Quantise a denoiser of shapes as the recipe asks, and return the bytes that saves."""
    if settings.quantize is None:
        return 0
    quantizer = quantizer_of(settings.quantize, plugins, is_used=False)
    before = bytes_of(denoiser)
    quantize_shapes(denoiser, quantizer)
    return before - bytes_of(denoiser)
