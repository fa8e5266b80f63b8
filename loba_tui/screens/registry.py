"""The screens of the dashboard and their keys; none is imported before it is shown."""

from __future__ import annotations

import importlib
from dataclasses import dataclass

from textual.screen import Screen

from loba_tui.widgets.bars import Tab


@dataclass(frozen=True)
class ScreenEntry(Tab):
    """One screen; the target is its class, as `module:Class`."""

    target: str

    def load(self) -> type[Screen[None]]:
        """Import the screen's class."""
        module, _, name = self.target.partition(":")
        found: type[Screen[None]] = getattr(importlib.import_module(module), name)
        return found

    def make(self) -> Screen[None]:
        return self.load()()


SCREENS: tuple[ScreenEntry, ...] = (
    ScreenEntry("runs", "1", "Runs", "loba_tui.screens.runs.screen:RunsScreen"),
    ScreenEntry("monitor", "2", "Monitor", "loba_tui.screens.monitor.screen:MonitorScreen"),
    ScreenEntry("cache", "3", "Cache", "loba_tui.screens.cache.screen:CacheScreen"),
    ScreenEntry("stack", "4", "Stack", "loba_tui.screens.stack.screen:StackScreen"),
    ScreenEntry("recipe", "5", "Recipe", "loba_tui.screens.recipe.screen:RecipeScreen"),
)
