"""The options that choose where noisy latents come from, and the source that they choose."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pydantic import NonNegativeInt, PositiveFloat, PositiveInt

from loba_tui.core.program.trajectories.bank import BankSize, BankTrajectories
from loba_tui.core.program.trajectories.base import RolloutPlan, Trajectories
from loba_tui.core.program.trajectories.restart import RestartTrajectories
from loba_tui.core.program.trajectories.rolling import RollingTrajectories


@dataclass(frozen=True, kw_only=True)
class TrajectoryOptions:
    """Options of methods that train on the model's own sampling trajectories.

    Attributes:
        trajectories: "rolling" keeps a pool of latents in flight; "bank" makes noisy latents and
            their teacher predictions once; "restart" is the reference, a fresh rollout every step.
        rollout_steps: Sampling steps N of a whole rollout.
        rollout_guidance: Classifier-free guidance of rollouts.
        slots: Latents in flight for "rolling"; null takes three per row of the global batch.
        bank_images: Images that "bank" is made of; null takes three per row of the global batch.
        bank_samples: Noisy latents that "bank" keeps; null takes 24 per row of the global batch,
            and 0 noises its images afresh for every step.
    """

    trajectories: Literal["rolling", "bank", "restart"] = "rolling"
    rollout_steps: PositiveInt = 20
    rollout_guidance: PositiveFloat = 3.0
    slots: PositiveInt | None = None
    bank_images: PositiveInt | None = None
    bank_samples: NonNegativeInt | None = None

    def over(self, plan: RolloutPlan) -> Trajectories:
        """Return the source of noisy latents."""
        batch_size = plan.global_batch_size
        match self.trajectories:
            case "restart":
                return RestartTrajectories(plan)
            case "bank":
                size = BankSize.of(
                    batch_size, num_images=self.bank_images, num_samples=self.bank_samples
                )
                return BankTrajectories(plan, size)
            case "rolling":
                return RollingTrajectories(plan, self.slots or 3 * batch_size)
