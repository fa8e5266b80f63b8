"""The part of a run's start that concerns its images: what it tells, and how it is stopped."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from loba_tui.core.associate.containers.prompt_truncation import tokenizer_of, truncated_tails
from loba_tui.core.associate.model_shapes import find_configuration, shapes_of
from loba_tui.core.associate.sources.overrides import Overrides
from loba_tui.core.plugins import Plugins
from loba_tui.core.program.data.buckets import Geometry
from loba_tui.core.program.data.items import BadFile
from loba_tui.core.program.data.prepare import PreparedData, Progress, prepare
from loba_tui.core.recipe.schema import Recipe
from loba_tui.core.run.writer import Records
from loba_tui.core.text import clean

BAD_DATA = "bad-data.txt"
"""The file in a run's folder that names everything that cannot be used."""
_MOST_IN_EVENT = 20


def open_data(
    recipe: Recipe, records: Records, on_phase: Callable[[str], None], plugins: Plugins
) -> PreparedData | None:
    """Open and check every image of a recipe, before its model is loaded; None if it has none.

    Args:
        on_phase: Told the phase again and again; raises where the run is to stop.

    Raises:
        DataError: Something cannot be used; the message lists all of it.
    """
    if recipe.data is None:
        return None
    described = plugins.describe("methods", recipe.method.name)

    def on_bad(bad: Sequence[BadFile]) -> None:
        lines = [f"{clean(each.name)}: {clean(each.problem)}" for each in bad]
        path = records.write_file(BAD_DATA, ("\n".join(lines) + "\n").encode())
        records.event("bad_data", count=len(bad), first=lines[:_MOST_IN_EVENT], path=path)

    data = prepare(
        recipe,
        geometry_of(recipe),
        paired=described.constants.get("DATA") == "pairs",
        progress=image_progress("checking data", records, on_phase),
        on_bad=on_bad,
    )
    records.event("data", **data.summary())
    return data


def geometry_of(recipe: Recipe) -> Geometry:
    """Return what the recipe's model says about sizes, from its configuration alone.

    Raises:
        RecipeError: There is no such model, or `train.resolution` does not fit it.
    """
    container = shapes_of(recipe).container
    container.latent_shape(recipe.train.resolution)
    return Geometry(recipe.train.resolution or container.resolution, container.pixel_multiple)


def cut_captions(recipe: Recipe, data: PreparedData) -> dict[str, str] | None:
    """Return of each caption that is longer than what the model reads the end that has no effect.

    None where the model's tokenizer is not on this machine yet.
    """
    settings = recipe.base_model
    if settings.long_prompts == "chunks":
        return {}
    source, origin = find_configuration(settings.id, settings.revision, Overrides.of(settings))
    tokenizer = None if origin == "assumed" else tokenizer_of(source.folder)
    return None if tokenizer is None else truncated_tails(tokenizer, data.all_prompts())


def image_progress(phase: str, records: Records, on_phase: Callable[[str], None]) -> Progress:
    """Return what tells how many images a phase is through with; `on_phase` as in `open_data`."""
    on_phase(phase)

    def progress(done: int, total: int) -> None:
        on_phase(phase)
        records.status(images=done, of_images=total)

    return progress
