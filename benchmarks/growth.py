"""Time and memory against size: of concepts, images, captions, runs, cache files and steps.

    python benchmarks/growth.py [--quick]

Each row is done in a process of its own, forked once everything is imported: CPU seconds, and how
far the memory rises above what it is before. The exponent is the slope between the two largest
sizes on logarithmic axes: 1 is in proportion. A row that grows faster than that is marked, and the
benchmark fails. What takes less than a tenth of a second at its largest is not judged.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import bench
import torch
from PIL import Image

from loba_tui.client.metrics.index import SeriesIndex
from loba_tui.client.metrics.window import window
from loba_tui.client.runs.resolve import find_run
from loba_tui.client.runs.summary import RunSummaries
from loba_tui.core.associate.caches.hub.cache import HubCache
from loba_tui.core.associate.caches.tensors.prompt_embeds import PromptEmbedCache
from loba_tui.core.associate.caches.tensors.scan import scan as scan_tensors
from loba_tui.core.associate.caches.tensors.store import TensorStore
from loba_tui.core.associate.model_cache import ModelCache
from loba_tui.core.plugins import SHIPPED
from loba_tui.core.program.data.open import open_data
from loba_tui.core.recipe.load import dump_recipe, load_recipe, parse_recipe
from loba_tui.core.run.directory import Ledger, RunDir
from loba_tui.core.run.reader import RunReader
from loba_tui.core.run.writer import RunWriter

HIGHEST_EXPONENT = 1.15
JUDGED_SECONDS = 0.1

Task = Callable[[], object]
Maker = Callable[[int, Path], Task]
"""Prepares a size in a folder and returns what is to be measured."""


def concepts(size: int, folder: Path) -> Task:
    """Open a slider of so many concepts, up to its first step."""
    text = (bench.RECIPES / "slider.yaml").read_text()
    words = ", ".join(f"tone{number}" for number in range(size // 12))
    recipe = folder / "many.yaml"
    recipe.write_text(text.replace("[red, green, blue, yellow]", f"[{words}]"))
    return lambda: bench.ready([], recipe=recipe)


def valid_concepts(size: int, folder: Path) -> Task:
    """Check a slider's recipe of so many concepts."""
    text = (bench.RECIPES / "slider.yaml").read_text()
    words = ", ".join(f"tone{number}" for number in range(size // 12))
    recipe = folder / "many.yaml"
    recipe.write_text(text.replace("[red, green, blue, yellow]", f"[{words}]"))
    return lambda: dump_recipe(load_recipe(recipe, [], plugins=SHIPPED))


def images(size: int, folder: Path) -> Task:
    """Check and arrange so many images with captions, as a run does before its first step."""
    _make_images(size, folder / "images", captions=50)
    recipe = _lora(folder / "images")
    run_dir = RunDir.create(folder, "run")

    def task() -> None:
        with RunWriter.open(run_dir) as writer:
            found = open_data(recipe, writer, lambda phase: writer.status(phase=phase), SHIPPED)
            assert found is not None
            found.all_prompts()
            plan = found._plan(1)
            for index in range(1000):
                plan.rows(index, range(4))

    return task


def held_out(size: int, folder: Path) -> Task:
    """Do the same where a share of the images is held out."""
    _make_images(size, folder / "images", captions=50)
    recipe = _lora(folder / "images", validation={"share": 0.1})
    run_dir = RunDir.create(folder, "run")

    def task() -> None:
        with RunWriter.open(run_dir) as writer:
            open_data(recipe, writer, lambda phase: None, SHIPPED)

    return task


def captions(size: int, folder: Path) -> Task:
    """Read so many captions, all different, and look for those that are too long."""
    _make_images(size, folder / "images", captions=size)
    recipe = _lora(folder / "images")
    container = ModelCache("cpu").container("builtin:shapes-xl")

    def task() -> None:
        found = open_data(recipe, bench.LastFigures(), lambda phase: None, SHIPPED)
        assert found is not None
        container.truncated_tails(found.all_prompts())

    return task


def encoded(size: int, folder: Path) -> Task:
    """Encode so many prompts and keep them."""
    container = ModelCache("cpu").container("builtin:shapes-xl")
    prompts = [f"a picture of number {number}" for number in range(size)]

    def task() -> None:
        store = TensorStore(folder, "embeds", {"model": "m"}, sync=False)
        PromptEmbedCache(container, store).encode(prompts)

    return task


def runs(size: int, folder: Path) -> Task:
    """List so many runs twice, as the dashboard does, and find one by its name."""
    ledger = Ledger(folder / "runs.jsonl")
    recipe = load_recipe(bench.RECIPES / "slider.yaml", [], plugins=SHIPPED)
    text = dump_recipe(recipe).encode()
    for number in range(size):
        run_dir = RunDir.create(folder, f"run{number}", ledger=ledger)
        run_dir.recipe.replace(text)
        run_dir.metrics.path.write_text(_records(50))
        status = {"phase": "finished", "step": 50, "total": 50, "heartbeat": time.time()}
        run_dir.status.path.write_text(json.dumps(status))

    def task() -> None:
        summaries = RunSummaries(ledger)
        assert len(summaries.look()) == size
        summaries.look()
        find_run("last", ledger)

    return task


def new_runs(size: int, folder: Path) -> Task:
    """Make the folders of so many runs."""
    ledger = Ledger(folder / "runs.jsonl")

    def task() -> None:
        for _ in range(size):
            RunDir.create(folder, "run", ledger=ledger)

    return task


def kept_tensors(size: int, folder: Path) -> Task:
    """List a cache of so many kept embeddings."""
    store = TensorStore(folder, "embeds", {"model": "m"}, sync=False)
    row = {"embeds": torch.zeros(1)}
    for number in range(size):
        store.put(store.key({"prompt": str(number)}), row, describe={"prompt": str(number)})
    store.close()
    return lambda: scan_tensors(folder)


def hub_files(size: int, folder: Path) -> Task:
    """List a hub cache of so many files, ten a repository."""
    for number in range(size // 10):
        repository = folder / f"models--org--model-{number}"
        commit = f"{number:040x}"
        snapshot = repository / "snapshots" / commit
        for path in (repository / "blobs", repository / "refs", snapshot):
            path.mkdir(parents=True)
        (repository / "refs" / "main").write_text(commit)
        for index in range(10):
            blob = repository / "blobs" / f"{number * 10 + index:064x}"
            blob.write_bytes(b"x")
            (snapshot / f"file-{index}").symlink_to(f"../../blobs/{blob.name}")
    return lambda: HubCache(folder).scan()


def recorded(size: int, folder: Path) -> Task:
    """Write the records of so many steps."""
    run_dir = RunDir.create(folder, "run")

    def task() -> None:
        with RunWriter.open(run_dir) as writer:
            for step in range(1, size + 1):
                writer.metric(step=step, loss=1 / step, lr=1e-3, seconds=0.1)

    return task


def read(size: int, folder: Path) -> Task:
    """Read the records of so many steps, as `loba runs` does."""
    run_dir = RunDir.create(folder, "run")
    run_dir.metrics.path.write_text(_records(size))
    return lambda: RunReader(run_dir).new_metrics()


def indexed(size: int, folder: Path) -> Task:
    """Take the records of so many steps into the dashboard's index, and draw all of them."""
    run_dir = RunDir.create(folder, "run")
    run_dir.metrics.path.write_text(_records(size))

    def task() -> None:
        index = SeriesIndex(run_dir, folder / "cache")
        while index.update():
            pass
        assert index.num_rows == size
        for _ in range(20):
            window(index, "loss", first=0.0, last=float(size), num_columns=400)
        index.close()

    return task


SUBJECTS: dict[str, tuple[Maker, Sequence[int], Sequence[int]]] = {
    "concepts, checked": (valid_concepts, (300, 1_200, 4_800), (120, 480)),
    "concepts, opened": (concepts, (132, 600, 1_200), (60, 240)),
    "images": (images, (6_000, 25_000, 100_000), (500, 2_000)),
    "images, some held out": (held_out, (1_500, 6_000, 24_000), (500, 2_000)),
    "captions": (captions, (1_250, 5_000, 20_000), (500, 2_000)),
    "prompts, encoded and kept": (encoded, (300, 1_200, 4_800), (100, 400)),
    "runs, listed": (runs, (100, 400, 1_600), (50, 200)),
    "runs, made": (new_runs, (250, 1_000, 4_000), (100, 400)),
    "kept embeddings, listed": (kept_tensors, (1_250, 5_000, 20_000), (500, 2_000)),
    "hub files, listed": (hub_files, (1_000, 4_000, 16_000), (400, 1_600)),
    "steps, recorded": (recorded, (10_000, 40_000, 160_000), (5_000, 20_000)),
    "steps, read": (read, (10_000, 40_000, 160_000), (5_000, 20_000)),
    "steps, in the dashboard": (indexed, (25_000, 100_000, 400_000), (5_000, 20_000)),
}


def _records(count: int) -> str:
    lines = (
        f'{{"step":{step},"time":{1e9 + step},"seconds":0.1,"loss":{1 / step},"lr":0.001}}\n'
        for step in range(1, count + 1)
    )
    return "".join(lines)


def _make_images(size: int, folder: Path, *, captions: int) -> None:
    """Write images of 8 x 8 pixels, each of its own colour, of three shapes."""
    for number in range(size):
        below = folder / f"{number // 1000:03}"
        if number % 1000 == 0:
            below.mkdir(parents=True)
        color = (number % 256, number // 256 % 256, number // 65536)
        shape = ((8, 8), (12, 8), (8, 12))[number % 3]
        Image.new("RGB", shape, color).save(below / f"{number}.bmp")
        (below / f"{number}.txt").write_text(f"a picture of number {number % captions}")


def _lora(folder: Path, **sections: object) -> bench.Recipe:
    text = {
        "version": 1,
        "base_model": {"id": "builtin:shapes-xl", "device": "cpu"},
        "adapter": {"name": "lora"},
        "method": {"name": "lora_finetune"},
        "data": {"sources": [{"path": str(folder)}]},
        "sample": {"prompts": ["a shape"]},
        **sections,
    }
    return parse_recipe(text, plugins=SHIPPED)


def measured(make: Maker, size: int) -> tuple[float, float]:
    """Return CPU seconds and MiB of a size, found in a process of its own."""
    with tempfile.TemporaryDirectory(prefix="loba-growth-") as folder:
        task = make(size, Path(folder))
        gc.collect()
        gc.freeze()  # torch is here for some rows alone: no other is to be searched with it
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reading)
            code = 1
            try:
                before, begin = _peak_mib(), time.process_time()
                task()
                seconds = time.process_time() - begin
                os.write(writing, json.dumps([seconds, _peak_mib() - before]).encode())
                code = 0
            finally:
                os._exit(code)
        os.close(writing)
        with os.fdopen(reading) as answer:
            text = answer.read()
        if os.waitpid(child, 0)[1] != 0:
            raise SystemExit(f"{make.__name__} of {size} failed")
        seconds, mib = json.loads(text)
        return seconds, mib


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def exponent(sizes: Sequence[int], values: Sequence[float]) -> float:
    """Return the slope between the two largest sizes on logarithmic axes."""
    if min(values[-2:]) <= 0:
        return math.nan
    return math.log(values[-1] / values[-2]) / math.log(sizes[-1] / sizes[-2])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="small sizes, in a minute")
    parser.add_argument("names", nargs="*", help="rows that begin with these words; all without")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    print("| what | sizes | CPU seconds | exponent | MiB | exponent |\n|---|---|---|---|---|---|")
    steep = []
    for name, (make, full, quick) in SUBJECTS.items():
        if asked.names and not name.startswith(tuple(asked.names)):
            continue
        sizes = quick if asked.quick else full
        seconds, memory = zip(*(measured(make, size) for size in sizes), strict=True)
        slopes = exponent(sizes, seconds), exponent(sizes, memory)
        if slopes[0] > HIGHEST_EXPONENT and seconds[-1] > JUDGED_SECONDS:
            steep.append(name)
        cells = (
            " / ".join(f"{size:,}" for size in sizes),
            " / ".join(f"{each:.2f}" for each in seconds),
            f"{slopes[0]:.2f}",
            " / ".join(f"{each:.0f}" for each in memory),
            f"{slopes[1]:.2f}",
        )
        print(f"| {name} | {' | '.join(cells)} |", flush=True)
    print(f"\nsteeper than {HIGHEST_EXPONENT}: {', '.join(steep) or 'none'}")
    return 1 if steep else 0


if __name__ == "__main__":
    sys.exit(main())
