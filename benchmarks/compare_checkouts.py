"""Train every shipped recipe of the embedded model with two checkouts, and compare the adapters.

A refactoring must not change a bit of what is trained. Each recipe runs in a process of its own
with the checkout first on `PYTHONPATH`, an empty home and nothing kept from other runs; then the
tensors of both `adapter.safetensors` are compared byte for byte, names, types and shapes included.
What a checkout trained stays under FOLDER, and a second call goes on from there.

    python benchmarks/compare_checkouts.py OLD NEW FOLDER [NAME …]
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

from safetensors import safe_open

MAIN = (sys.executable, "-P", "-m", "loba_tui.core.program.main")


def main() -> int:
    """Compare the recipes that are asked for; return 1 where one differs."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("old", type=Path, help="a checkout of the code before the change")
    parser.add_argument("new", type=Path, help="a checkout of the code after it")
    parser.add_argument("folder", type=Path, help="where the runs go, and stay")
    parser.add_argument("names", nargs="*", help="recipes of the old checkout; all without")
    asked = parser.parse_args()
    recipes = asked.old.resolve() / "recipes"
    names = asked.names or sorted(path.stem for path in recipes.glob("*.yaml"))
    print("| recipe | tensors | sha256 before | sha256 after | equal |\n|---|---|---|---|---|")
    differing = 0
    for name in names:
        before, after = (
            _tensors(_adapter(checkout.resolve(), recipes / f"{name}.yaml", asked.folder / side))
            for side, checkout in (("old", asked.old), ("new", asked.new))
        )
        differing += before != after
        sums = (_digest(tensors)[:16] for tensors in (before, after))
        print(f"| {name} | {len(before)} | {' | '.join(sums)} | {_verdict(before, after)} |")
    print(f"\n{len(names) - differing} of {len(names)} recipes give equal tensors.")
    return int(differing > 0)


def _adapter(checkout: Path, recipe: Path, parent: Path) -> Path:
    """Return the adapter that a checkout trains from a recipe, from an earlier call if there."""
    runs = (parent / recipe.stem).resolve()
    if not (found := list(runs.glob("*/adapter/adapter.safetensors"))):
        home = runs / "home"
        home.mkdir(parents=True, exist_ok=True)
        environ = {"HOME": str(home), "PATH": os.environ["PATH"], "PYTHONPATH": str(checkout)}
        with (runs / "console.txt").open("w") as console:
            argv = [*MAIN, "--recipe", str(recipe), "--out_dir", str(runs)]
            subprocess.run(argv, env=environ, cwd=home, stdout=console, stderr=console, check=True)
        found = list(runs.glob("*/adapter/adapter.safetensors"))
    return found[-1]


def _tensors(path: Path) -> dict[str, tuple[str, bytes]]:
    with safe_open(str(path), framework="np") as file:
        tensors = {key: file.get_tensor(key) for key in sorted(file.keys())}
    return {
        key: (json.dumps([str(tensor.dtype), list(tensor.shape)]), tensor.tobytes())
        for key, tensor in tensors.items()
    }


def _digest(tensors: dict[str, tuple[str, bytes]]) -> str:
    total = hashlib.sha256()
    for key, (kind, content) in tensors.items():
        total.update(f"{key} {kind} ".encode())
        total.update(content)
    return total.hexdigest()


def _verdict(before: dict[str, tuple[str, bytes]], after: dict[str, tuple[str, bytes]]) -> str:
    if before == after:
        return "yes"
    if before.keys() != after.keys():
        return f"no: {len(before.keys() ^ after.keys())} names differ"
    return f"no: {sum(before[key] != after[key] for key in before)} tensors differ"


if __name__ == "__main__":
    sys.exit(main())
