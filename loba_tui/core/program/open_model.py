"""From a recipe's base model to a loaded one that knows every prompt it will be asked."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from loba_tui.core.associate.caches.tensors.latents import LatentCache
from loba_tui.core.associate.caches.tensors.prompt_embeds import PromptEmbedCache, has_all
from loba_tui.core.associate.containers.base import ModelContainer
from loba_tui.core.associate.containers.prompt_truncation import describe_truncation
from loba_tui.core.associate.embeds import PromptEmbeds
from loba_tui.core.plugins import Plugins
from loba_tui.core.program.adapter_files.text_encoders import AdaptedText, ScaledEmbeddings
from loba_tui.core.program.data.prepare import PreparedData, Progress
from loba_tui.core.program.pipeline_wrapper import PipelineWrapper
from loba_tui.core.recipe.schema import Recipe

logger = logging.getLogger(__name__)

Embeddings = Mapping[str, PromptEmbeds]
"""One row for each prompt, by the prompt's text."""


@dataclass(frozen=True)
class OpenModel:
    """A loaded base model, and the text embeddings of every prompt that will be needed.

    Attributes:
        open_latents: Returns what encodes images, each once; it reads the VAE's files to know it.
        data: Images to train on; None where there are none, or where only shapes are of interest.
        text: Text encoders that the run changes, at any strength; None where it changes the
            denoiser alone.
    """

    wrapper: PipelineWrapper
    container: ModelContainer
    embeds: Embeddings
    open_latents: Callable[[], LatentCache]
    data: PreparedData | None = None
    text: AdaptedText | None = None

    @property
    def drawn_embeds(self) -> Embeddings:
        """Embeddings that follow the adapter's strength, for what is drawn and measured."""
        return self.embeds if self.text is None else ScaledEmbeddings(self.embeds, self.text)


def batch_of(embeds: Embeddings, prompts: Sequence[str]) -> PromptEmbeds:
    """Return the embeddings of these prompts as one batch."""
    return PromptEmbeds.cat([embeds[prompt] for prompt in prompts])


def prompts_of(recipe: Recipe) -> list[str]:
    """Return every prompt that training, sampling and proof can ask for, each once."""
    prompts: list[str | None] = [recipe.sample.negative_prompt]
    for concept in recipe.method.expanded_concepts:
        prompts += [concept.target, concept.positive, concept.negative, concept.neutral]
        prompts += concept.preserve
    prompts += itertools.chain.from_iterable(recipe.method.watched_prompts.values())
    prompts += [*recipe.sample_prompts, *recipe.proof_prompts, *recipe.other_prompts]
    if recipe.method.options.get("keep_empty"):
        prompts.append("")
    if recipe.save.best is not None:
        prompts += recipe.save.best.prompts
    if recipe.validation is not None:
        for concept in recipe.validation.expanded_concepts:
            prompts += [concept.target, concept.positive, concept.negative, concept.neutral]
            prompts += concept.preserve
    if recipe.proof.calibrate is not None:
        prompts += recipe.proof.calibrate.prompts
    return list(dict.fromkeys(prompt for prompt in prompts if prompt is not None))


def open_model(
    recipe: Recipe,
    *,
    prompts: Sequence[str],
    plugins: Plugins,
    local_rank: int = 0,
    on_phase: Callable[[str], None] = lambda phase: None,
    on_fetch: Callable[[int, int], None] = lambda done, total: None,
    tensors: Path | None = None,
    on_problem: Callable[[str], None] = logger.warning,
    keep_text_encoders: bool = False,
) -> OpenModel:
    """Load the base model, encode all prompts, and drop the text encoders again.

    Args:
        prompts: Everything that will be asked for.
        on_phase: Told what is being done.
        on_fetch: Told how many bytes of a model came, and how many are to come.
        tensors: Where embeddings and latents are kept between runs; None keeps none.
        on_problem: Told what is wrong with what is kept, which costs time and nothing else; and of
            prompts that the model does not read to their ends.
        keep_text_encoders: Drop none of them, as they are to be trained.
    """
    settings = recipe.base_model
    on_phase("loading")
    wrapper = PipelineWrapper.of(settings, plugins, local_rank=local_rank, on_fetch=on_fetch)
    kept = wrapper.store(tensors, "embeds", on_problem=on_problem)
    container = wrapper.load(
        with_text_encoders=keep_text_encoders or not has_all(kept, prompts),
        denoiser_waits=True,
        trains_text_encoders=keep_text_encoders,
    )
    if ends := container.truncated_tails(prompts):
        on_problem(describe_truncation(ends, container.most_tokens))
    on_phase("encoding")
    embeds = PromptEmbedCache(container, kept)
    embeds.encode(prompts)
    unconditional = container.unconditional_prompt
    if unconditional is not None:
        container.adopt_empty(embeds.batch([unconditional]))
    if not keep_text_encoders:
        container.release_text_encoders()
    wrapper.place_denoiser(container)

    def open_latents() -> LatentCache:
        return LatentCache(container, wrapper.store(tensors, "latents", on_problem=on_problem))

    return OpenModel(wrapper, container, embeds, open_latents)


def with_images(
    recipe: Recipe,
    model: OpenModel,
    images: PreparedData | None,
    progress: Progress = lambda done, total: None,
) -> OpenModel:
    """Return a model with a run's images encoded, and its VAE at rest until pictures are drawn."""
    if images is not None:
        images.encode(model.container, model.open_latents, progress)
        model = replace(model, data=images)
    if recipe.data is None or recipe.data.cache != "none":
        model.wrapper.rest_vae()
    return model
