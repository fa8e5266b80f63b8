"""The embedded models, the drawn world they were trained on, and the scripts that train them."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

BUILTIN_PREFIX = "builtin:"


def builtin_names() -> list[str]:
    """Return the models that are shipped in the package; `builtin:NAME` loads one."""
    root = resources.files(__name__)
    return sorted(entry.name for entry in root.iterdir() if (entry / "model_index.json").is_file())


def builtin_clip_names() -> list[str]:
    """Return the CLIP models that are shipped in the package, for measures that read images."""
    root = resources.files(__name__)
    is_clip = "preprocessor_config.json"
    return sorted(entry.name for entry in root.iterdir() if (entry / is_clip).is_file())


def builtin_data_names() -> list[str]:
    """Return the drawn data sets that are shipped in the package; `builtin:NAME` is one's path."""
    root = resources.files(__name__) / "data"
    return sorted(entry.name for entry in root.iterdir() if entry.is_dir())


def builtin_data(name: str) -> Path | None:
    """Return the folder of a shipped data set (or of a folder in it), None if there is none."""
    set_name, *inner = name.split("/")
    if set_name not in builtin_data_names() or ".." in inner:
        return None
    folder = Path(str(resources.files(__name__) / "data")).joinpath(set_name, *inner)
    return folder if folder.is_dir() else None
