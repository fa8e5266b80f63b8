"""The models that a recipe's measures read images with, by what the drop-ins say of themselves.

A measure that reads with a model says of which kind by a constant, `MODEL = "clip"`, and has the
options `model` and `revision`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from loba_tui.core.names import is_repository
from loba_tui.core.plugins import Plugins
from loba_tui.core.recipe.checks.choices import described
from loba_tui.core.recipe.schema import Recipe
from loba_tui.core.recipe.sections.method import Choice
from loba_tui.core.user_folders import with_home
from loba_tui.models import BUILTIN_PREFIX

MODEL_CONSTANT = "MODEL"


@dataclass(frozen=True)
class MeasureModel:
    """A model that a measure reads images with.

    Attributes:
        kind: clip, dino or lpips.
        id: builtin:NAME, a folder, or a hub id.
        revision: Commit of a hub model; None of the others.
        key: Of the measure in the recipe, for messages.
    """

    kind: str
    id: str
    revision: str | None = None
    key: str = "proof.measure"

    @property
    def is_on_hub(self) -> bool:
        """Whether the id is of the hub; a folder of that name comes first."""
        return is_hub_id(self.id)


def is_hub_id(model_id: str) -> bool:
    """Say whether a model's id is of the hub: it has that form, and no folder has its name."""
    return (
        not model_id.startswith(BUILTIN_PREFIX)
        and is_repository(model_id)
        and not with_home(model_id).exists()
    )


def measure_models(recipe: Recipe, plugins: Plugins) -> Iterator[MeasureModel]:
    """Yield the models of all measures that a recipe names, each once."""
    seen = set()
    for key, choice in chosen_measures(recipe):
        model = model_of(choice, plugins, key)
        if model is not None and (model.kind, model.id, model.revision) not in seen:
            seen.add((model.kind, model.id, model.revision))
            yield model


def chosen_measures(recipe: Recipe) -> Iterator[tuple[str, Choice]]:
    """Yield the measures that a recipe names, each with its key."""
    if recipe.proof.measure is not None:
        yield "proof.measure", recipe.proof.measure
    if recipe.save.best is not None and recipe.save.best.measure is not None:
        yield "save.best.measure", recipe.save.best.measure
    for index, choice in enumerate(recipe.proof.preserve):
        yield f"proof.preserve.{index}", choice


def model_of(choice: Choice, plugins: Plugins, key: str = "proof.measure") -> MeasureModel | None:
    """Return the model that a measure reads with; None where it needs none."""
    plugin = described("measures", choice.name, plugins)
    kind = plugin.constants.get(MODEL_CONSTANT) if plugin is not None else None
    model_id, revision = choice.options.get("model"), choice.options.get("revision")
    if not isinstance(kind, str) or not isinstance(model_id, str):
        return None
    return MeasureModel(kind, model_id, revision if isinstance(revision, str) else None, key)
