"""The embedded base model, the drawn world it was trained on, and the script that trains it."""

from __future__ import annotations

from importlib import resources

BUILTIN_PREFIX = "builtin:"


def builtin_names() -> list[str]:
    """Return the models that are shipped in the package; `builtin:NAME` loads one."""
    root = resources.files(__name__)
    return sorted(entry.name for entry in root.iterdir() if (entry / "model_index.json").is_file())
