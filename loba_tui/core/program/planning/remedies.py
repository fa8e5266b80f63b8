"""Changes that make a recipe fit: each is tried by estimating it anew."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from loba_tui.core.errors import LobaError, ResourceError
from loba_tui.core.program.planning.estimate import Estimator
from loba_tui.core.program.planning.estimate_records import Estimate
from loba_tui.core.program.planning.free_resources import FreeResources
from loba_tui.core.recipe.schema import Recipe
from loba_tui.core.units import show_memory

_WANTED = 3
_FORCE = "--force starts it all the same."

Change = dict[str, Any]
"""New values by dotted key."""


@dataclass(frozen=True)
class Remedy:
    """A change that makes a recipe fit."""

    change: Change
    estimate: Estimate

    @property
    def keys(self) -> str:
        """The change as recipe keys."""
        return as_keys(self.change)

    def __str__(self) -> str:
        """Return the change as recipe keys, and what it leads to."""
        return f"{self.keys} (then {show_memory(self.estimate.memory.needed)})"


def require_fit(
    estimator: Estimator, recipe: Recipe, estimate: Estimate, resources: FreeResources
) -> None:
    """Refuse a run that cannot fit.

    Raises:
        ResourceError: The estimate is above what is free in memory or on the disk, with the
            cheapest changes that would fit.
    """
    free = resources.memory_bytes
    if free is not None and estimate.memory.needed > free:
        memory = estimate.memory
        raise ResourceError(
            f"this run needs about {show_memory(memory.needed)} on {estimate.device}, most of it"
            f" while {memory.worst_phase}, and {show_memory(free)} are free",
            advice(memory_remedies(estimator, recipe, estimate, limit=free))
            + f" {_FORCE}{_assumption(recipe, estimate)}",
        )
    disk = resources.disk_bytes
    if disk is not None and estimate.disk.needed > disk:
        remedies = _search(
            estimator, recipe, _disk_changes(recipe), lambda found: found.disk.needed <= disk
        )
        named = "; or ".join(remedy.keys for remedy in remedies)
        raise ResourceError(
            f"this run writes about {show_memory(estimate.disk.needed)}, and"
            f" {show_memory(disk)} are free on that disk",
            (f"Cheapest first: {named}." if named else "Free some space, or take --out-dir.")
            + f" {_FORCE}",
        )


def _assumption(recipe: Recipe, estimate: Estimate) -> str:
    """Return what to do first where the figures are another model's."""
    if estimate.origin != "assumed":
        return ""
    model_id = recipe.base_model.id
    return (
        f" But {model_id} is not on this machine, so that it was taken for an SD-XL 1.0: after"
        f" `loba cache pull {model_id}` the figures are its own."
    )


def memory_remedies(
    estimator: Estimator, recipe: Recipe, estimate: Estimate, *, limit: int
) -> list[Remedy]:
    """Return up to three changes that fit into `limit` bytes, cheapest first.

    Cheap is what leaves the result as it is; then what costs little time; then the rest.
    """
    changes = _memory_changes(recipe, estimate)
    return _search(estimator, recipe, changes, lambda found: found.memory.needed <= limit)


def advice(remedies: Sequence[Remedy]) -> str:
    """Return remedies as one sentence."""
    if not remedies:
        return "No change of batch, precision, checkpointing or resolution alone would fit."
    return "Cheapest first: " + "; or ".join(str(remedy) for remedy in remedies) + "."


def _search(
    estimator: Estimator,
    recipe: Recipe,
    changes: Iterator[Change],
    fits: Callable[[Estimate], bool],
) -> list[Remedy]:
    found: list[Remedy] = []
    for change in changes:
        if any(_is_more_of(change, remedy.change) for remedy in found):
            continue  # it does more than is needed
        try:
            estimate = estimator.estimate(with_changes(recipe, change))
        except LobaError:  # such as a resolution that the model cannot have
            continue
        if fits(estimate):
            found.append(Remedy(change, estimate))
            if len(found) == _WANTED:
                break
    return found


