"""Pulls and deletions of the same repositories at once, each in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from hub_server import COMMIT, Hub

from loba_tui.core.associate.caches.hub.cache import HubCache

PULLER = """
import json, os, sys
from pathlib import Path
from huggingface_hub import snapshot_download
from loba_tui.core.associate.sources.hub_snapshot import fetch_snapshot
from loba_tui.core.errors import LobaError
how, times, ids = sys.argv[1], int(sys.argv[2]), sys.argv[3:]
failed = 0
for number in range(times):
    try:
        if how == "ours":
            fetch_snapshot(ids[number % len(ids)], None, None, hint="")
        else:
            snapshot_download(ids[number % len(ids)])
    except Exception as error:
        failed += 1
        print(repr(error), file=sys.stderr)
print(json.dumps(failed))
"""
DELETER = """
import json, random, sys, time
from pathlib import Path
from loba_tui.core.associate.caches.hub.cache import HubCache, Removal
from loba_tui.core.associate.caches.hub.targets import find_targets
from loba_tui.core.errors import InUseError, RecipeError
root, seed, stop, ids = Path(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]), sys.argv[4:]
cache, chance, deleted, refused = HubCache(root), random.Random(seed), 0, 0
while not stop.exists():
    try:
        plan = cache.plan(Removal(tuple(find_targets(cache.scan(), [chance.choice(ids)]))))
        entry = cache.execute(plan)
        deleted += entry is not None
        if entry and chance.random() < 0.3:
            cache.undo(entry.id)
        elif entry:
            cache.empty_trash([entry])
    except (InUseError, RecipeError):
        refused += 1
        time.sleep(0.002)
print(json.dumps([deleted, refused]))
"""


def race(
    hub: Hub, home: Path, ids: list[str], *, pulls: int, how: str, seed: int
) -> dict[str, int]:
    """Let one process pull while two delete, until it is done; return what happened, counted.

    Args:
        how: "ours" pulls as a run does, "theirs" with the hub's client alone, which takes none of
            our locks and may find its folder gone.
    """
    environ = {
        **os.environ,
        "HF_ENDPOINT": hub.endpoint,
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "NO_PROXY": "*",
    }
    root, stop = home / "hub", home / "stop"
    root.mkdir(parents=True, exist_ok=True)

    def start(code: str, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", code, *arguments],
            env=environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    deleters = [start(DELETER, str(root), str(seed + n), str(stop), *ids) for n in range(2)]
    puller = start(PULLER, how, str(pulls), *ids)
    out, errors = puller.communicate(timeout=600)
    stop.touch()
    assert puller.returncode == 0, errors
    counts = {"pulls": pulls, "failed pulls": json.loads(out), "deletions": 0, "refusals": 0}
    for deleter in deleters:
        out, errors = deleter.communicate(timeout=60)
        assert deleter.returncode == 0, errors
        deleted, refused = json.loads(out)
        counts["deletions"] += deleted
        counts["refusals"] += refused
    return counts


def check(home: Path, ids: list[str]) -> None:
    """See that nothing is broken: the scan has no problem, and every content is sound."""
    cache = HubCache(home / "hub")
    for entry in cache.trash():
        cache.undo(entry.id)
    found = cache.scan()
    assert not found.foreign
    for repository in found.repositories:
        assert repository.id in ids
        if repository.revisions:
            assert [each.commit for each in repository.revisions] == [COMMIT]
        assert not [each for each in repository.problems if "no revisions" not in each.what]
        assert {each.verdict for each in cache.verify(repository)} <= {"good"}


def make_sources(place: Path) -> dict[str, Path]:
    """Return two small repositories to serve."""
    folders = {}
    for name in "ab":
        folder = place / f"source-{name}"
        (folder / "unet").mkdir(parents=True)
        index = {"_class_name": "Pipeline", "unet": ["diffusers", "UNet"]}
        (folder / "model_index.json").write_text(json.dumps(index))
        (folder / "unet" / "config.json").write_text("{}")
        (folder / "unet" / "weights.safetensors").write_bytes(name.encode() * 200_000)
        folders[f"org/{name}"] = folder
    return folders
