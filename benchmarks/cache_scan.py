"""How long listing a cache takes, beside `hf cache ls` on the same folders.

    python benchmarks/cache_scan.py

CPU seconds of the whole process (user and system), least of several runs taken in turn; for the
first rows of a large cache, seconds inside a process that has the modules loaded.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from loba_tui.core.associate.caches.hub.cache import HubCache

FILES = 10
ROUNDS = 5


def make_cache(root: Path, repositories: int) -> None:
    """Make a cache of repositories with two revisions that share half of their files."""
    for number in range(repositories):
        folder = root / f"models--org{number % 20}--model-{number:04}"
        (folder / "blobs").mkdir(parents=True)
        (folder / "refs").mkdir()
        for revision in range(2):
            commit = f"{number * 2 + revision:040x}"
            for index in range(FILES // 2 if revision else FILES):
                name = f"unet/part-{index}.safetensors" if index % 2 else f"config-{index}.json"
                blob = folder / "blobs" / f"{number * FILES + index:064x}"
                if not blob.exists():
                    blob.write_bytes(b"x" * 100)
                path = folder / "snapshots" / commit / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.symlink_to(os.path.relpath(blob, path.parent))
            (folder / "refs" / ("main" if not revision else "v2")).write_text(commit)


def cpu_seconds(command: list[str], root: Path) -> float:
    environ = {
        **os.environ,
        "HF_HUB_CACHE": str(root),
        "HF_HUB_OFFLINE": "1",
        "XDG_STATE_HOME": str(root.parent / "state"),
    }
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, env=environ, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (after.ru_utime + after.ru_stime) - (before.ru_utime + before.ru_stime)


def main() -> None:
    scripts = Path(sys.executable).parent
    commands = {
        "loba cache ls": [str(scripts / "loba"), "cache", "ls"],
        "loba cache ls --json": [str(scripts / "loba"), "cache", "ls", "--json"],
        "hf cache ls": [str(scripts / "hf"), "cache", "ls"],
    }
    print(f"{'repositories':>12}  {'command':24}{'CPU seconds':>12}")
    for repositories in (0, 200, 2000):
        with tempfile.TemporaryDirectory(prefix="loba-cache-") as folder:
            root = Path(folder) / "hub"
            root.mkdir()
            make_cache(root, repositories)
            least = dict.fromkeys(commands, float("inf"))
            for _ in range(ROUNDS if repositories < 2000 else 3):
                for name, command in commands.items():
                    least[name] = min(least[name], cpu_seconds(command, root))
            for name, seconds in least.items():
                print(f"{repositories:>12}  {name:24}{seconds:>12.2f}")
            began = time.perf_counter()
            found = HubCache(root).repositories()
            rows = [row for row, _ in zip(found, range(20), strict=False)]
            first = time.perf_counter() - began
            HubCache(root).scan()
            whole = time.perf_counter() - began - first
            print(f"{repositories:>12}  {'scan: first 20 rows':24}{first:>12.3f}  wall")
            print(f"{repositories:>12}  {'scan: everything':24}{whole:>12.3f}  wall")
            assert len(rows) == min(20, repositories)


if __name__ == "__main__":
    main()
