"""Give memory back once nothing holds a component any more."""

from __future__ import annotations

import gc
import logging
import weakref
from collections.abc import Sequence

import torch
from torch import nn

logger = logging.getLogger(__name__)


def empty_accelerator(device: torch.device) -> None:
    """Give what torch holds in reserve back to the accelerator."""
    if device.type != "cpu":
        torch.accelerator.empty_cache()


def is_freed(model_id: str, watched: Sequence[weakref.ref[object]], device: torch.device) -> bool:
    """Say whether nothing keeps these alive; move what lives on off the accelerator."""
    gc.collect()
    alive = [each for each in (watch() for watch in watched) if each is not None]
    for each in alive:
        if isinstance(each, nn.Module) and device.type != "cpu":
            each.to("cpu")
    empty_accelerator(device)
    if alive:
        logger.warning("%s is unloaded, but it is still held elsewhere", model_id)
    return not alive
