"""A method's own loss on what is not trained on, the same for the same weights.

Noise and timesteps are fixed: those of the evaluation's own seed, each image or concept at every
timestep, and these are the middles of equal shares of what training draws from. So evaluations
differ by the weights alone, where a step's loss differs by its draw.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import nn

from loba_tui.core.plugins import Plugins
from loba_tui.core.program import randomness
from loba_tui.core.program.data.fixed_batches import FixedImages
from loba_tui.core.program.drop_ins import load_choice
from loba_tui.core.program.method import Method, MethodParts
from loba_tui.core.program.objectives.timed_loss import TimedLoss
from loba_tui.core.program.open_model import OpenModel
from loba_tui.core.program.spread import spread
from loba_tui.core.program.trajectories.predictions import ForwardCounter
from loba_tui.core.program.trajectories.timestep_density import over_run
from loba_tui.core.recipe.schema import Recipe
from loba_tui.core.recipe.sections.method import Concept
from loba_tui.core.recipe.sections.validation import ValidationSection


@dataclass(frozen=True)
class FixedLoss:
    """Micro-steps of a method that is never trained, and how many rows each of them has."""

    method: Method
    num_rows: Sequence[int]
    parts: MethodParts

    @property
    def num_unet_rows(self) -> int:
        """UNet rows that were computed so far, what is made once included."""
        return self.parts.counter.rows

    def summed(self, rank: int, num_processes: int, *, equally: bool = False) -> tuple[float, int]:
        """Return one process's share of the loss, summed over rows, and the number of its rows.

        Args:
            equally: Have all processes make equally many micro-steps, of which the ones that are
                too many are not counted.
        """
        total, count, num = 0.0, 0, len(self.num_rows)
        end = -(-num // num_processes) * num_processes if equally else num
        with torch.no_grad(), self._undisturbed():
            for index in range(rank, end, num_processes):
                loss = self.method.step(index % num, 0.0).loss
                if index < num:
                    total += float(loss) * self.num_rows[index]
                    count += self.num_rows[index]
        return total, count

    @contextmanager
    def _undisturbed(self) -> Iterator[None]:
        """Leave strength, modes and random numbers as they are: training must not notice."""
        parts = self.parts
        networks = [parts.container.denoiser]
        networks += parts.text.encoders.values() if parts.text is not None else ()
        training = [module for network in networks for module in _training(network)]
        device = parts.container.device
        devices = [device] if device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices), parts.scale(1.0):
            for module in training:
                module.training = False
            try:
                yield
            finally:
                for module in training:
                    module.training = True


def _training(network: nn.Module) -> list[nn.Module]:
    """Return the modules that are in training mode, in which dropout drops."""
    return [module for module in network.modules() if module.training]


def fixed_losses(
    recipe: Recipe, model: OpenModel, parts: MethodParts, plugins: Plugins
) -> tuple[FixedLoss, FixedLoss | None] | None:
    """Return the losses on what is held out and on as much that is trained on, if asked for.

    Args:
        parts: Of the method that trains.
    """
    validation = recipe.validation
    if validation is None:
        return None
    maker = _Maker(recipe, model, _apart(recipe, parts, validation, plugins), plugins)
    if validation.concepts:
        held_out = maker.on_concepts(validation.expanded_concepts)
        trained = recipe.method.expanded_concepts if validation.training_loss else ()
        return held_out, maker.on_concepts(trained) if trained else None
    assert model.data is not None
    assert model.data.held_out is not None
    compared = model.data.compared
    return (
        maker.on_images(model.data.held_out),
        None if compared is None else maker.on_images(compared),
    )


def _apart(
    recipe: Recipe, parts: MethodParts, validation: ValidationSection, plugins: Plugins
) -> MethodParts:
    """Return parts that share nothing with training but the model and its prompts."""
    return replace(
        parts,
        student=parts.container.denoiser,
        density=over_run(parts.density),
        loss=TimedLoss(load_choice("losses", recipe.loss, plugins)()),
        num_processes=1,
        rank=0,
        gather=lambda tensor: tensor,
        # Keyed apart from training, whose noise would be the same for the same seed.
        seed=randomness.generator(validation.seed, "validation").initial_seed(),
        data=None,
    )


@dataclass(frozen=True)
class _Maker:
    recipe: Recipe
    model: OpenModel
    parts: MethodParts
    plugins: Plugins

    def on_images(self, images: FixedImages) -> FixedLoss:
        assert self.model.data is not None
        batches = self.model.data.fixed_batches(self.model.container, images)
        parts = replace(self.parts, data=batches, num_timesteps=images.num_timesteps)
        return self._made(parts, images.num_rows, {})

    def on_concepts(self, concepts: Sequence[Concept]) -> FixedLoss:
        """Return the loss on a bank of the base's own images, one of each concept."""
        validation = self.recipe.validation
        assert validation is not None
        few = spread(concepts, validation.most)
        num_samples = len(few) * validation.timesteps
        # Every sample comes once where batches are all of one size.
        size = max(n for n in range(1, self.parts.batch_size + 1) if num_samples % n == 0)
        parts = replace(self.parts, concepts=few, batch_size=size)
        wanted = {
            "trajectories": "bank",
            "bank_images": len(few),
            "bank_samples": num_samples,
            "rollout_scale": 0.0,
        }
        options = self.plugins.describe("methods", self.recipe.method.name).options
        known = {name: value for name, value in wanted.items() if name in options}
        return self._made(parts, [size] * (num_samples // size), known)

    def _made(
        self, parts: MethodParts, num_rows: Sequence[int], options: dict[str, object]
    ) -> FixedLoss:
        parts = replace(parts, counter=ForwardCounter())
        choice = self.recipe.method.model_copy(update=options)
        method: Method = load_choice("methods", choice, self.plugins)(parts)
        return FixedLoss(method, num_rows, parts)
