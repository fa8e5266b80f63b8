"""Requests to measure a recipe's steps on this device."""

from __future__ import annotations

import json

from loba_tui.core.plugins import Plugins
from loba_tui.core.program.benchmarking.bench import run_bench
from loba_tui.core.recipe.schema import Recipe
from loba_tui.core.run.launch import BENCH, Request
from loba_tui.core.run.writer import RunWriter


def serve_bench(request: Request, recipe: Recipe, writer: RunWriter, plugins: Plugins) -> None:
    """Measure a recipe and its alternatives; the figures are left in the writer's folder.

    Raises:
        LobaError: The recipe cannot be measured.
    """
    results = run_bench(
        recipe,
        request.tries,
        minutes=request.minutes,
        quick=request.quick,
        run_dir=writer.run_dir,
        records=writer,
        plugins=plugins,
    )
    document = json.dumps(results.as_json(), allow_nan=False)
    path = writer.write_file(BENCH, document.encode())
    writer.event("bench_done", path=path)
