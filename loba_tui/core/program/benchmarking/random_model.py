"""A model at its true size with random weights: as much work as the real one, and no download."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from loba_tui.core.associate.caches.tensors.latents import LatentCache
from loba_tui.core.associate.containers.base import ModelContainer
from loba_tui.core.associate.embeds import PromptEmbeds
from loba_tui.core.associate.model_shapes import open_shapes
from loba_tui.core.associate.quantized import DENOISERS
from loba_tui.core.associate.sources.overrides import Overrides
from loba_tui.core.plugins import Plugins
from loba_tui.core.program.open_model import OpenModel
from loba_tui.core.program.pipeline_wrapper import PipelineWrapper
from loba_tui.core.recipe.schema import Recipe

_DIFFERENT_PROMPTS = 8


def open_random(recipe: Recipe, prompts: Sequence[str], plugins: Plugins) -> OpenModel:
    """Return a recipe's model with random weights, held as the recipe asks for.

    Text encoders are left out: prompts have random embeddings of the right shape.
    """
    settings = recipe.base_model
    # Its own count of threads stands beside weights that are not here.
    threads = settings.threads or torch.get_num_threads()
    wrapper = PipelineWrapper.of(settings.model_copy(update={"threads": threads}), plugins)
    cache = wrapper.cache
    shapes = open_shapes(settings.id, settings.revision, cache.dtype, Overrides.of(settings))
    pipeline = shapes.container.pipeline
    pipeline.register_modules(**dict.fromkeys(shapes.container.text_encoders))
    source = torch.Generator().manual_seed(recipe.train.seed)
    for name, module in shapes.modules().items():
        is_packed = wrapper.quantization is not None and name in DENOISERS
        waits = settings.offload in ("model", "sequential") or is_packed
        waits = waits or (settings.offload == "blocks" and name in DENOISERS)
        fill(module, torch.device("cpu") if waits else cache.device, source, drawn_on=cache.device)
        if wrapper.quantization is not None:
            wrapper.quantization(name, module)
    cache.put(settings.id, pipeline)
    container = wrapper.load()
    embeds = random_embeds(container, prompts, source)
    empty = _random_row(container, source)
    container.adopt_empty(_as_long_as("", empty, container))
    return OpenModel(wrapper, container, embeds, lambda: LatentCache(container, None))


def fill(
    module: nn.Module, device: torch.device, source: torch.Generator, *, drawn_on: torch.device
) -> None:
    """Give a network of shapes random weights of a scale at which its output stays finite.

    A weight of n inputs is normal with a deviation of 1/√n; norms are 1 and biases 0.

    Args:
        module: Its tensors are on the meta device.
        device: Where they are to be.
        source: Of the numbers.
        drawn_on: What draws them, one weight after the other: a CPU takes minutes for billions.
    """
    module.to_empty(device=device)
    seed = int(torch.randint(2**31, (), generator=source))
    generator = torch.Generator(drawn_on).manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if parameter.ndim > 1:
                drawn = torch.empty_like(parameter, device=drawn_on)
                inputs = max(1, parameter.numel() // parameter.shape[0])
                parameter.copy_(drawn.normal_(0.0, 1 / math.sqrt(inputs), generator=generator))
            else:
                parameter.fill_(float(name.endswith("weight")))
        for buffer in module.buffers():
            buffer.fill_(1 if buffer.is_floating_point() or buffer.is_complex() else 0)
    for part in module.modules():
        # Tensors that a network holds as plain attributes, such as rotations: `to` passes them by.
        for name, value in vars(part).items():
            if isinstance(value, Tensor) and value.is_meta:
                setattr(part, name, torch.ones_like(value, device=device))


def random_embeds(
    container: ModelContainer, prompts: Sequence[str], source: torch.Generator
) -> Mapping[str, PromptEmbeds]:
    """Return one row a prompt; a few rows in turn, as many captions would fill the memory."""
    rows = [_random_row(container, source) for _ in range(_DIFFERENT_PROMPTS)]
    return {
        prompt: _as_long_as(prompt, rows[number % len(rows)], container)
        for number, prompt in enumerate(dict.fromkeys(prompts))
    }


def _random_row(container: ModelContainer, source: torch.Generator) -> PromptEmbeds:
    row = container.zero_embeds()

    def like(zeros: Tensor) -> Tensor:
        return torch.randn(zeros.shape, generator=source).to(zeros)

    pooled = None if row.pooled is None else like(row.pooled)
    return replace(row, embeds=like(row.embeds), pooled=pooled)


def _as_long_as(prompt: str, row: PromptEmbeds, container: ModelContainer) -> PromptEmbeds:
    """Return a row of as many states as the prompt has, where a model reads no more of it."""
    if row.lengths is None:
        return row.of(prompt)
    length = len(container.tokenize([prompt])[0])
    return replace(row, embeds=row.embeds[:, :length], lengths=torch.tensor([length])).of(prompt)
