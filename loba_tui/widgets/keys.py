"""Keys that do the same in every part of the dashboard."""

from __future__ import annotations

from textual.binding import Binding

_FAR = 1_000_000
_STEPS = {"j,down": 1, "k,up": -1, "g,home": -_FAR, "G,end": _FAR}


def step_keys(group: str, action: str, **words: str) -> list[Binding]:
    """Return the keys that go through things one by one, and to the first and the last.

    Args:
        group: What the bindings' ids begin with.
        action: Takes by how many to go; far more than there are for the first and the last.
        words: The rest of each id with its description: next, previous, first and last.
    """
    return [
        Binding(key, f"{action}({by})", text, show=False, id=f"{group}.{name}")
        for (key, by), (name, text) in zip(_STEPS.items(), words.items(), strict=True)
    ]


def page_keys(group: str) -> list[Binding]:
    """Return the keys that go half a page down and up, by an action `page`."""
    return [
        Binding(key, f"page({by})", f"half a page {name}", show=False, id=f"{group}.page_{name}")
        for key, by, name in (("ctrl+d,pagedown", 1, "down"), ("ctrl+u,pageup", -1, "up"))
    ]
