"""Version 0, the specification's flags as a flat mapping, turned into version 1.

The flags of `main.py` and the keys of a version 0 file are the same table, `V0_FLAGS`, and take the
same way.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from loba_tui.core.errors import RecipeError
from loba_tui.core.recipe.schema import RECIPE_VERSION, Recipe
from loba_tui.core.text import clean, did_you_mean


class Flag(NamedTuple):
    """A flag of version 0.

    Attributes:
        type: What its value is; list stands for a list of texts (a repeatable flag).
        path: Where it goes in version 1; empty where a recipe has no place for it.
    """

    type: type
    help: str
    path: tuple[str | int, ...]


_CONCEPT = ("method", "concepts", 0)

V0_FLAGS: Mapping[str, Flag] = MappingProxyType(
    {
        "name": Flag(str, "name of the run", ("name",)),
        "pretrained_model": Flag(
            str, "builtin:NAME, a local diffusers folder, or a hub id", ("base_model", "id")
        ),
        "revision": Flag(str, "hub branch, tag or commit", ("base_model", "revision")),
        "dtype": Flag(str, "auto, float32, bfloat16 or float16", ("base_model", "dtype")),
        "device": Flag(str, "auto, cpu, cuda, cuda:N or cuda:122", ("base_model", "device")),
        "method": Flag(str, "what is done to the model", ("method", "name")),
        "target": Flag(str, "prompt that the slider acts on", (*_CONCEPT, "target")),
        "positive": Flag(str, "prompt of the wanted end", (*_CONCEPT, "positive")),
        "negative": Flag(str, "prompt of the opposite end", (*_CONCEPT, "negative")),
        "neutral": Flag(str, "prompt in between; the target if absent", (*_CONCEPT, "neutral")),
        "guidance": Flag(float, "strength of the wanted direction", (*_CONCEPT, "guidance")),
        "preserve": Flag(list, "prompts that must stay as they are", (*_CONCEPT, "preserve")),
        "adapter": Flag(str, "kind of adapter", ("adapter", "name")),
        "rank": Flag(int, "rank of the adapter", ("adapter", "rank")),
        "alpha": Flag(float, "alpha of the adapter", ("adapter", "alpha")),
        "optimizer": Flag(str, "optimizer", ("optimizer", "name")),
        "lr": Flag(float, "learning rate", ("optimizer", "lr")),
        "weight_decay": Flag(float, "decoupled weight decay", ("optimizer", "weight_decay")),
        "scheduler": Flag(str, "learning-rate schedule", ("scheduler", "model", "name")),
        "layer_scheduler": Flag(str, "schedule over layers", ("scheduler", "layer", "name")),
        "noise_scheduler": Flag(str, "noise scheduler", ("scheduler", "noise", "name")),
        "timestep_scheduler": Flag(
            str, "which timesteps are trained on", ("scheduler", "timestep", "name")
        ),
        "loss": Flag(str, "loss", ("loss", "name")),
        "iterations": Flag(int, "optimizer steps", ("train", "steps")),
        "batch_size": Flag(int, "samples per step and process", ("train", "batch_size")),
        "gradient_accumulation": Flag(
            int, "batches per optimizer step", ("train", "gradient_accumulation")
        ),
        "seed": Flag(int, "seed of every random draw", ("train", "seed")),
        "resolution": Flag(int, "pixels; the model's own if absent", ("train", "resolution")),
        "sample_every": Flag(int, "steps between sample strips", ("sample", "every")),
        "save_every": Flag(int, "steps between checkpoints", ("save", "every")),
        "out_dir": Flag(str, "folder under which the run's folder is made", ()),
    }
)

DEFAULT_METHOD = "text_slider"
DEFAULT_CONCEPT: Mapping[str, str] = MappingProxyType(
    {"target": "a shape", "positive": "a large shape", "negative": "a small shape"}
)


def is_version_0(keys: Mapping[str, Any]) -> bool:
    """Say whether a mapping is a flat version 0 recipe.

    A file without `version` is one when it has a key that only version 0 knows, or gives a drop-in
    as bare text (`optimizer: adamw`).
    """
    if "version" in keys:
        version = keys["version"]
        return version == 0 and not isinstance(version, bool)
    return any(
        key in V0_FLAGS and (V0_FLAGS[key].path[:1] != (key,) or isinstance(value, str | int))
        for key, value in keys.items()
        if key != "name"
    )


def migrate_flags(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Return the version 1 mapping of version 0's flags.

    Flags that are None count as not given. `out_dir` has no place in a recipe and is left to the
    caller. Without a concept the default one is a size slider on shapes.

    Raises:
        RecipeError: A key is not a flag of version 0.
    """
    recipe: dict[str, Any] = {"version": RECIPE_VERSION}
    concept: dict[str, Any] = {}
    for key in flat:
        if key != "version" and key not in V0_FLAGS:
            raise RecipeError(
                f"{clean(key)} is not a flag of version 0", did_you_mean(key, V0_FLAGS)
            )
    # In the table's order, so that a migrated file reads like a written one.
    for key, (_, _, path) in V0_FLAGS.items():
        value = flat.get(key)
        if value is None:
            continue
        if path[: len(_CONCEPT)] == _CONCEPT:
            # One text is the usual way to write a list of one on a command line.
            concept[str(path[-1])] = (
                [value] if key == "preserve" and isinstance(value, str) else value
            )
        elif path:
            section = recipe
            for step in path[:-1]:
                section = section.setdefault(str(step), {})
            section[str(path[-1])] = value
    method = recipe.setdefault("method", {})
    method.setdefault("name", DEFAULT_METHOD)
    if concept or method["name"] == DEFAULT_METHOD:
        method["concepts"] = [concept or dict(DEFAULT_CONCEPT)]
    return {key: recipe[key] for key in Recipe.model_fields if key in recipe}
