"""Does a sweep end complete where some of its runs are killed?

Twenty runs of the embedded model are swept over two CPU slots with the real program. Some of them
are killed with SIGKILL as soon as they have made a random number of steps. All have to end
finished, and the adapters of those that were killed have to be, byte for byte, those of the same
runs that nobody disturbed.

    python benchmarks/sweep.py [--runs 20] [--kills 3] [--seed 0]
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests/support"))

from fleet_recipes import STEPS, tiny_recipe
from loba_command import step

from loba_tui.client.sweeps.folder import Sweep
from loba_tui.core.run.directory import RunDir
from loba_tui.core.run.reader import RunReader

LOBA = (sys.executable, "-P", "-m", "loba_tui.cli")


def killed_at(run: RunDir, wanted: int, process: subprocess.Popen[str]) -> int:
    """Kill a run once it has made so many steps; return how many it had then made."""
    while process.poll() is None:
        reader = RunReader(run)
        status = reader.status()
        if reader.liveness().state == "running" and status and status.owner:
            made = step(run)
            if made >= wanted:
                os.kill(status.owner.pid, signal.SIGKILL)
                return made
        time.sleep(0.005)
    raise SystemExit("the sweep ended before a run could be killed")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    draw = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as folder:
        measure(Path(folder), arguments.runs, arguments.kills, draw)


def measure(folder: Path, num_runs: int, num_kills: int, draw: random.Random) -> None:
    environ = {**os.environ, "XDG_STATE_HOME": str(folder / "state"), "OMP_NUM_THREADS": "1"}
    (folder / "tiny.yaml").write_text(tiny_recipe(save_every=2))
    rates = ",".join(f"{number}e-4" for number in range(1, num_runs + 1))
    argv = [*LOBA, "sweep", "tiny.yaml", "--vary", f"optimizer.lr={rates}", "--slots", "cpu,cpu"]
    begin = time.monotonic()
    process = subprocess.Popen(
        [*argv, "--json"], cwd=folder, env=environ, stdout=subprocess.PIPE, text=True
    )
    while not (found := list(folder.glob("output/*/sweep.json"))):
        time.sleep(0.05)
    sweep = Sweep.open(found[0].parent)
    kills = [
        (number, killed_at(sweep.runs[number].run, draw.randint(1, STEPS - 1), process))
        for number in sorted(draw.sample(range(num_runs), num_kills))
    ]
    told, _ = process.communicate()
    seconds = time.monotonic() - begin
    states = [run["state"] for run in json.loads(told)["runs"]]
    print(f"{states.count('finished')} of {num_runs} runs finished in {seconds:.0f} s\n")
    print("| killed run | after step | goes on from step | adapter of the undisturbed run |")
    print("|---|---|---|---|")
    for number, at in kills:
        run = sweep.runs[number].run
        same = "equal" if digest(run) == digest(undisturbed(run, folder, environ)) else "DIFFERENT"
        print(f"| {number + 1} | {at} | {resumed_from(run)} | {same} |")


def resumed_from(run: RunDir) -> int:
    """Return the step that a run's last program began after."""
    steps = [event.data["step"] for event in RunReader(run).new_events() if event.kind == "resumed"]
    return int(steps[-1]) if steps else 0


def undisturbed(run: RunDir, folder: Path, environ: dict[str, str]) -> RunDir:
    """Train a run's recipe once more."""
    argv = [*LOBA, "run", str(run.recipe.path), "--out-dir", str(folder / "again"), "--detach"]
    done = subprocess.run(argv, env=environ, stdout=subprocess.PIPE, text=True, check=True)
    again = RunDir(Path(done.stdout.strip()))
    while RunReader(again).liveness().state != "finished":
        time.sleep(0.1)
    return again


def digest(run: RunDir) -> str:
    return hashlib.sha256(run.adapter.path.read_bytes()).hexdigest()


if __name__ == "__main__":
    main()
