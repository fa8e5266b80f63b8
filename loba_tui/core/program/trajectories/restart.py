"""The reference algorithm of Concept Sliders: a fresh rollout from pure noise for every step.

Gandikota et al. 2023, https://arxiv.org/abs/2311.12092.
"""

from __future__ import annotations

import torch

from loba_tui.core.associate.device_copies import sent
from loba_tui.core.program import randomness
from loba_tui.core.program.trajectories.base import Draw, RolloutPlan, Trajectories, model_input


class RestartTrajectories(Trajectories):
    """A rollout from pure noise for every step, to a random point of the sampling grid.

    As in the reference, one micro-step has one concept and one timestep; rows differ in noise.
    """

    def __init__(self, plan: RolloutPlan) -> None:
        self._plan = plan

    @torch.no_grad()
    def draw(self, index: int, progress: float) -> Draw:
        """Roll a fresh batch out to one random timestep."""
        plan = self._plan
        scheduler = plan.new_scheduler()
        concept = randomness.integer(len(plan.targets), plan.seed, "concept", index)
        weights = plan.weights(scheduler, progress)
        if float(weights[1:].sum()) > 0:
            weights[0] = 0  # k ~ U{1..N−1}: pure noise itself is never trained on
        (stop,) = randomness.weighted_choice(weights, 1, plan.seed, "stop", index)

        rows = plan.my_rows()
        latents = torch.cat([plan.noise(scheduler, "noise", index, row) for row in rows])
        generators = [randomness.generator(plan.seed, "advance", index, row) for row in rows]
        prompts = plan.targets[concept].select([0] * len(rows))
        latents = plan.rolled_out(scheduler, latents, prompts, generators, num_steps=stop)
        timestep = scheduler.timesteps[stop]
        return Draw(
            inputs=model_input(scheduler, latents, timestep),
            timesteps=sent(timestep, latents.device).repeat(len(rows)),
            weights=torch.ones(len(rows), device=latents.device),
            concepts=[concept] * len(rows),
            rows=rows,
        )
