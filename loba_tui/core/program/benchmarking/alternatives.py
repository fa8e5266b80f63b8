"""Which configurations of a recipe are measured: as it stands, and what one would try instead."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from loba_tui.core.associate.model_shapes import ModelShapes
from loba_tui.core.errors import RecipeError
from loba_tui.core.plugins import Plugins
from loba_tui.core.program.changed_text import solves, trains_text
from loba_tui.core.program.planning.remedies import Change, as_keys, with_changes
from loba_tui.core.recipe.load import dump_recipe, parse_with, recipe_with
from loba_tui.core.recipe.schema import Recipe
from loba_tui.models import BUILTIN_PREFIX

NUM_ALTERNATIVES = 3
AS_IT_IS = "as the recipe says"
_MANY_STEPS = 1_000_000
_MOST_ROLLOUT_STEPS = 10
_BANK_ROLLOUT_STEPS = 4


@dataclass(frozen=True)
class Configuration:
    """A recipe to measure, by the changes that make it of the one that was given."""

    recipe: Recipe
    changes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The changes as recipe keys."""
        return as_keys(dict(self.changes)) or AS_IT_IS


def configurations(
    recipe: Recipe, tries: Sequence[Sequence[str]], plugins: Plugins, device_type: str
) -> list[Configuration]:
    """Return the recipe as it stands, and the alternatives that are wanted or else worth trying.

    Args:
        recipe: As it stands.
        tries: Assignments `KEY=VALUE` of each wanted alternative; none takes what is worth trying.
        plugins: The recipe's drop-ins.
        device_type: Of the device that is measured.

    Raises:
        RecipeError: A wanted change does not fit the recipe.
    """
    found = [Configuration(recipe)]
    for assignments in tries:
        changed, _ = parse_with(dump_recipe(recipe), "--try", assignments, plugins=plugins)
        texts = dict(each.split("=", 1) for each in assignments)
        change = {key: None if text == "null" else text for key, text in texts.items()}
        found.append(Configuration(changed, change))
    if tries:
        return found
    for change in worth_trying(recipe, plugins, device_type):
        found.append(Configuration(_changed(recipe, change, plugins), change))
        if len(found) > NUM_ALTERNATIVES:
            break
    return found


