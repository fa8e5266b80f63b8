"""Protocol of a training method, and the parts that it is given to work with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from loba_tui.core.associate.embeds import Framing, PromptEmbeds
from loba_tui.core.errors import RecipeError
from loba_tui.core.program.adapter_layers.strength import AdapterScale, NoScale
from loba_tui.core.program.adapter_layers.trained_text import TrainedText
from loba_tui.core.program.data.training_data import TrainingData
from loba_tui.core.program.objectives.timed_loss import TimedLoss
from loba_tui.core.program.trajectories.base import RolloutPlan, RunParts
from loba_tui.core.program.trajectories.forward_process import Diffusion, NoiseChange, Weighting
from loba_tui.core.program.trajectories.options import TrajectoryOptions
from loba_tui.core.recipe.sections.method import Concept


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


@runtime_checkable
class KeepsPreserve(Protocol):
    """A method whose preserve term can be weighted anew while it runs."""

    def change_preserve_weight(self, weight: float) -> None:
        """Take another weight from the next step on."""


@runtime_checkable
class ForgetsBad(Protocol):
    """A method that keeps latents, which a bad step can spoil for those that follow."""

    def forget_bad(self) -> None:
        """Drop what is not finite; called on every process after a step whose loss was not."""


@dataclass(frozen=True, kw_only=True)
class MethodParts(RunParts):
    """Finished objects that a method works with.

    Attributes:
        student: The denoiser as Accelerate prepared it: gradients flow through this one.
        scale: Strength of the adapter.
        concepts: The recipe's concepts, placeholders filled in.
        embeds: Text embeddings, one row each, of every prompt that the concepts name.
        loss: Elementwise loss of prediction, target and timestep.
        resolution: Pixels of the training resolution; None means the model's own.
        data: Images, for methods that train on them.
        noise_changes: To plain noise, in the recipe's order.
        weighting: Which timesteps count how much; None counts all alike.
        keep_outside: Weight of holding what a mask leaves out where the base model has it.
        text: Text encoders that are trained too; None where the denoiser alone is.
        num_timesteps: Images are noised to so many fixed timesteps in turn; None draws them.
    """

    student: nn.Module
    scale: AdapterScale | NoScale
    concepts: Sequence[Concept]
    embeds: Mapping[str, PromptEmbeds]
    loss: TimedLoss
    resolution: int | None
    data: TrainingData | None = None
    noise_changes: Sequence[NoiseChange] = ()
    weighting: Weighting | None = None
    keep_outside: float = 1.0
    text: TrainedText | None = None
    num_timesteps: int | None = None

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
            num_shares=self.num_timesteps,
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
        again in backward. Text encoders that are trained encode the prompts anew.
        """
        if self.text is not None:
            prompts = self.text.of_student(prompts, strengths)
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
        shared = {field.name: getattr(self, field.name) for field in fields(RunParts)}
        return RolloutPlan(
            **shared,
            targets=[self.embeds[concept.target] for concept in self.concepts],
            num_steps=options.rollout_steps,
            guidance_scale=options.rollout_guidance,
            latent_shape=self.container.latent_shape(self.resolution),
            rollout_adapter=(
                (lambda: self.scale(adapter_scale)) if adapter_scale else self.scale.base
            ),
        )
