"""Protocol of a training method, and the parts that it is given to work with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from loba_tui.core.associate.containers.base import ModelContainer
from loba_tui.core.associate.embeds import Framing, PromptEmbeds
from loba_tui.core.errors import RecipeError
from loba_tui.core.program.adapter_layers.strength import AdapterScale
from loba_tui.core.program.data.training_data import TrainingData
from loba_tui.core.program.objectives.timed_loss import TimedLoss
from loba_tui.core.program.trajectories.base import RolloutPlan
from loba_tui.core.program.trajectories.forward_process import Diffusion, NoiseChange, Weighting
from loba_tui.core.program.trajectories.options import TrajectoryOptions
from loba_tui.core.program.trajectories.predictions import ForwardCounter
from loba_tui.core.program.trajectories.timestep_density import TimestepDensity
from loba_tui.core.recipe.schema import Concept


@dataclass(frozen=True)
class StepOutput:
    """The result of one micro-step.

    Attributes:
        loss: Scalar to run backward on, the mean over this process's rows.
        metrics: Further figures for the metrics file.
    """

    loss: Tensor
    metrics: Mapping[str, Tensor] = field(default_factory=dict)


class Method(Protocol):
    """A training method, as the trainer calls it."""

    def step(self, index: int, progress: float) -> StepOutput:
        """Return the loss of micro-step `index`, `progress` of the run being in [0, 1]."""
        ...

    def state(self) -> dict[str, Tensor]:
        """Return the tensors without which the method cannot go on exactly."""
        ...

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take back what `state` returned."""
        ...


@runtime_checkable
class StartsWarm(Protocol):
    """A method that does not begin at the base model."""

    def start_warm(self) -> None:
        """Set the adapter's first weights; called once, before the first step or a resume."""


@dataclass(frozen=True)
class MethodParts:
    """Finished objects that a method works with.

    Attributes:
        container: The base model with the adapter attached.
        student: The denoiser as Accelerate prepared it: gradients flow through this one.
        scale: Strength of the adapter.
        concepts: The recipe's concepts, placeholders filled in.
        embeds: Text embeddings, one row each, of every prompt that the concepts name.
        empty: Embeddings of the unconditional prompt, one row.
        make_noise_scheduler: Returns a fresh diffusers scheduler of the recipe's noise drop-in.
        density: Which timesteps to prefer.
        loss: Elementwise loss of prediction, target and timestep.
        batch_size: Rows of a micro-step on this process.
        num_processes: Processes that share the global batch.
        rank: This process's place among them.
        seed: The run's seed.
        resolution: Pixels of the training resolution; None means the model's own.
        gather: Collects a (B, …) tensor from all processes in rank order.
        counter: Counts UNet rows.
        data: Images, for methods that train on them.
        noise_changes: To plain noise, in the recipe's order.
        weighting: Which timesteps count how much; None counts all alike.
        keep_outside: Weight of holding what a mask leaves out where the base model has it.
    """

    container: ModelContainer
    student: nn.Module
    scale: AdapterScale
    concepts: Sequence[Concept]
    embeds: Mapping[str, PromptEmbeds]
    empty: PromptEmbeds
    make_noise_scheduler: Callable[[], Any]
    density: TimestepDensity
    loss: TimedLoss
    batch_size: int
    num_processes: int
    rank: int
    seed: int
    resolution: int | None
    gather: Callable[[Tensor], Tensor]
    counter: ForwardCounter
    data: TrainingData | None = None
    noise_changes: Sequence[NoiseChange] = ()
    weighting: Weighting | None = None
    keep_outside: float = 1.0

    def images(self) -> TrainingData:
        """Return the images of a method that cannot do without them."""
        if self.data is None:
            raise RecipeError("data: missing; this method trains on images")
        return self.data

    def diffusion(self) -> Diffusion:
        """Return the forward process that noises images."""
        return Diffusion(
            self.make_noise_scheduler().config,
            seed=self.seed,
            density=self.density,
            changes=self.noise_changes,
            weighting=self.weighting,
        )

    def predict_student(
        self,
        strengths: Tensor | float,
        inputs: Tensor,
        timesteps: Tensor,
        prompts: PromptEmbeds,
        framing: Framing | None = None,
    ) -> Tensor:
        """Return what the model predicts with the adapter, in float32 and with gradients.

        The strengths, (B,) or one for all rows, stay set: gradient checkpointing runs this forward
        again in backward.
        """
        self.scale.set(strengths)
        return self.counter.predict(
            self.container, inputs, timesteps, prompts, framing=framing, student=self.student
        ).float()

    @torch.no_grad()
    def predict_base(
        self,
        inputs: Tensor,
        timesteps: Tensor,
        prompts: PromptEmbeds,
        framing: Framing | None = None,
    ) -> Tensor:
        """Return what the model predicts without the adapter, in float32."""
        with self.scale.base():
            return self.counter.predict(
                self.container, inputs, timesteps, prompts, framing=framing
            ).float()

    def normalised(self, timesteps: Tensor) -> Tensor:
        """Return timesteps as losses have them: 0 is clean, and 1 is noise."""
        most = self.container.scheduler_config.get("num_train_timesteps", 1000) - 1
        return (timesteps.float() / most).clamp(0, 1)

    def condition(self, prompts: Sequence[str | None]) -> PromptEmbeds:
        """Return the embeddings of `prompts` as one batch; None is the unconditional prompt."""
        return PromptEmbeds.cat(
            [self.empty if prompt is None else self.embeds[prompt] for prompt in prompts]
        )

    def select(self, prompts: Sequence[str]) -> PromptEmbeds:
        """Return the embeddings of `prompts` as one batch."""
        return PromptEmbeds.cat([self.embeds[prompt] for prompt in prompts])

    def rollout_plan(self, options: TrajectoryOptions, *, adapter_scale: float) -> RolloutPlan:
        """Return what the trajectories of these concepts are made of.

        Args:
            options: Of the trajectories.
            adapter_scale: Strength of the adapter during rollouts; 0 is the base model.
        """
        return RolloutPlan(
            container=self.container,
            targets=[self.embeds[concept.target] for concept in self.concepts],
            empty=self.empty,
            make_scheduler=self.make_noise_scheduler,
            num_steps=options.rollout_steps,
            guidance_scale=options.rollout_guidance,
            latent_shape=self.container.latent_shape(self.resolution),
            batch_size=self.batch_size,
            num_processes=self.num_processes,
            rank=self.rank,
            seed=self.seed,
            density=self.density,
            rollout_adapter=(
                (lambda: self.scale(adapter_scale)) if adapter_scale else self.scale.base
            ),
            counter=self.counter,
            gather=self.gather,
        )
