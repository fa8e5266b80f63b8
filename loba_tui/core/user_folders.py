"""Where this user's settings, caches and state lie.

    config    $XDG_CONFIG_HOME/loba    keymap.yaml, notify.yaml, plugins/, trusted.json
    cache     $XDG_CACHE_HOME/loba     what can be made again: plans/, tensors/, metrics
    state     $XDG_STATE_HOME/loba     runs.jsonl, queue/

The hub's cache is huggingface_hub's own, and follows that library's rules.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from loba_tui.core.errors import RecipeError, ResourceError
from loba_tui.core.text import clean

FolderKind = Literal["config", "cache", "state"]

_DEFAULTS = {"config": ".config", "cache": ".cache", "state": ".local/state"}


def with_home(path: str | Path) -> Path:
    """Return a path with the home folder that its `~` or `~user` stands for.

    Raises:
        RecipeError: There is no such user on this machine.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise RecipeError(
            f"{clean(path)}: this machine knows no home folder of {clean(Path(path).parts[0])}.",
            "Write the path out.",
        ) from error


def user_folder(environ: Mapping[str, str], kind: FolderKind) -> Path:
    """Return this program's folder of a kind, by the XDG base directory specification.

    Raises:
        ResourceError: The user has no home folder, as in some containers.
    """
    base = Path(environ.get(f"XDG_{kind.upper()}_HOME", ""))
    # The specification tells to ignore relative paths.
    if not base.is_absolute():
        try:
            base = Path.home() / _DEFAULTS[kind]
        except RuntimeError as error:
            raise ResourceError(
                "This user has no home folder.", f"Set XDG_{kind.upper()}_HOME to a folder."
            ) from error
    return base / "loba"


def user_folder_if_any(environ: Mapping[str, str], kind: FolderKind) -> Path | None:
    """Return this program's folder of a kind; None where the user has no home folder."""
    try:
        return user_folder(environ, kind)
    except ResourceError:
        return None


def tensors_folder(environ: Mapping[str, str]) -> Path | None:
    """Return where latents and text embeddings are kept; None where none are to be.

    `LOBA_CACHE` names the folder above it, or is "off".
    """
    wanted = environ.get("LOBA_CACHE", "")
    if wanted.lower() == "off":
        return None
    if wanted:
        return with_home(wanted).absolute() / "tensors"
    cache = user_folder_if_any(environ, "cache")
    return None if cache is None else cache / "tensors"


def hub_cache_folder(environ: Mapping[str, str]) -> Path:
    """Return the hub's cache as huggingface_hub finds it; it takes relative paths as they are."""

    def expanded(value: str) -> Path:
        for name in sorted(environ, key=len, reverse=True):
            value = value.replace(f"${{{name}}}", environ[name]).replace(f"${name}", environ[name])
        return with_home(value)

    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        if environ.get(name):
            return expanded(environ[name])
    base = environ.get("XDG_CACHE_HOME") or "~/.cache"
    return expanded(environ.get("HF_HOME") or f"{base}/huggingface") / "hub"
