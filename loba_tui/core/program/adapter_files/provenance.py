"""The origin of an adapter, as its file's metadata says it."""

from __future__ import annotations

import json

from loba_tui import __version__
from loba_tui.core import adapter_metadata as keys
from loba_tui.core.associate.containers.base import ModelContainer
from loba_tui.core.associate.machine import library_versions
from loba_tui.core.plugins import Plugins
from loba_tui.core.program.drop_ins import package_of, plugin_hashes
from loba_tui.core.recipe.data_paths import portable, portable_model_id
from loba_tui.core.recipe.load import dump_recipe
from loba_tui.core.recipe.schema import BaseModelSection, Recipe
from loba_tui.core.run.changes import ChangeRecord


def provenance(
    recipe: Recipe,
    container: ModelContainer,
    step: int,
    changes: ChangeRecord,
    plugins: Plugins,
    *,
    done: int,
) -> dict[str, str]:
    """Return what an adapter file says about its origin, as safetensors metadata.

    No times or paths: the same recipe and seed give the same bytes.

    Args:
        step: The step whose weights they are.
        done: Steps that the run has made; it has to make them all again to know which was best.
    """
    changed = changes.until(done).text()
    hashes = plugin_hashes(recipe, plugins)
    legs = changes.legs(done)
    quantized = quantized_by(recipe.base_model, plugins)
    return {
        **({keys.STEERING_KEY: changed} if changed else {}),
        **({keys.PLUGINS_KEY: json.dumps(hashes, sort_keys=True)} if hashes else {}),
        **({keys.LEGS_KEY: json.dumps(legs)} if len(legs) > 1 else {}),
        **({keys.QUANTIZED_KEY: quantized} if quantized else {}),
        keys.VERSION_KEY: __version__,
        keys.RECIPE_KEY: dump_recipe(portable(recipe)),
        keys.BASE_MODEL_KEY: portable_model_id(recipe.base_model.id),
        keys.BASE_REVISION_KEY: container.revision or "",
        keys.METHOD_KEY: recipe.method.name,
        keys.STEP_KEY: str(step),
        keys.SEED_KEY: str(recipe.train.seed),
    }


def quantized_by(settings: BaseModelSection, plugins: Plugins) -> str:
    """Return which quantizer and package a base model's weights are packed by; empty for none."""
    if settings.quantize is None:
        return ""
    package = package_of(settings.quantize, plugins)
    by = "" if package is None else f" ({package} {library_versions([package])[package]})"
    return settings.quantize.name + by
