"""Pins: repositories and revisions that no deletion and no prune takes."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from loba_tui.core.associate.caches.hub.requests import Target
from loba_tui.core.errors import CorruptError, ResourceError
from loba_tui.core.files import replace_file
from loba_tui.core.foreign_json import parse_json
from loba_tui.core.text import clean

_VERSION = 1


def read_pins(path: Path) -> frozenset[Target]:
    """Return what is pinned; a file that does not exist pins nothing.

    Raises:
        CorruptError: It cannot be read, and so nothing may be deleted.
    """
    try:
        data = parse_json(path.read_text("utf-8"))
        if data["version"] != _VERSION:
            raise ValueError(f"version {data['version']}")
        return frozenset(
            Target(str(pin["folder"]), None if pin["commit"] is None else str(pin["commit"]))
            for pin in data["pins"]
        )
    except FileNotFoundError:
        return frozenset()
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CorruptError(
            f"{clean(path)} cannot be read, so it is not known what is pinned: {clean(error)}.",
            "Repair the file, or remove it to unpin everything.",
        ) from error


def write_pins(path: Path, pins: Iterable[Target]) -> None:
    """Replace the pins."""
    listed = [{"folder": pin.folder, "commit": pin.commit} for pin in sorted(pins, key=str)]
    content = json.dumps({"version": _VERSION, "pins": listed}, indent=1)
    try:
        # Others who share the cache have to be able to read it.
        replace_file(path, content.encode(), mode=0o666)
    except OSError as error:
        raise ResourceError(
            f"{clean(path)} cannot be written: {error.strerror or error}.",
            "Pins lie beside the cache, and that folder has to be writable.",
        ) from error
