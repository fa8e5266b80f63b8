"""The recipes that come with the package, found by name wherever it is installed."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[2]


def folder() -> Path:
    """Return the shipped recipes: inside an installed package, beside it in a checkout."""
    inside = _PACKAGE / "shipped_recipes"
    return inside if inside.is_dir() else _PACKAGE.parent / "recipes"


def names() -> list[str]:
    """Return the names of all shipped recipes, such as `slider` or `sdxl/slider`."""
    root = folder()
    return sorted(p.relative_to(root).with_suffix("").as_posix() for p in root.rglob("*.yaml"))


def find(wanted: Path | str) -> Path | None:
    """Return the shipped recipe meant by `slider`, `slider.yaml` or `recipes/slider.yaml`."""
    parts = Path(wanted).parts
    name = Path(*(parts[1:] if parts[:1] == ("recipes",) else parts)).as_posix()
    name = name.removesuffix(".yaml")
    return folder() / f"{name}.yaml" if name in names() else None
