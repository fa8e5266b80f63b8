"""The efficacy of a recipe's adapter: its own concepts on held-out latents."""

from __future__ import annotations

from loba_tui.core.associate.containers.base import ModelContainer
from loba_tui.core.associate.embeds import PromptEmbeds
from loba_tui.core.plugins import SHIPPED, Plugins
from loba_tui.core.program.adapter_files.text_encoders import ScaledEmbeddings
from loba_tui.core.program.adapter_layers.strength import RowScale
from loba_tui.core.program.evaluation.efficacy.eraser import EraserEfficacy, eraser_efficacy
from loba_tui.core.program.evaluation.efficacy.probe import EfficacyProbe, ProbePrompts
from loba_tui.core.program.evaluation.efficacy.slider import SliderEfficacy, slider_efficacy
from loba_tui.core.program.open_model import Embeddings, batch_of
from loba_tui.core.program.spread import spread
from loba_tui.core.program.trajectories.held_out import HeldOut, roll_out
from loba_tui.core.program.trajectories.noise_schedulers import noiseless_sampler
from loba_tui.core.recipe.schema import Recipe

MAX_EFFICACY_CONCEPTS = 8


def make_probe(
    container: ModelContainer,
    scale: RowScale,
    recipe: Recipe,
    embeds: Embeddings,
    *,
    erases: bool = False,
    most: int = MAX_EFFICACY_CONCEPTS,
) -> EfficacyProbe | None:
    """Return what efficacy is read off, None for a slider where no concept says both directions.

    Args:
        erases: Whether the adapter is to move concepts to what takes their place; a slider's goes
            from negative to positive prompts.
        most: Concepts and preserve prompts that are looked at, evenly spread over all of them.
    """
    concepts = list(recipe.method.expanded_concepts)
    if not erases:
        concepts = [concept for concept in concepts if concept.positive and concept.negative]
    if not concepts:
        return None
    preserve = spread(list(dict.fromkeys(p for c in concepts for p in c.preserve)), most)
    concepts = spread(concepts, most)
    targets = [concept.target for concept in concepts]
    target = batch_of(embeds, targets)
    if erases:
        empty = container.empty_embeds()
        neutrals = [concept.neutral for concept in concepts]
        towards = PromptEmbeds.cat([empty if p is None else embeds[p] for p in neutrals])
        away = None
    else:
        towards = batch_of(embeds, [concept.positive or "" for concept in concepts])
        away = batch_of(embeds, [concept.negative or "" for concept in concepts])
    kept = batch_of(embeds, preserve) if preserve else None

    at = None
    if isinstance(embeds, ScaledEmbeddings):
        scaled = embeds

        def at(strength: float) -> tuple[PromptEmbeds, PromptEmbeds | None]:
            found = scaled.at(strength, [*targets, *preserve])
            return batch_of(found, targets), batch_of(found, preserve) if preserve else None

    return EfficacyProbe(
        container,
        scale,
        roll_out_held(container, scale, recipe, target),
        ProbePrompts(target, towards, away, kept, at),
    )


def measure_efficacy(
    container: ModelContainer, scale: RowScale, recipe: Recipe, embeds: Embeddings, plugins: Plugins
) -> SliderEfficacy | EraserEfficacy | None:
    """Return the efficacy of an eraser or of a slider.

    None for a slider where no concept says positive and negative.
    """
    constants = plugins.describe("methods", recipe.method.name).constants
    erases = bool(constants.get("ERASES"))
    probe = make_probe(container, scale, recipe, embeds, erases=erases)
    if probe is None:
        return None
    return eraser_efficacy(probe) if erases else slider_efficacy(probe)


def roll_out_held(
    container: ModelContainer, scale: RowScale, recipe: Recipe, target: PromptEmbeds
) -> HeldOut:
    """Return noisy latents of the base's own rollouts, of a seed that is not trained with.

    The adapter is off for it. `target` has one row a prompt.
    """
    config = container.scheduler_config
    make = SHIPPED.load("noise", noiseless_sampler(config))
    return roll_out(
        container,
        scale,
        target,
        make_scheduler=lambda: make(config),
        seed=recipe.proof.seeds[0],
        resolution=recipe.train.resolution,
    )
