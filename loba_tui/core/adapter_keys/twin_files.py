"""Names of the two files of a slider for tools that refuse negative weights."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

Twin = Literal["plus", "minus"]
TWINS: tuple[Twin, Twin] = ("plus", "minus")


def twin_paths(target: Path) -> tuple[Path, Path]:
    """Return the plus and the minus file, or folder, beside the name that was asked for."""
    suffix = ".safetensors" if target.suffix == ".safetensors" else ""
    stem = target.name.removesuffix(suffix)
    return target.with_name(f"{stem}-plus{suffix}"), target.with_name(f"{stem}-minus{suffix}")
