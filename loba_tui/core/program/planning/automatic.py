"""Settles what a recipe leaves to `auto`: how many samples at once, and whether to checkpoint.

Every candidate makes the same steps; they differ in memory and time. The fastest that fits into
free memory is taken. The time is compared by a roofline (Williams, Waterman and Patterson,
"Roofline", https://doi.org/10.1145/1498765.1498785): a step takes as long as its arithmetic, or as
long as it takes to launch its operators, whichever is more. Smaller pieces launch them more often,
and checkpointing repeats the forward pass.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from types import MappingProxyType

from loba_tui.core.errors import LobaError, RecipeError
from loba_tui.core.program.planning.estimate import Estimator, needed_of
from loba_tui.core.program.planning.estimate_records import Estimate
from loba_tui.core.program.planning.remedies import Change, as_keys, with_changes
from loba_tui.core.recipe.schema import Recipe
from loba_tui.core.units import show_memory

logger = logging.getLogger(__name__)

_FLOPS_PER_LAUNCH = MappingProxyType({"cuda": 1e9})
"""Operations that a device does while one operator is launched, some 5 µs: those of a card at
about 200 TFLOP/s; by device type."""
_FLOPS_PER_LAUNCH_ELSEWHERE = 1e6
"""The same of a CPU, where arithmetic is what takes the time."""


@dataclass(frozen=True)
class Settled:
    """A recipe with numbers in the place of `auto`.

    Attributes:
        change: What was chosen, by key; empty where nothing was left to choose.
        reason: Why, as a sentence's end; empty likewise.
    """

    recipe: Recipe
    change: Change
    reason: str = ""

    def __str__(self) -> str:
        """Return what was chosen, and why."""
        return f"{as_keys(self.change)}: {self.reason}"


def leaves_choices(recipe: Recipe) -> bool:
    """Whether a recipe leaves something to be chosen when a run starts."""
    return "auto" in (recipe.train.batch_size, recipe.base_model.gradient_checkpointing)


def divide_global_batch(recipe: Recipe, num_data: int) -> Recipe:
    """Return the recipe with the samples of each process in the place of those of all.

    `train.global_batch_size` itself stays. Where `batch_size` is `auto`, it is still to be settled.

    Args:
        num_data: Processes, or groups of processes, that draw rows of their own.

    Raises:
        RecipeError: They cannot share it, or `batch_size` says something else.
    """
    train = recipe.train
    whole, pieces = train.global_batch_size, train.gradient_accumulation
    if whole is None:
        return recipe
    each, rest = divmod(whole, num_data * pieces)
    if isinstance(train.batch_size, int):
        if train.batch_size * pieces * num_data != whole:
            wanted = whole // (train.batch_size * pieces)
            raise RecipeError(
                f"train.global_batch_size is {whole}, and batch_size {train.batch_size} ×"
                f" gradient_accumulation {pieces} × {num_data} of data parallelism is"
                f" {train.batch_size * pieces * num_data}",
                f"Start {wanted} with --processes, or leave train.batch_size out.",
            )
        return recipe
    if rest:
        times = f" × gradient_accumulation {pieces}" if pieces > 1 else ""
        raise RecipeError(
            f"train.global_batch_size is {whole}, which {num_data} of data parallelism{times}"
            " do not divide",
            "Start a number of processes that divides it.",
        )
    if train.batch_size == "auto":
        return _with_train(recipe, effective_batch_size=each)
    return _with_train(recipe, batch_size=each)


def with_open_batch(recipe: Recipe, written: Recipe) -> Recipe:
    """Return a recipe as a run keeps it: a batch size that was worked out is left open again.

    So a run that is resumed by another number of processes still makes the same steps.
    """
    if written.train.batch_size is not None:
        return recipe
    return _with_train(recipe, batch_size=None)


def _with_train(recipe: Recipe, **values: object) -> Recipe:
    return recipe.model_copy(update={"train": recipe.train.model_copy(update=values)})


def settle(recipe: Recipe, estimator: Estimator, free_memory: int | None) -> Settled:
    """Return the recipe with its fastest batch size and checkpointing that fit.

    Where nothing fits, and where it is not known what is free or needed, it is what takes the
    least memory.

    Args:
        free_memory: Bytes that the run may take on its device; None where nothing says it.

    Raises:
        RecipeError: The recipe does not fit its model.
    """
    choices = [_Choice(*each) for each in _choices(recipe)]
    if len(choices) == 1:
        one = "a step has one sample" if leaves_choices(recipe) else ""
        return _settled(recipe, choices[0], one)
    if free_memory is None:
        reason = f"what is free on {estimator.device} is not known, and this takes the least"
        return _settled(recipe, choices[-1], reason)
    try:
        return _fastest_that_fits(recipe, choices, estimator, free_memory)
    except LobaError:
        raise
    except Exception:
        # A method that cannot be watched can still train.
        logger.warning("no estimate", exc_info=True)
        reason = "what this run will need is not known, and this takes the least"
        return _settled(recipe, choices[-1], reason)


@dataclass(frozen=True)
class _Choice:
    """How a step is cut into pieces, and whether its forward pass is repeated for the backward."""

    batch_size: int
    pieces: int
    checkpointing: bool

    def changes(self, recipe: Recipe) -> Change:
        """Return what this sets of what the recipe leaves open."""
        change: Change = {}
        if recipe.train.batch_size == "auto":
            change["train.batch_size"] = self.batch_size
            change["train.gradient_accumulation"] = self.pieces
            change["train.effective_batch_size"] = None
        if recipe.base_model.gradient_checkpointing == "auto":
            change["base_model.gradient_checkpointing"] = self.checkpointing
        return change

    def duration(self, whole: Estimate) -> float:
        """Return the time of a step, in launches of an operator.

        Args:
            whole: The estimate of a step in one piece, with what checkpointing the recipe fixes.
        """
        calls = whole.calls
        with_grad = calls.rows_per_step(with_grad=True)
        without = calls.rows_per_step(with_grad=False)
        # A backward pass is two forward passes; checkpointing makes it three.
        repeated = 1 + self.checkpointing * with_grad / max(1.0, 3 * with_grad + without)
        device = whole.device.partition(":")[0]
        in_a_launch = _FLOPS_PER_LAUNCH.get(device, _FLOPS_PER_LAUNCH_ELSEWHERE)
        launches = self.pieces * whole.work.operators_per_step
        return repeated * max(launches, whole.work.flops_per_step / in_a_launch)


def _choices(recipe: Recipe) -> Iterator[tuple[int, int, bool]]:
    """Yield batch size, pieces and checkpointing, from what takes the most memory on."""
    train, checkpointing = recipe.train, recipe.base_model.gradient_checkpointing
    samples = train.micro_batch_size
    sizes = [(samples, train.gradient_accumulation)]
    if train.batch_size == "auto":
        fitting = (size for size in range(samples, 0, -1) if samples % size == 0)
        sizes = [(size, samples // size) for size in fitting]
    for checkpoints in (False, True) if checkpointing == "auto" else (checkpointing,):
        for size, pieces in sizes:
            yield size, pieces, checkpoints


def _fastest_that_fits(
    recipe: Recipe, choices: list[_Choice], estimator: Estimator, free_memory: int
) -> Settled:
    # In one piece and without checkpointing it cannot be faster.
    whole = estimator.estimate(with_changes(recipe, choices[0].changes(recipe)))
    if not whole.calls.student_rows:
        return _settled(recipe, choices[0], "nothing is trained")

    def needs(choice: _Choice) -> int:
        estimate = estimator.estimate(with_changes(recipe, choice.changes(recipe)))
        return needed_of(estimate.memory.training, estimator.device)

    def told(needed: int) -> str:
        return f"a step needs {show_memory(needed)} of {show_memory(free_memory)} free"

    least = choices[-1]
    needed = needed_of(whole.memory.training, estimator.device)
    if needed <= free_memory:
        return _settled(recipe, choices[0], told(needed))
    if (needed := needs(least)) > free_memory:
        return _settled(recipe, least, f"the least there is, and {told(needed)}")
    too_large = [choices[0]]
    for choice in sorted(choices, key=lambda each: each.duration(whole)):
        if any(_takes_no_less(choice, other) for other in too_large):
            continue
        if (needed := needs(choice)) <= free_memory:
            return _settled(recipe, choice, told(needed))
        too_large.append(choice)
    raise AssertionError("the least fits, and was not met")


def _takes_no_less(choice: _Choice, other: _Choice) -> bool:
    is_as_large = choice.batch_size >= other.batch_size
    return is_as_large and choice.checkpointing <= other.checkpointing


def _settled(recipe: Recipe, choice: _Choice, reason: str) -> Settled:
    change = choice.changes(recipe)
    return Settled(with_changes(recipe, change), change, reason)
