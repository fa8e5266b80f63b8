"""The costs of one model with one adapter, each simulated once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from loba_tui.core.associate.caches.memory import block_offload
from loba_tui.core.associate.model_shapes import ModelShapes
from loba_tui.core.program.adapter_layers.strength import AdapterScale, NoScale
from loba_tui.core.program.planning.method_calls import Call, MethodCalls
from loba_tui.core.program.planning.simulation import Cost, RealDeviceRules, measure


@dataclass
class Networks:
    """A model of shapes with its adapter attached.

    Attributes:
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

    def resident_bytes(self, blocks_on_host: int | None) -> int:
        """Return what the denoiser takes on the device while so many blocks wait; None is all."""
        denoiser = self.shapes.container.denoiser
        return sum(block_offload.resident_bytes(denoiser, blocks_on_host, self.adapter))

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
        if "decode" not in self._costs:
            container = self.shapes.container
            vae = container.pipeline.vae
            # As the pipeline does: float16 overflows in SD-XL's VAE, so it is upcast for the while.
            upcast = vae.dtype == torch.float16 and container.decodes_in_float32
            dtype = torch.float32 if upcast else vae.dtype
            if upcast:
                vae.to(dtype)

            def decode() -> Tensor:
                shape = (1, *container.latent_shape(self.resolution))
                latents = torch.zeros(shape, dtype=dtype, device=container.device)
                return container.decode_own(latents).float()

            present = [*vae.parameters(), *vae.buffers()]
            rules = RealDeviceRules(device_type=self.device_type, fused=self.fused)
            self._costs["decode"] = measure(decode, with_grad=False, rules=rules, present=present)
        cost = self._costs["decode"]
        return Cost(0, cost.peak_bytes * rows, cost.flops * rows)

    def _simulate(self, call: Call) -> Cost:
        container, denoiser = self.shapes.container, self.shapes.container.denoiser
        rules = RealDeviceRules(
            autocast=self.autocast, device_type=self.device_type, fused=self.fused
        )
        denoiser.train(call.with_grad)
        if self.checkpointing:
            denoiser.enable_gradient_checkpointing(rules.checkpoint)
        device = container.device
        self.scale.set(torch.ones(call.rows, device=device))
        latents_shape = (call.rows, *container.latent_shape(self.resolution))

        def forward() -> Tensor:
            return container.predict(
                torch.zeros(latents_shape, device=device),
                torch.zeros(call.rows, device=device, dtype=torch.int64),
                container.empty_embeds().select([0] * call.rows),
            )

        present = [*denoiser.parameters(), *denoiser.buffers()]
        cost = measure(forward, with_grad=call.with_grad, rules=rules, present=present)
        for parameter in self.trained:
            parameter.grad = None
        return cost
