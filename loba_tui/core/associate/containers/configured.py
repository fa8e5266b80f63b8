"""Networks and schedulers made of a diffusers folder's configuration, without weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers
import transformers
from torch import nn

from loba_tui.core.file_sources import read_source
from loba_tui.core.foreign_json import parse_object

_MAX_CONFIG_BYTES = 2**20


def component_class(library: str, class_name: str) -> Any:
    """Return a class of one of the two libraries that models are made of."""
    return getattr(diffusers if library == "diffusers" else transformers, class_name)


def read_config(path: Path) -> dict[str, Any]:
    """Return a configuration; raise OSError or ValueError where it cannot be read."""
    return parse_object(read_source(path, _MAX_CONFIG_BYTES))


def configured_network(folder: Path, library: str, class_name: str) -> nn.Module:
    """Return the network of a component's folder, as the device and dtype in force have it.

    Raises:
        OSError: The configuration is not there.
        Exception: What the class raises for a configuration that is not its own.
    """
    kind, config = component_class(library, class_name), read_config(folder / "config.json")
    if library == "diffusers":
        network: nn.Module = kind.from_config(config)
    else:
        network = kind(kind.config_class(**config))
    return network


def configured_scheduler(folder: Path, library: str, class_name: str) -> Any:
    """Return the noise scheduler of a component's folder; errors as in `configured_network`."""
    kind = component_class(library, class_name)
    return kind.from_config(read_config(folder / "scheduler_config.json"))
