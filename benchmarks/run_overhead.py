"""What do a run's own records cost, and its checkpoints?

Goes through what the trainer does beside a step (look for commands, status, metric; the heartbeat
runs meanwhile) and takes the CPU time of the whole process less that of the steps. These multiply
matrices in one row of the table and sleep in the other: a core that slept wakes slowly on some
machines, and what comes first then pays for it. Then the slider recipe's checkpoint is saved some
times.

    python benchmarks/run_overhead.py [--steps 400] [--step-ms 50] [--saves 10]
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import bench
import numpy
import psutil
from bench_options import numbers_of

from loba_tui.core.owned_files import OwnedFolder
from loba_tui.core.plugins import SHIPPED
from loba_tui.core.program.training.checkpoint import CheckpointStore
from loba_tui.core.recipe.load import load_recipe
from loba_tui.core.run.directory import RunDir
from loba_tui.core.run.writer import RunWriter


class _Subject:
    step = 0

    def save(self) -> None: ...

    def sample(self) -> None: ...


def compute(seconds: float) -> None:
    """Keep this core busy for some seconds."""
    matrix = numpy.ones((64, 64), dtype=numpy.float32)
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        matrix @ matrix


def overhead(num_steps: int, step_seconds: float, wait: Callable[[float], None]) -> None:
    """Print the share of a step that its records take, in CPU time and on the clock."""
    recipe = load_recipe(
        bench.RECIPES / "slider_unet.yaml",
        ["train.efficacy_every=0", f"train.steps={num_steps + 1}"],
        plugins=SHIPPED,
    )
    subject, process = _Subject(), psutil.Process()
    inside: list[float] = []
    with tempfile.TemporaryDirectory() as folder, RunWriter.open(RunDir(Path(folder))) as writer:
        steering = bench.steering(recipe, writer.run_dir, writer)
        in_steps = 0.0
        cpu = time.process_time()
        for step in range(1, num_steps + 1):
            begin = time.perf_counter()
            steering.boundary(subject)
            subject.step = step
            writer.metric(
                step=step,
                seconds=0.05123,
                memory_mib=round(process.memory_info().rss / 2**20, 1),
                loss=0.0123456789,
                slider_loss=0.0123456789,
                preserve_loss=0.00123456789,
                grad_norm=0.123456789,
                forwards=64 * step,
                lr=5e-4,
            )
            writer.status(phase="training", step=step, total=num_steps)
            inside.append(time.perf_counter() - begin)
            begin = time.thread_time()
            wait(step_seconds)
            in_steps += time.thread_time() - begin
        cpu = time.process_time() - cpu - in_steps
    share = cpu / num_steps / step_seconds
    print(
        f"records, heartbeat and commands around {num_steps} steps of {1000 * step_seconds:g} ms"
        f" ({wait.__name__}):"
    )
    print(f"  CPU time a step      {1e6 * cpu / num_steps:8.0f} µs = {100 * share:.2f} % of it")
    print(f"  the trainer waits    {1e6 * statistics.median(inside):8.0f} µs (median)")
    print(f"                       {1e6 * statistics.fmean(inside):8.0f} µs (mean)")


def saves(times: int) -> None:
    """Print how long a checkpoint of the slider recipe takes: written, synced, read and pruned."""
    subject = bench.ready(["train.steps=3"])
    trainer = subject.run
    trainer.run(until=2)
    seconds: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        store = CheckpointStore(OwnedFolder(Path(folder)))
        for step in range(times):
            trainer.step = step
            begin = time.perf_counter()
            checkpoint = trainer._checkpoint(trainer._parts.method.state())
            store.save(checkpoint)
            seconds.append(time.perf_counter() - begin)
    print(
        f"a checkpoint of the slider recipe ({checkpoint.num_bytes / 2**20:.1f} MiB):"
        f" {1000 * statistics.median(seconds):.0f} ms"
        f" ({1000 * min(seconds):.0f} to {1000 * max(seconds):.0f}) over {times}"
    )


def main() -> None:
    arguments = numbers_of(__doc__, steps=400, step_ms=50.0, saves=10)
    print(bench.machine())
    for wait in (compute, time.sleep):
        overhead(arguments.steps, arguments.step_ms / 1000, wait)
    saves(arguments.saves)


if __name__ == "__main__":
    main()
