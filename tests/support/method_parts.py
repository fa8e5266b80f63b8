"""A model with an adapter on it, and what a method is given to work with, for tests of methods."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from loba_tui.core.associate.containers.base import ModelContainer
from loba_tui.core.associate.model_cache import ModelCache
from loba_tui.core.plugins import SHIPPED
from loba_tui.core.program.adapter_layers.strength import AdapterScale
from loba_tui.core.program.method import MethodParts
from loba_tui.core.program.objectives.timed_loss import TimedLoss
from loba_tui.core.program.trajectories.predictions import ForwardCounter


def container_with_adapter(folder: Path) -> ModelContainer:
    """Return a model with a LoRA that already changes something."""
    container = ModelCache("cpu", torch.float32).container(str(folder))
    container.denoiser.requires_grad_(False)
    torch.manual_seed(1)
    config = SHIPPED.load("adapters", "lora")(container.adapter_targets())
    config.init_lora_weights = False
    container.denoiser.add_adapter(config)
    return container


@contextmanager
def parts_for(
    container: ModelContainer, prompts: Sequence[str], **changes: Any
) -> Iterator[MethodParts]:
    """Lend parts that know these prompts; `changes` are fields of them."""
    scale = AdapterScale(container.denoiser)
    rows = container.encode_prompts(prompts)
    parts: dict[str, Any] = {
        "container": container,
        "student": container.denoiser,
        "scale": scale,
        "concepts": (),
        "embeds": {prompt: rows[index] for index, prompt in enumerate(prompts)},
        "empty": container.empty_embeds(),
        "make_noise_scheduler": lambda: SHIPPED.load("noise", "ddim")(container.scheduler_config),
        "density": SHIPPED.load("timestep", "uniform")(),
        "loss": TimedLoss(SHIPPED.load("losses", "mse")()),
        "batch_size": 4,
        "num_processes": 1,
        "rank": 0,
        "seed": 0,
        "resolution": None,
        "gather": lambda tensor: tensor,
        "counter": ForwardCounter(),
    }
    try:
        yield MethodParts(**{**parts, **changes})
    finally:
        scale.remove()