def worth_trying(recipe: Recipe, plugins: Plugins, device_type: str) -> Iterator[Change]:
    """Yield changes of a recipe, those first that are expected to gain most."""
    train, is_checkpointing = recipe.train, recipe.base_model.gradient_checkpointing is True
    size, pieces = train.micro_batch_size, train.gradient_accumulation
    # With a batch that is settled it says nothing that the others do not.
    unset: Change = {"train.effective_batch_size": None} if train.effective_batch_size else {}
    if is_checkpointing:
        yield {"base_model.gradient_checkpointing": False}
    if pieces > 1:
        yield {**unset, "train.batch_size": size * pieces, "train.gradient_accumulation": 1}
    if _trajectories(recipe, plugins) == "rolling":
        yield {"method.trajectories": "bank"}
    if train.compile == "none" and device_type == "cuda":  # elsewhere it takes minutes
        yield {"train.compile": "blocks"}
    if train.exactness == "exact":
        yield {"train.exactness": "fast"}
    yield {**unset, "train.batch_size": 2 * size}
    if not is_checkpointing:
        yield {"base_model.gradient_checkpointing": True}
    if size > 1:
        yield {**unset, "train.batch_size": size // 2}


def measurable(recipe: Recipe, plugins: Plugins) -> Recipe:
    """Return a recipe that steps as it does, without all that happens beside steps.

    What comes before the first step is shortened where later steps do not depend on it; drawn
    images that the package carries stand for the recipe's own.

    Raises:
        RecipeError: It has no steps, or trains what cannot be made of random numbers.
    """
    if solves(recipe, plugins):
        raise RecipeError(
            f"method.name: {recipe.method.name} computes its adapter, so there is no step to"
            " measure.",
            "Name a recipe that trains, as in: loba bench slider_unet",
        )
    if trains_text(recipe, plugins) and not recipe.base_model.id.startswith(BUILTIN_PREFIX):
        raise RecipeError(
            "adapter.text_encoders: text encoders with random weights cannot be measured.",
            "Leave them out: --set adapter.text_encoders=null",
        )
    change: Change = {
        "train.steps": _MANY_STEPS,
        "train.efficacy_every": 0,
        "train.stop_when": None,
        "save.every": 0,
        "save.best": None,
        "sample.every": 0,
        "sample.prompts": (),
        "proof.enabled": False,
        "proof.prompts": (),
        "proof.measure": None,
        "proof.preserve": (),
        "proof.calibrate": None,
        "proof.attacks": None,
        "proof.erased": None,
        "proof.others": {},
        "adapter.init_from": None,
    }
    recipe = with_changes(recipe, change).model_copy(update={"validation": None})
    return _with_drawn_images(recipe, plugins)


def shortened(recipe: Recipe, plugins: Plugins) -> Recipe:
    """Return a recipe whose first step comes sooner, and whose later steps are as they were."""
    trajectories = _trajectories(recipe, plugins)
    options = plugins.describe("methods", recipe.method.name).options
    most = {"rolling": _MOST_ROLLOUT_STEPS, "bank": _BANK_ROLLOUT_STEPS}.get(trajectories or "")
    if most is None:
        return recipe
    own = recipe.method.options.get("rollout_steps", options["rollout_steps"].default)
    change: Change = {"method.rollout_steps": min(own, most)}
    if trajectories == "bank":
        rows = recipe.train.micro_batch_size
        change |= {"method.bank_images": rows, "method.bank_samples": 2 * rows}
        if recipe.method.options.get("bank_samples") == 0:  # no predictions are kept
            del change["method.bank_samples"]
    return with_changes(recipe, change)


def on_embedded(recipe: Recipe, shapes: ModelShapes) -> Recipe:
    """Return the recipe on the embedded model of its kind, at that model's size."""
    is_flow = shapes.container.prediction_type == "flow"
    change: Change = {
        "base_model.id": f"{BUILTIN_PREFIX}{'shapes-z' if is_flow else 'shapes-xl'}",
        "base_model.dtype": "auto",
        "train.resolution": None,
        **dict.fromkeys(
            f"base_model.{key}"
            for key in ("revision", "variant", "vae", "config", "prediction_type", "zero_snr")
        ),
    }
    return with_changes(recipe, change)


def _trajectories(recipe: Recipe, plugins: Plugins) -> str | None:
    """Return where the method's latents come from; None for one that has none of its own."""
    option = plugins.describe("methods", recipe.method.name).options.get("trajectories")
    if option is None:
        return None
    return str(recipe.method.options.get("trajectories", option.default))


def _with_drawn_images(recipe: Recipe, plugins: Plugins) -> Recipe:
    data = recipe.data
    if data is None:
        return recipe
    first = data.sources[0]
    if plugins.describe("methods", recipe.method.name).constants.get("DATA") == "pairs":
        sources = [
            first.model_copy(update={"path": f"builtin:sizes/{name}", "scale": scale})
            for name, scale in (("small", -1.0), ("large", 1.0))
        ]
    elif first.masks is not None:
        masked = {"path": "builtin:masked-swap/images", "masks": "builtin:masked-swap/masks"}
        sources = [first.model_copy(update=masked)]
    else:
        sources = [first.model_copy(update={"path": "builtin:yellow-crosses"})]
    cache = "memory" if data.cache == "disk" else data.cache
    update = {"sources": tuple(sources), "cache": cache}
    return recipe.model_copy(update={"data": data.model_copy(update=update)})


def _changed(recipe: Recipe, change: Change, plugins: Plugins) -> Recipe:
    for key, value in change.items():
        recipe = recipe_with(recipe, key, value, plugins=plugins)
    return recipe
