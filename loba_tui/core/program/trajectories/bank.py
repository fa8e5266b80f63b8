"""A bank of noisy latents and of the frozen base's predictions for them, made once for a whole run.

The base draws some images, each is noised to several timesteps, and what the base predicts there is
kept: a training step then costs the student alone. Latents of the base's own rollouts instead of
the student's are accepted practice, and `benchmarks/slider_trajectories.py` measures what comes of
it. Timesteps and concepts are mixed within each batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from loba_tui.core.associate.device_copies import rows_of, sent
from loba_tui.core.associate.embeds import PromptEmbeds
from loba_tui.core.errors import NumericsError, RecipeError
from loba_tui.core.program import randomness
from loba_tui.core.program.trajectories.base import (
    Draw,
    RolloutPlan,
    Teachers,
    Trajectories,
)
from loba_tui.core.program.trajectories.forward_process import NoiseLevels
from loba_tui.core.program.trajectories.timestep_density import over_run

_MOST_BYTES_ON_DEVICE = 256 * 2**20


@dataclass(frozen=True)
class BankSize:
    """Size of a bank.

    Attributes:
        num_images: Images that the base draws, spread evenly over the concepts.
        num_samples: Noisy latents that are kept with their predictions; 0 noises the images afresh
            for every step, and keeps no predictions.
        chunk: Images or samples that are made at once.
    """

    num_images: int
    num_samples: int
    chunk: int

    @classmethod
    def of(
        cls, batch_size: int, *, num_images: int | None = None, num_samples: int | None = None
    ) -> BankSize:
        """Return the size for batches of this many rows; None takes three and 24 for each row."""
        return cls(
            num_images=3 * batch_size if num_images is None else num_images,
            num_samples=24 * batch_size if num_samples is None else num_samples,
            chunk=2 * batch_size,
        )


class BankTrajectories(Trajectories):
    """Noisy latents of the base's own images; everything follows from the seed alone.

    So nothing of it goes into a checkpoint: a resumed run makes the very same bank again, which
    costs what the first one did, and is not counted a second time.
    """

    def __init__(self, plan: RolloutPlan, size: BankSize) -> None:
        if size.num_samples and size.num_samples < plan.global_batch_size:
            raise RecipeError(
                f"method.bank_samples: {size.num_samples} are fewer than the"
                f" {plan.global_batch_size} rows of one step",
                "Raise it, or set it to 0 to noise the images afresh for every step.",
            )
        self._plan = plan
        self._size = size
        self._levels = NoiseLevels(plan.make_noise_scheduler())
        self._images: Tensor | None = None
        self._samples: Draw | None = None
        self._sample_levels = torch.empty(0, dtype=torch.int64)
        self._teachers: dict[str, Tensor] = {}
        self._is_counted = True

    def draw(self, index: int, progress: float) -> Draw:
        """Return kept samples, or images noised afresh, for this process's rows."""
        plan, rows = self._plan, self._plan.my_rows()
        if not self._size.num_samples:
            keys = [index * plan.global_batch_size + row for row in rows]
            places = [_in_turn(self._size.num_images, plan.seed, "image", key) for key in keys]
            return replace(self._noised(places, keys, progress, plan.global_batch_size), rows=rows)
        self._make_samples()
        assert self._samples is not None
        numbers = [self._sample_of(index, row) for row in rows]
        return replace(self._picked(numbers, progress), rows=rows)

    def teachers(self, draw: Draw, predict: Teachers) -> dict[str, Tensor]:
        """Return what the base predicts: looked up where samples are kept, else computed."""
        if not draw.samples:
            return predict(draw)
        if not self._teachers:
            self._teachers = self._uncounted(lambda: self._predicted(predict))
        device = draw.inputs.device
        return {
            role: sent(rows_of(kept, draw.samples), device) for role, kept in self._teachers.items()
        }

    def state(self) -> dict[str, Tensor]:
        """Return whether the bank was made; what is in it follows from the seed."""
        return {"is_made": torch.tensor(int(self._images is not None))}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take a state back; a bank that is made anew is not counted again."""
        self._is_counted = not bool(state["is_made"])

    def _uncounted(self, work: Callable[[], Any]) -> Any:
        """Do a part of the making; leave the counter alone where it has that part already."""
        before = self._plan.counter.rows
        made = work()
        if not self._is_counted:
            self._plan.counter.rows = before
        return made

    @torch.no_grad()
    def _clean(self) -> Tensor:
        """Return the base's images as latents (num_images, C, H, W), on the CPU."""
        if self._images is None:
            numbers = list(range(self._size.num_images))
            self._images = self._uncounted(lambda: self._everywhere(numbers, self._rolled_out))
        return self._images

    def _everywhere(
        self, numbers: Sequence[int], make: Callable[[Sequence[int]], Tensor]
    ) -> Tensor:
        """Make something for each number, chunk by chunk, the processes sharing the work."""
        plan = self._plan
        share = -(-len(numbers) // plan.num_processes)
        # All processes make equally many, or they could not be gathered.
        padded = [numbers[i % len(numbers)] for i in range(share * plan.num_processes)]
        mine = padded[plan.rank * share : (plan.rank + 1) * share]
        chunk = self._size.chunk
        made = torch.cat([make(mine[at : at + chunk]) for at in range(0, share, chunk)])
        return plan.gather(made)[: len(numbers)].cpu()

    def _rolled_out(self, numbers: Sequence[int]) -> Tensor:
        """Return whole rollouts of the base, (len(numbers), C, H, W)."""
        plan, scheduler = self._plan, self._plan.new_scheduler()
        latents = torch.cat([plan.noise(scheduler, "bank", number) for number in numbers])
        generators = [randomness.generator(plan.seed, "bank steps", number) for number in numbers]
        prompts = PromptEmbeds.cat([plan.targets[self._concept_of(number)] for number in numbers])
        latents = plan.rolled_out(scheduler, latents, prompts, generators)
        if not bool(latents.isfinite().all()):
            raise NumericsError(
                "the base model draws images that are not finite",
                "Use base_model.dtype: bfloat16 or float32.",
            )
        return latents

    def _concept_of(self, image: int) -> int:
        return _in_turn(len(self._plan.targets), self._plan.seed, "concept", image)

    def _noised(
        self, places: Sequence[int], keys: Sequence[int], progress: float | None, count: int
    ) -> Draw:
        """Return images noised to random timesteps, one of each of `count` equal shares of them.

        Args:
            places: Which images, one a row.
            keys: What a row's noise and timestep are drawn by.
            progress: Of the run; None where the rows are kept for all of it.
            count: How many shares the timesteps' distribution is cut into.
        """
        plan, seed = self._plan, self._plan.seed
        density = self._density(progress)
        quantiles = [
            (_in_turn(count, seed, "share", key) + self._fraction(key)) / count for key in keys
        ]
        levels = torch.searchsorted(density.cumsum(0) / density.sum(), torch.tensor(quantiles))
        levels = levels.clamp(max=len(density) - 1)
        noise = torch.cat(
            [randomness.normal((1, *plan.latent_shape), seed, "bank noise", key) for key in keys]
        )
        inputs, labels = self._levels.noised(self._clean()[list(places)], noise, levels)
        device = plan.container.device
        return Draw(
            inputs=sent(inputs, device),
            timesteps=sent(labels, device),
            weights=torch.ones(len(places), device=device),
            concepts=[self._concept_of(place) for place in places],
            rows=[],
        )

    def _fraction(self, key: int) -> float:
        drawn = torch.rand((), generator=randomness.generator(self._plan.seed, "bank time", key))
        return float(drawn)

    def _density(self, progress: float | None) -> Tensor:
        """Return the density over all noise levels (L,), of the whole run for None.

        A density may change over the run, and where the samples lie cannot: they follow its mean.
        """
        if progress is None:
            total = over_run(self._plan.density)(self._levels.grid, 0.0)
        else:
            total = self._plan.density(self._levels.grid, progress).double()
            total = total / total.sum().clamp_min(1e-300)
        if not float(total.sum()) > 0:
            raise RecipeError("scheduler.timestep: its density is 0 at all timesteps", "Widen it.")
        return total

    def _make_samples(self) -> None:
        if self._samples is None:
            numbers = range(self._size.num_samples)
            places = [number % self._size.num_images for number in numbers]
            keys = [-1 - number for number in numbers]
            self._samples = self._noised(places, keys, None, len(numbers))
            self._sample_levels = self._levels.at(self._samples.timesteps.cpu())

    def _sample_of(self, index: int, row: int) -> int:
        """Return the sample of a row: samples fall into classes, and each row takes one of each.

        What is decided by a sample's class, as whether it trains a preserve prompt, so comes
        equally often in every batch; within its class every sample comes once before any comes
        again.
        """
        num_rows = self._plan.global_batch_size
        place = (row + index) % num_rows
        num_in_class = len(range(place, self._size.num_samples, num_rows))
        return place + num_rows * _in_turn(num_in_class, self._plan.seed, f"class {place}", index)

    def _picked(self, numbers: list[int], progress: float | None) -> Draw:
        """Return kept samples as a draw; the density of this moment weighs them."""
        samples = self._samples
        assert samples is not None
        weights = torch.ones(len(numbers), device=samples.inputs.device)
        if progress is not None:
            levels = self._sample_levels[numbers]
            kept, now = self._density(None)[levels], self._density(progress)[levels]
            own = torch.where(kept > 0, now / kept.clamp_min(1e-300), 0.0)
            weights = sent(own, weights.device, weights.dtype)
        return Draw(
            inputs=rows_of(samples.inputs, numbers),
            timesteps=rows_of(samples.timesteps, numbers),
            weights=weights,
            concepts=[samples.concepts[number] for number in numbers],
            rows=list(numbers),
            samples=list(numbers),
        )

    @torch.no_grad()
    def _predicted(self, predict: Teachers) -> dict[str, Tensor]:
        """Return all samples' predictions by role, (num_samples, C, H, W)."""
        roles: list[str] = []

        def make(numbers: Sequence[int]) -> Tensor:
            found = predict(self._picked(list(numbers), None))
            roles[:] = list(found)
            return torch.stack(list(found.values()), dim=1)

        made = self._everywhere(range(self._size.num_samples), make)
        if not bool(made.isfinite().all()):
            raise NumericsError(
                "the base model's predictions are not finite",
                "Use base_model.dtype: bfloat16 or float32.",
            )
        if made.numel() * made.element_size() <= _MOST_BYTES_ON_DEVICE:
            made = made.to(self._plan.container.device)
        return dict(zip(roles, made.unbind(1), strict=True))


def _in_turn(count: int, seed: int, use: str, number: int) -> int:
    """Return one of `count` things: each comes once in a random order, then all anew."""
    order = torch.randperm(
        count, generator=randomness.generator(seed, "turn", use, number // count)
    )
    return int(order[number % count])
