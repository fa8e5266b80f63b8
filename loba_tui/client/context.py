"""The dashboard's environment and folders; tests put stand-ins here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from loba_tui.core.plugins import Plugins
from loba_tui.core.run import launch
from loba_tui.core.run.directory import Ledger
from loba_tui.core.run.queue import Queue
from loba_tui.core.user_folders import user_folder

ImageMode = Literal["half", "kitty", "sixel", "off"]


@dataclass(frozen=True)
class Context:
    """The user's environment, and where the dashboard finds and leaves things.

    Attributes:
        out_dir: Where runs that are started from the dashboard get their folders.
        seconds: Time between two looks at files that change.
    """

    environ: Mapping[str, str]
    plugins: Plugins
    out_dir: Path = Path("output")
    program: Sequence[str] = launch.PROGRAM
    images: ImageMode = "half"
    seconds: float = 1.0

    @property
    def ledger(self) -> Ledger:
        """Return the list of this user's runs."""
        return Ledger.of_user(self.environ)

    @property
    def queue(self) -> Queue:
        """Return this user's queue."""
        return Queue.of_user(self.environ)

    @property
    def config(self) -> Path:
        """Return the folder of this user's settings."""
        return user_folder(self.environ, "config")

    @property
    def cache(self) -> Path:
        """Return the folder of what can be made again at any time."""
        return user_folder(self.environ, "cache")

    @property
    def has_many_colors(self) -> bool:
        """Say whether the terminal has more than the 16 colours of the user's own palette."""
        if self.environ.get("COLORTERM", "").lower() in ("truecolor", "24bit"):
            return True
        name = self.environ.get("TERM", "")
        return "256" in name or "direct" in name or name in ("xterm-kitty", "xterm-ghostty")
