"""Draws images at several adapter strengths through the diffusers pipeline call itself."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from loba_tui.core.associate.containers.base import ModelContainer
from loba_tui.core.associate.embeds import PromptEmbeds
from loba_tui.core.plugins import Plugins
from loba_tui.core.program.adapter_layers.strength import RowScale
from loba_tui.core.program.drop_ins import load_choice
from loba_tui.core.recipe.schema import SampleSection

Progress = Callable[[int, int], None]
"""Called with the number of images done and to do."""


@torch.no_grad()
def sample_scales(
    container: ModelContainer,
    scale: RowScale,
    embeds: PromptEmbeds | Sequence[PromptEmbeds],
    *,
    scales: Sequence[float],
    seeds: Sequence[int],
    settings: SampleSection,
    negative: PromptEmbeds | Sequence[PromptEmbeds] | None = None,
    resolution: int | None = None,
    progress: Progress | None = None,
    plugins: Plugins,
) -> np.ndarray:
    """Draw every prompt with every seed at every scale.

    A seed gives the same initial noise at every scale and for every prompt, the one that
    `pipe(prompt, generator=torch.Generator().manual_seed(seed))` starts from.

    Args:
        container: The model, with the adapter attached.
        embeds: One row a prompt; several where text encoders are adapted too, one for each scale.
        settings: Sampling steps, guidance, sampler and images at once; its prompts are not read.
        negative: One row for all prompts, or one for each scale; None takes the model's
            unconditional embeddings.
        resolution: Pixels; None takes the model's own.

    Returns:
        (num_prompts, num_seeds, num_scales, H, W, 3) float32 in [0, 1].
    """
    rows = _of_each_scale(embeds, scales)
    grid = (len(rows[0]), len(seeds), len(scales))
    jobs = list(itertools.product(*map(range, grid)))
    negatives = _of_each_scale(container.empty_embeds() if negative is None else negative, scales)
    images = []
    make_scheduler = load_choice("noise", settings.noise, plugins)
    container.require("vae")
    with _prepared(container, make_scheduler):
        for start in range(0, len(jobs), settings.batch_size):
            batch = jobs[start : start + settings.batch_size]
            multipliers = torch.tensor([float(scales[k]) for _, _, k in batch])
            with scale(multipliers):
                drawn = _call(
                    container,
                    _rows_of([(rows[k], p) for p, _, k in batch]),
                    _rows_of([(negatives[k], 0) for _, _, k in batch]),
                    [seeds[s] for _, s, _ in batch],
                    settings,
                    resolution or container.resolution,
                )
            images.append(drawn)
            if progress is not None:
                progress(start + len(batch), len(jobs))
    stacked = np.concatenate(images)
    return stacked.reshape(*grid, *stacked.shape[1:])


@torch.no_grad()
def sample_rows(
    container: ModelContainer,
    scale: RowScale,
    embeds: PromptEmbeds,
    *,
    strength: float,
    seeds: Sequence[int],
    settings: SampleSection,
    negative: PromptEmbeds,
    resolution: int | None = None,
    plugins: Plugins,
) -> np.ndarray:
    """Draw every prompt once, each with its own seed, at one strength.

    Args:
        embeds: One row a prompt.
        seeds: As many.
        negative: One row for all of them.

    Returns:
        (num_prompts, H, W, 3) float32 in [0, 1].
    """
    images = []
    make_scheduler = load_choice("noise", settings.noise, plugins)
    container.require("vae")
    with _prepared(container, make_scheduler), scale(strength):
        for start in range(0, len(embeds), settings.batch_size):
            rows = slice(start, start + settings.batch_size)
            own = list(seeds[rows])
            images.append(
                _call(
                    container,
                    embeds[rows],
                    negative.select([0] * len(own)),
                    own,
                    settings,
                    resolution or container.resolution,
                )
            )
    return np.concatenate(images)


def _of_each_scale(
    embeds: PromptEmbeds | Sequence[PromptEmbeds], scales: Sequence[float]
) -> list[PromptEmbeds]:
    return [embeds] * len(scales) if isinstance(embeds, PromptEmbeds) else list(embeds)


def _rows_of(places: Sequence[tuple[PromptEmbeds, int]]) -> PromptEmbeds:
    """Return one batch of these rows."""
    first = places[0][0]
    if all(embeds is first for embeds, _ in places):
        return first.select([row for _, row in places])
    return PromptEmbeds.cat([embeds[row] for embeds, row in places])


def _call(
    container: ModelContainer,
    embeds: PromptEmbeds,
    negative: PromptEmbeds,
    seeds: Sequence[int],
    settings: SampleSection,
    resolution: int,
) -> np.ndarray:
    """Return (B, H, W, 3) images of one call of the pipeline."""
    with container.prompts_read_once():
        images: np.ndarray = container.pipeline(
            **container.pipeline_inputs(embeds, negative, settings.guidance_scale),
            num_inference_steps=settings.steps,
            generator=[torch.Generator("cpu").manual_seed(seed) for seed in seeds],
            height=resolution,
            width=resolution,
            output_type="np",
        ).images
    return images.astype(np.float32)


@contextmanager
def _prepared(container: ModelContainer, make_scheduler: Callable[[Any], Any]) -> Iterator[None]:
    """Give the pipeline the wanted sampler, quiet and in evaluation mode, then restore it."""
    pipeline, denoiser = container.pipeline, container.denoiser
    scheduler = pipeline.scheduler
    bar = getattr(pipeline, "_progress_bar_config", None)
    was_training = denoiser.training
    pipeline.scheduler = make_scheduler(scheduler.config)
    pipeline.set_progress_bar_config(disable=True)
    denoiser.eval()  # an adapter's dropout is for training
    try:
        yield
    finally:
        denoiser.train(was_training)
        pipeline.scheduler = scheduler
        pipeline.set_progress_bar_config(**(bar or {}))
