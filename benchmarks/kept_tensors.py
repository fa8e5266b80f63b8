"""What keeping text embeddings and latents on disk costs and saves.

    python benchmarks/kept_tensors.py [--entries 20000]

CPU seconds (user and system) of whole processes that open the shipped slider's model with all its
prompts: without a store, with an empty one and with a filled one. Then listing a store of many
latents by `loba cache ls`, and one entry's way to the disk and back.
"""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench_options import numbers_of

ROUNDS = 3
OPEN = """
import sys
from pathlib import Path
from loba_tui.core.program.open_model import open_model, prompts_of
from loba_tui.core.recipe import shipped
from loba_tui.core.recipe.load import load_recipe
from loba_tui.core.plugins import SHIPPED
recipe = load_recipe(shipped.folder() / "slider_unet.yaml", plugins=SHIPPED)
root = Path(sys.argv[1]) if len(sys.argv) > 1 else None
open_model(recipe, prompts=prompts_of(recipe), plugins=SHIPPED, tensors=root)
"""


def cpu_seconds(*command: str, **environ: str) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, env={**os.environ, **environ}, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (after.ru_utime + after.ru_stime) - (before.ru_utime + before.ru_stime)


def time_opening(folder: Path) -> None:
    figures: dict[str, list[float]] = {"without": [], "empty": [], "filled": []}
    for number in range(ROUNDS):
        root = str(folder / f"round-{number}")
        figures["without"].append(cpu_seconds(sys.executable, "-c", OPEN))
        figures["empty"].append(cpu_seconds(sys.executable, "-c", OPEN, root))
        figures["filled"].append(cpu_seconds(sys.executable, "-c", OPEN, root))
    for name, seconds in figures.items():
        print(f"open the slider's model, store {name:8} {min(seconds):6.2f} CPU s")


def time_entries(root: Path, num_entries: int) -> None:
    import torch

    from loba_tui.core.associate.caches.tensors import layout as tensor_layout
    from loba_tui.core.associate.caches.tensors.store import TensorStore

    fingerprint = {"model": {"id": "org/model"}, "machine": {"device": "cpu"}}
    store = TensorStore(root, "latents", fingerprint)
    latent = {"mean": torch.randn(1, 4, 128, 128), "std": torch.rand(1, 4, 128, 128)}
    puts, gets = [], []
    for number in range(100):
        key = store.key({"image": str(number)})
        begin = time.perf_counter()
        store.put(key, latent, describe={"image": f"{number}.png"})
        puts.append(time.perf_counter() - begin)
        begin = time.perf_counter()
        assert store.get(key) is not None
        gets.append(time.perf_counter() - begin)
    size = sum(each.nbytes for each in latent.values()) / 2**10
    print(
        f"put one latent of 1024 pixels ({size:.0f} KiB)  {1e3 * statistics.median(puts):6.2f} ms"
    )
    print(f"get it, checksum included             {1e3 * statistics.median(gets):6.2f} ms")
    store.close()
    for number in range(num_entries):
        path = tensor_layout.entry_path(store.folder, store.key({"n": number}))
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"")


def main() -> None:
    arguments = numbers_of(__doc__, entries=20_000)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        time_opening(folder)
        time_entries(folder / "cache" / "tensors", arguments.entries)
        loba = str(Path(sys.executable).parent / "loba")
        environ = {
            "HF_HUB_CACHE": str(folder / "hub"),
            "XDG_STATE_HOME": str(folder / "state"),
        }
        for cache, what in (("off", "nothing"), (str(folder / "cache"), f"{arguments.entries:,}")):
            seconds = min(
                cpu_seconds(loba, "cache", "ls", LOBA_CACHE=cache, **environ) for _ in range(ROUNDS)
            )
            print(f"loba cache ls, {what} kept {seconds:6.2f} CPU s")


if __name__ == "__main__":
    main()
