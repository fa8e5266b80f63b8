"""Which text encoders a recipe changes, and how: a LoRA that is trained, or what is computed."""

from __future__ import annotations

from loba_tui.core.associate.containers.base import ModelContainer
from loba_tui.core.plugins import Plugins
from loba_tui.core.program.adapter_files.text_encoders import AdaptedText
from loba_tui.core.program.adapter_layers.text_encoders import attach_text_adapters
from loba_tui.core.program.adapter_layers.trained_text import TrainedText
from loba_tui.core.program.closed_form.solved_text import SolvedText
from loba_tui.core.program.open_model import OpenModel
from loba_tui.core.recipe.schema import AdapterSection, Recipe, TextEncodersSection


def solves(recipe: Recipe, plugins: Plugins) -> bool:
    """Say whether the recipe's method computes its adapter, so that there is nothing to train."""
    plugin = plugins.describe("methods", recipe.method.name)
    return bool(plugin.constants.get("SOLVES"))


def changes_text_alone(recipe: Recipe, plugins: Plugins) -> bool:
    """Say whether the recipe's method changes text encoders, and nothing of the denoiser."""
    return bool(plugins.describe("methods", recipe.method.name).constants.get("TEXT_ONLY"))


def trains_text(recipe: Recipe, plugins: Plugins) -> bool:
    """Say whether text encoders are trained, beside the denoiser or alone."""
    is_alone = changes_text_alone(recipe, plugins) and not solves(recipe, plugins)
    return is_alone or recipe.adapter.text_encoders is not None


def attach_trained_text(recipe: Recipe, container: ModelContainer, plugins: Plugins) -> TrainedText:
    """Attach LoRAs to the text encoders, those that the recipe asks for or usual ones."""
    section = recipe.adapter
    own = section.text_encoders or TextEncodersSection()
    if section.text_encoders is None:
        section = AdapterSection(**{**section.model_dump(), "text_encoders": own})
    encoders = attach_text_adapters(section, container, recipe.train.seed)
    return TrainedText(container, encoders, is_held=own.lr == 0)


def changed_text(recipe: Recipe, model: OpenModel, plugins: Plugins) -> AdaptedText | None:
    """Return the text encoders that a run changes, with their LoRAs; None where it changes none."""
    if trains_text(recipe, plugins):
        return attach_trained_text(recipe, model.container, plugins)
    if changes_text_alone(recipe, plugins):
        return SolvedText(model.container)
    return None
