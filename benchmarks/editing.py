"""What the dashboard's editor and cache screen cost: a change, its curves, thousands of rows.

python benchmarks/editing.py [--repositories 2000]
"""

from __future__ import annotations

import os
import queue
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from bench_options import numbers_of

from loba_tui.client.plans.client import Answer, PlanClient
from loba_tui.core.plugins import SHIPPED
from loba_tui.core.recipe.load import dump_recipe
from loba_tui.core.recipe.shipped import folder
from loba_tui.screens.cache.rows import node_row
from loba_tui.screens.cache.tree import CacheState
from loba_tui.screens.stack.fields import SLOTS
from loba_tui.screens.stack.model import StackModel
from loba_tui.screens.stack.rows import slot_row

CHANGES = 10
PATIENCE = 300.0


def cpu_ms(act: Callable[[], object]) -> float:
    """Return the CPU time of this process that something takes."""
    begin = time.process_time()
    act()
    return 1000 * (time.process_time() - begin)


def time_forms(recipe: str) -> float:
    """Return the median CPU time of a change and of all rows that show it."""
    model = StackModel((folder() / f"{recipe}.yaml").read_text(), recipe, plugins=SHIPPED)

    def change() -> None:
        field = model.fields(SLOTS[0])[1]
        model.set(field, field.nudged(1) or "")
        for slot in SLOTS:
            slot_row(slot, model)
        dump_recipe(model.recipe)

    return statistics.median(cpu_ms(change) for _ in range(CHANGES))


def time_planner(recipe: str) -> tuple[float, float, float]:
    """Return seconds until the first curve, and medians to all curves and to the estimate."""
    model = StackModel((folder() / f"{recipe}.yaml").read_text(), recipe, plugins=SHIPPED)
    answers: queue.Queue[Answer] = queue.Queue()
    client = PlanClient(answers.put)

    def ask() -> tuple[float, float, float]:
        begin, curves, first = time.perf_counter(), 0.0, 0.0
        number = client.ask(dump_recipe(model.recipe))
        while True:
            answer = answers.get(timeout=PATIENCE)
            if answer.error:
                raise SystemExit(f"{answer.section}: {answer.error}")
            if answer.number != number:
                continue
            taken = time.perf_counter() - begin
            first = first or taken
            if answer.section == "layers":
                curves = taken
            if answer.section == "needs":
                return first, curves, taken

    first, _, _ = ask()
    later = []
    for _ in range(CHANGES):
        field = model.fields(SLOTS[0])[1]
        model.set(field, field.nudged(1) or "")
        later.append(ask())
    client.close()
    return (
        first,
        statistics.median(curves for _, curves, _ in later),
        statistics.median(needs for _, _, needs in later),
    )


def time_cache(root: Path, repositories: int) -> tuple[float, float]:
    """Return CPU times of reading a cache, and of making all rows of its tree."""
    for number in range(repositories):
        commit = f"{number:040x}"
        base = root / "hub" / f"models--org--model-{number}"
        for part in ("blobs", f"snapshots/{commit}", "refs"):
            (base / part).mkdir(parents=True)
        (base / "refs" / "main").write_text(commit)
        (base / "blobs" / commit).write_bytes(b"x" * number)
        (base / "snapshots" / commit / "w.safetensors").symlink_to(f"../../blobs/{commit}")
    environ = {**os.environ, "HF_HUB_CACHE": str(root / "hub"), "LOBA_CACHE": "off"}
    environ["XDG_STATE_HOME"] = str(root / "state")
    state = CacheState.read(environ, [])

    def rows() -> None:
        for node in state.rows(frozenset(), [], "size"):
            node_row(node, state, is_open=False)

    return cpu_ms(lambda: CacheState.read(environ, [])), cpu_ms(rows)


def main() -> None:
    arguments = numbers_of(__doc__, repositories=2000)
    print(f"{'recipe':14}{'change, CPU':>13}{'first curve':>13}{'curves':>10}{'estimate':>10}")
    for recipe in ("slider", "sdxl/slider"):
        change = time_forms(recipe)
        first, curves, needs = time_planner(recipe)
        print(
            f"{recipe:14}{change:>10.0f} ms{first:>11.1f} s{1000 * curves:>7.0f} ms"
            f"{1000 * needs:>7.0f} ms",
            flush=True,
        )
    with tempfile.TemporaryDirectory() as root:
        read, rows = time_cache(Path(root), arguments.repositories)
    print(f"cache of {arguments.repositories}: read {read:.0f} ms CPU, rows {rows:.0f} ms CPU")


if __name__ == "__main__":
    main()
