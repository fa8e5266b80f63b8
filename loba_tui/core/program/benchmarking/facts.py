"""The machine, the recipe and the model of a benchmark, without a word that names their owner."""

from __future__ import annotations

import platform
from contextlib import suppress
from typing import Any

import psutil
import torch

from loba_tui import __version__
from loba_tui.core.associate.containers.base import ModelContainer
from loba_tui.core.associate.machine import device_name, dtype_name, library_versions
from loba_tui.core.associate.model_shapes import parameters_of
from loba_tui.core.program.planning.estimate_records import Estimate
from loba_tui.core.recipe.schema import Recipe
from loba_tui.models import BUILTIN_PREFIX


def machine_facts(device: torch.device) -> dict[str, Any]:
    """Return the device and the versions that speed depends on."""
    facts: dict[str, Any] = {
        "device": device_name(device),
        "device_type": device.type,
        "memory": psutil.virtual_memory().total,
        "cores": psutil.cpu_count(logical=False),
        "threads": torch.get_num_threads(),
        "system": platform.system(),
        "python": platform.python_version(),
        "loba": __version__,
        **library_versions(["torch", "diffusers", "peft", "accelerate"]),
    }
    if device.type == "cuda":
        facts["memory"] = torch.cuda.get_device_properties(device).total_memory
        facts["cuda"] = torch.version.cuda
        facts["driver"] = _driver_version()
    return facts


def _driver_version() -> str | None:
    import pynvml

    with suppress(pynvml.NVMLError):
        pynvml.nvmlInit()
        version = pynvml.nvmlSystemGetDriverVersion()
        return version.decode() if isinstance(version, bytes) else str(version)
    return None


def recipe_facts(recipe: Recipe) -> dict[str, Any]:
    """Return what of a recipe decides how fast it steps."""
    train, base = recipe.train, recipe.base_model
    return {
        "method": recipe.method.name,
        "trajectories": recipe.method.options.get("trajectories"),
        "adapter": recipe.adapter.name,
        "rank": recipe.adapter.rank,
        "optimizer": recipe.optimizer.name,
        "batch_size": train.micro_batch_size,
        "gradient_accumulation": train.gradient_accumulation,
        "gradient_checkpointing": base.gradient_checkpointing is True,
        "exactness": train.exactness,
        "compile": train.compile,
        "quantize": None if base.quantize is None else base.quantize.name,
        "attention": base.attention,
        "offload": base.offload,
    }


def model_facts(model_id: str, container: ModelContainer, estimate: Estimate) -> dict[str, Any]:
    """Return what the model is; one of the user's own has no name here."""
    is_embedded = model_id.startswith(BUILTIN_PREFIX)
    is_public = is_embedded or estimate.origin in ("shipped", "cached")
    return {
        "id": model_id if is_public else None,
        "family": container.family,
        "weights": "embedded" if is_embedded else "random",
        "parameters": parameters_of(container.denoiser) - estimate.adapter_parameters,
        "dtype": dtype_name(container.dtype),
        "resolution": estimate.resolution,
    }
