"""How a run is started, beside what its recipe says."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loba_tui.core.run.deadline import Deadline


@dataclass(frozen=True)
class StartOptions:
    """Options of a start, from the command line and the launcher.

    Attributes:
        local_rank: This process among those of its host.
        force: Start although the estimate says that it cannot fit.
        allow_inexact: Resume a checkpoint that another machine made.
        changes: Settings to change before a resumed run goes on, as keys of LIVE_KEYS and values.
        tensors: Where embeddings and latents are kept between runs; None keeps none.
    """

    local_rank: int = 0
    resume: bool = False
    deadline: Deadline | None = None
    force: bool = False
    allow_inexact: bool = False
    changes: tuple[tuple[str, Any], ...] = ()
    tensors: Path | None = None