def _is_more_of(change: Change, known: Change) -> bool:
    """Whether a change is a known one and something else, or the same keys once more."""
    return known.items() <= change.items() or known.keys() == change.keys()


def _memory_changes(recipe: Recipe, estimate: Estimate) -> Iterator[Change]:
    """Yield changes from the cheapest on: singly first, then together."""
    train, base, sample = recipe.train, recipe.base_model, recipe.sample
    batch_size = train.micro_batch_size
    on_cpu = estimate.device == "cpu"
    drawing: dict[str, Any] = {}
    if estimate.memory.worst_phase == "sampling":
        # The only thing that is too much are pictures: training is left alone.
        if not base.vae_slicing and sample.batch_size > 1:
            yield {"base_model.vae_slicing": True}
        if not base.vae_tiling:
            yield {"base_model.vae_tiling": True}
        for size in _halves(sample.batch_size):
            drawing = {"sample.batch_size": size}
            yield drawing
    elif sample.batch_size > 1:
        drawing = {"sample.batch_size": 1}
    lower = {"base_model.dtype": "bfloat16"} if estimate.dtype == "float32" and not on_cpu else {}
    recompute = {} if base.gradient_checkpointing else {"base_model.gradient_checkpointing": True}
    offload: Change = {}
    blocks: Change = {}
    if base.offload == "none" and not on_cpu:
        offload, blocks = {"base_model.offload": "model"}, {"base_model.offload": "blocks"}
    # The same global batch in smaller pieces: the result stays, a step takes a little longer.
    batches = [
        {
            "train.batch_size": size,
            "train.gradient_accumulation": train.gradient_accumulation * batch_size // size,
        }
        for size in _halves(batch_size)
        if batch_size % size == 0
    ]
    singly: list[Change] = [lower, *batches, recompute, offload, blocks]
    smallest = batches[-1] if batches else {}
    smaller = {"train.resolution": estimate.resolution // 2}
    together: list[Change] = [
        {**lower, **recompute},
        {**smallest, **recompute},
        {**lower, **smallest, **recompute},
        {**drawing, **lower, **smallest, **recompute},
        {**drawing, **lower, **smallest, **recompute, **offload},
        {**drawing, **lower, **smallest, **recompute, **blocks},
        smaller,
        {**drawing, **lower, **smallest, **recompute, **blocks, **smaller},
    ]
    seen: list[Change] = []
    for change in [*singly, *together]:
        if change and change not in seen:
            seen.append(change)
            yield change


def _disk_changes(recipe: Recipe) -> Iterator[Change]:
    save, sample = recipe.save, recipe.sample
    changes: list[Change] = []
    if save.keep > 2:
        changes.append({"save.keep": 2})
    if sample.every:
        changes.append({"sample.every": 0})
    if save.every:
        changes.append({"save.every": 0})
    yield from changes
    if len(changes) > 1:
        yield {key: value for change in changes for key, value in change.items()}


def as_keys(change: Change) -> str:
    """Return changes as recipe keys; a key that is unset goes without saying."""
    return ", ".join(f"{key}: {_yaml(value)}" for key, value in change.items() if value is not None)


def with_changes(recipe: Recipe, change: Change) -> Recipe:
    """Return the recipe with new values at dotted keys, such as `train.batch_size`."""
    sections: dict[str, dict[str, Any]] = {}
    for key, value in change.items():
        section, _, name = key.partition(".")
        sections.setdefault(section, {})[name] = value
    return recipe.model_copy(
        update={
            section: getattr(recipe, section).model_copy(update=values)
            for section, values in sections.items()
        }
    )


def _halves(number: int) -> list[int]:
    """Return a half, a quarter and so on, down to 1."""
    found = []
    while number > 1:
        number //= 2
        found.append(number)
    return found


def _yaml(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
