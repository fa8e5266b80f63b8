"""A benchmark in a process of its own, whose memory can be made to end."""

from __future__ import annotations

import resource
from pathlib import Path
from typing import Any

import psutil
from program_runs import SHAPE

from loba_tui.core.plugins import SHIPPED
from loba_tui.core.program.benchmarking.bench import run_bench
from loba_tui.core.recipe.load import parse_recipe
from loba_tui.core.run.directory import RunDir
from loba_tui.core.run.writer import Records

SPARE_BYTES = 48 * 2**20
TOO_MANY = "train.batch_size=256"


class MemoryThatEnds(Records):
    """Lets the process have little more memory while the last configuration trains."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self.limits = resource.getrlimit(resource.RLIMIT_AS)

    def status(self, **facts: Any) -> None:
        if facts.get("phase") == "warming up" and len(self.rows) == 2:
            there = psutil.Process().memory_info().vms + SPARE_BYTES
            resource.setrlimit(resource.RLIMIT_AS, (there, self.limits[1]))

    def event(self, kind: str, /, **data: Any) -> None:
        if kind == "benched":
            resource.setrlimit(resource.RLIMIT_AS, self.limits)
            self.rows.append(data)


def bench_until_memory_ends(
    model: Path, folder: Path
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return the document of a slider, an alternative, and one that memory ends under; its rows."""
    recipe = parse_recipe(
        {
            "version": 1,
            "name": "private-name",
            "base_model": {"id": str(model), "device": "cpu", "threads": 1},
            "method": {"name": "text_slider", "rollout_steps": 2, "concepts": [SHAPE]},
            "train": {"batch_size": 1},
        },
        plugins=SHIPPED,
    )
    records = MemoryThatEnds()
    try:
        results = run_bench(
            recipe,
            [["method.trajectories=bank"], [TOO_MANY]],
            minutes=5,
            quick=True,
            run_dir=RunDir(folder),
            records=records,
            plugins=SHIPPED,
        )
    finally:
        resource.setrlimit(resource.RLIMIT_AS, records.limits)
    return results.as_json(), records.rows
