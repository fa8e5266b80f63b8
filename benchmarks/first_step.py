"""CPU seconds until a run trains, and of the whole command, against loading the model alone.

    python benchmarks/first_step.py [--runs 3] [--concepts 1200]

The yardstick is a script that imports torch, peft and the pipeline's class and loads the embedded
model. It is measured before and after every row of the table and its mean is what the row is
divided by, as the machine may be busy. Every command is a first run: nothing is kept of an earlier
one. Its CPU time is that of `loba` and of the program that it starts, read off the system when the
first record of a step is there, and at the end.
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil
from startup import cpu_seconds_of

from loba_tui import models

RECIPES = Path(__file__).parent.parent / "recipes"
LOAD = f"""
import torch, peft
from diffusers import StableDiffusionXLPipeline
StableDiffusionXLPipeline.from_pretrained({str(Path(models.__file__).parent / "shapes-xl")!r})
"""
OPEN = """
import sys, time
from pathlib import Path
import bench
begin = time.process_time()
bench.ready([], recipe=Path(sys.argv[1]))
print(time.process_time() - begin)
"""
LIMITS = {"whole slider": 2.8, "first step of a slider": 1.4, "first step of a LoRA": 1.25}
_POLL_SECONDS = 0.005


@dataclass(frozen=True)
class Run:
    """CPU seconds of one command."""

    first_step: float
    whole: float


def load_alone() -> float:
    """Return what loading the embedded model takes a script."""
    return cpu_seconds_of([sys.executable, "-c", LOAD])


def run(recipe: Path, *, to_the_end: bool) -> Run:
    """Run a recipe as a user types it; stop after its first step where the rest is of no use."""
    with tempfile.TemporaryDirectory() as folder:
        out_dir = Path(folder, "out")
        environ = {**os.environ, "LOBA_CACHE": str(Path(folder, "cache"))}
        command = [sys.executable, "-m", "loba_tui.cli", "run", str(recipe), "--out-dir"]
        child = subprocess.Popen(
            [*command, str(out_dir)],
            env=environ,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        while not any(file.stat().st_size for file in out_dir.glob("*/metrics.jsonl")):
            if child.poll() is not None:
                raise SystemExit(f"{recipe} ended before its first step")
            time.sleep(_POLL_SECONDS)
        first_step = _cpu_of_tree(child.pid)
        if not to_the_end:
            child.send_signal(signal.SIGINT)
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        if to_the_end and child.returncode != 0:
            raise SystemExit(f"{recipe} ended with {child.returncode}")
        return Run(first_step, usage.ru_utime + usage.ru_stime)


def _cpu_of_tree(number: int) -> float:
    root = psutil.Process(number)
    times = [each.cpu_times() for each in (root, *root.children(recursive=True))]
    return sum(each.user + each.system for each in times)


def open_many(num_concepts: int) -> float:
    """Return the CPU seconds of a slider's opening, imports left out, up to its first step."""
    text = (RECIPES / "slider.yaml").read_text()
    words = [f"tone{number}" for number in range(num_concepts // 12)]
    text = text.replace("[red, green, blue, yellow]", f"[{', '.join(words)}]")
    with tempfile.TemporaryDirectory() as folder:
        recipe = Path(folder, "many.yaml")
        recipe.write_text(text)
        found = subprocess.run(
            [sys.executable, "-c", OPEN, str(recipe)],
            check=True,
            capture_output=True,
            text=True,
            cwd=Path(__file__).parent,
        )
    return float(found.stdout.split()[-1])


def against_loading(measure: Callable[[], list[float]]) -> tuple[float, list[float], list[float]]:
    """Return the yardstick's seconds, those of a measurement, and their ratios."""
    before = load_alone()
    seconds = measure()
    yardstick = (before + load_alone()) / 2
    return yardstick, seconds, [each / yardstick for each in seconds]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--concepts", type=int, default=1200)
    parser.add_argument("--lora", default="lora_style.yaml")
    asked = parser.parse_args()

    def slider() -> list[float]:
        found = run(RECIPES / "slider.yaml", to_the_end=True)
        return [found.whole, found.first_step]

    rows: dict[tuple[str, ...], Callable[[], list[float]]] = {
        ("whole slider", "first step of a slider"): slider,
        ("first step of a LoRA",): lambda: [run(RECIPES / asked.lora, to_the_end=False).first_step],
        (f"opening of {asked.concepts:,} concepts",): lambda: [open_many(asked.concepts)],
    }
    load_alone()  # the first call compiles and fills the disk cache
    print(f"{'':32} CPU-s  against loading, median of {asked.runs}  goal")
    for names, measure in rows.items():
        found = [against_loading(measure) for _ in range(asked.runs)]
        loading = statistics.median(yardstick for yardstick, _, _ in found)
        print(f"{'loading the model alone':32} {loading:5.1f}")
        for column, name in enumerate(names):
            seconds = statistics.median(each[1][column] for each in found)
            ratio = statistics.median(each[2][column] for each in found)
            goal = f"{LIMITS[name]:.2f}" if name in LIMITS else ""
            print(f"{name:32} {seconds:5.1f}  {ratio:5.2f}  {goal}", flush=True)


if __name__ == "__main__":
    main()
