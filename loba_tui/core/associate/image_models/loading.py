"""Loads a model of transformers from safetensors, and runs it over many images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from loba_tui.core.associate.image_models.files import CONFIG
from loba_tui.core.errors import CorruptError
from loba_tui.core.text import clean

BATCH_SIZE = 32


def load_weights(model_class: Any, folder: Path, device: torch.device) -> Any:
    """Return a model of a class of transformers in float32, to be asked only.

    No code of the folder is run, and no pickle is opened.

    Raises:
        CorruptError: Weights are missing, or are of another model.
    """
    try:
        model, told = model_class.from_pretrained(
            folder,
            dtype=torch.float32,
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    except (OSError, ValueError, KeyError, RuntimeError, TypeError) as error:
        raise CorruptError(
            f"{folder.name} is no {model_class.__name__}: {clean(error, limit=300)}",
            f"Its {CONFIG} has to be that of the model that the measure names.",
        ) from error
    # transformers fills what is missing with random numbers, which would measure something.
    if missing := sorted(told["missing_keys"]):
        raise CorruptError(
            f"{folder.name} is no {model_class.__name__}: it lacks {len(missing)} weights,"
            f" {clean(missing[0])} among them.",
            f"Its {CONFIG} has to be that of the model that the measure names.",
        )
    return model.eval().requires_grad_(False).to(device)


@torch.no_grad()
def in_batches(run: Callable[[np.ndarray], Tensor], images: np.ndarray) -> Tensor:
    """Return what a model says of images, asked for several at once; float32, on the CPU."""
    starts = range(0, len(images), BATCH_SIZE)
    return torch.cat([run(images[at : at + BATCH_SIZE]).float().cpu() for at in starts])
