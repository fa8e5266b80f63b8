"""The keys of the screen at hand, made from its bindings, and the palette of all its actions."""

from __future__ import annotations

from textual.app import App
from textual.binding import Binding
from textual.dom import DOMNode
from textual.screen import Screen

from loba_tui.widgets.dialogs import Choice
from loba_tui.widgets.line import Piece

_KEY_WIDTH = 18


def actions(app: App[None], screen: Screen[object]) -> list[tuple[DOMNode, Binding, str]]:
    """Return node, binding and its keys for every action that can be taken now."""
    found: dict[tuple[int, str], tuple[DOMNode, Binding, list[str]]] = {}
    for active in screen.active_bindings.values():
        binding = active.binding
        if not binding.description or binding.system:
            continue
        entry = found.setdefault((id(active.node), binding.action), (active.node, binding, []))
        entry[2].append(app.get_key_display(binding))
    return [
        (node, binding, " ".join(sorted(keys, key=len))) for node, binding, keys in found.values()
    ]


def help_rows(app: App[None], screen: Screen[object]) -> list[list[Piece]]:
    """Return all keys of a screen, the ones of the focused part first."""
    rows: list[list[Piece]] = [[line] for line in getattr(screen, "HELP_TEXT", "").splitlines()]
    sections: dict[str, list[list[Piece]]] = {}
    for node, binding, keys in actions(app, screen):
        title = node.BINDING_GROUP_TITLE or type(node).__name__
        entry: list[Piece] = [("  " + keys.ljust(_KEY_WIDTH), "key"), binding.description]
        if binding.id:
            entry.append((f"  {binding.id}", "dim"))
        sections.setdefault(title, []).append(entry)
    for title, entries in sections.items():
        rows += [[""]] if rows else []
        rows += [[(title, "strong")], *entries]
    return rows


def palette(app: App[None], screen: Screen[object]) -> list[tuple[Choice, DOMNode, str]]:
    """Return every action as a choice, with the node and the action to run."""
    return [
        (Choice(str(number), binding.description, keys), node, binding.action)
        for number, (node, binding, keys) in enumerate(actions(app, screen))
    ]
