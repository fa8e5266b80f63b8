"""The screens of the dashboard and their keys; none is imported before it is shown."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from loba_tui.screens.base import LobaScreen


@dataclass(frozen=True)
class ScreenEntry:
    """One screen.

    Attributes:
        id: What actions and the keymap call it.
        key: The key that shows it.
        target: Its class, as `module:Class`.
    """

    id: str
    key: str
    title: str
    target: str

    def load(self) -> type[LobaScreen]:
        """Import the screen's class."""
        module, _, name = self.target.partition(":")
        found: type[LobaScreen] = getattr(importlib.import_module(module), name)
        return found


SCREENS: tuple[ScreenEntry, ...] = (
    ScreenEntry("runs", "1", "Runs", "loba_tui.screens.runs.screen:RunsScreen"),
    ScreenEntry("monitor", "2", "Monitor", "loba_tui.screens.monitor.screen:MonitorScreen"),
    ScreenEntry("cache", "3", "Cache", "loba_tui.screens.cache.screen:CacheScreen"),
    ScreenEntry("stack", "4", "Stack", "loba_tui.screens.stack.screen:StackScreen"),
    ScreenEntry("recipe", "5", "Recipe", "loba_tui.screens.recipe.screen:RecipeScreen"),
)
