"""Is a run on two hosts lost when a process, a host or the cable between them fails?

Two network namespaces are the hosts, with a real ssh between them and no disk in common. One run is
hurt again and again, by kinds that take turns and at steps and ranks by chance; each time it has to
be training again by itself (after SIGTERM: by `loba run --resume`). In the end its adapter must be,
byte for byte, that of a run of the same shape which nothing has disturbed. Needs root.

    python benchmarks/faults.py [--times 20] [--timeout 8] [--seed 0]
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests/support"))

from bench_options import numbers_of
from program_runs import adapter_hashes, shape_slider
from two_hosts import SECOND_NAME, Followed, TwoHosts, found_run, two_hosts, why_not

from loba_tui.core.errors import ExitCode
from loba_tui.core.recipe.load import dump_recipe

_STEPS_A_FAULT = 10
_SECONDS = 240.0


class Hurting:
    """One run on two hosts, and the ways to hurt it."""

    def __init__(self, hosts: TwoHosts, recipe: Path, runs: Path, rng: random.Random) -> None:
        self.hosts, self._recipe, self._runs, self._rng = hosts, recipe, runs, rng
        self.kinds: dict[str, Callable[[], None]] = {
            "process killed": lambda: self._to_a_rank(signal.SIGKILL),
            "process stopped": lambda: self._to_a_rank(signal.SIGSTOP),
            "cable cut": hosts.cut,
            "host killed": hosts.kill_second,
            "ssh killed": self._kill_ssh,
            "SIGTERM": self._terminate,
        }

    def begin(self, name: str, restarts: int) -> Followed:
        """Start a run."""
        process = self.hosts.loba(
            *("run", str(self._recipe), "--out-dir", str(self._runs / name)),
            *("--hosts", f"localhost,{SECOND_NAME}", "--restarts", str(restarts)),
            folder=self.hosts.place,
        )
        self.run = Followed(found_run(self._runs / name), process)
        return self.run

    def hurt(self, kind: str) -> tuple[float, float]:
        """Hurt the run; return the seconds until that was told, and until it trained again."""
        run = self.run
        begin = time.monotonic()
        self.kinds[kind]()
        if kind == "SIGTERM":
            run.process.communicate(timeout=_SECONDS)
            assert run.process.returncode == ExitCode.RESUMABLE, run.said()
            told = time.monotonic() - begin
            run.process = self.hosts.loba(
                "run", "--resume", str(run.run_dir.path), folder=self.hosts.place
            )
        else:
            run.wait_for_any(("peer_lost", "relaunched"), _SECONDS)
            told = time.monotonic() - begin
            self.hosts.mend()
            if kind == "host killed":
                self.hosts.boot()
        run.wait_for("resumed", _SECONDS)
        run.wait_for_step(1, _SECONDS)
        return told, time.monotonic() - begin

    def _to_a_rank(self, number: int) -> None:
        os.kill(self.hosts.rank(self._rng.randrange(2)), number)

    def _kill_ssh(self) -> None:
        for pid in self.hosts.ssh_lines():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def _terminate(self) -> None:
        self.run.process.send_signal(signal.SIGTERM)


def main() -> int:
    arguments = numbers_of(__doc__, times=20, timeout=8, seed=0)
    if reason := why_not():
        print(reason)
        return 1
    rng = random.Random(arguments.seed)
    recipe = shape_slider(
        4,
        name="faults",
        base_model={"id": "builtin:shapes-xl", "device": "cpu", "threads": 1},
        train={"steps": arguments.times * _STEPS_A_FAULT + 20, "batch_size": 1},
        save={"every": 5},
        sample={"prompts": ["a red circle"], "scales": [0, 1], "steps": 1},
        proof={"enabled": False},
        parallel={"timeout": arguments.timeout},
    )
    with tempfile.TemporaryDirectory(prefix="loba-faults-") as folder:
        place, runs = Path(folder, "hosts"), Path(folder, "runs")
        for each in (place, runs):
            each.mkdir()
        environ = {"XDG_STATE_HOME": f"{folder}/state", "LOBA_CACHE": "off", "OMP_NUM_THREADS": "1"}
        with two_hosts(place, runs, environ) as hosts:
            (place / "recipe.yaml").write_text(dump_recipe(recipe))
            hurting = Hurting(hosts, place / "recipe.yaml", runs, rng)
            unbroken = hurting.begin("unbroken", 0)
            unbroken.wait_for("finished", _SECONDS)
            unbroken.process.communicate(timeout=60)
            hurt = hurting.begin("hurt", arguments.times)
            hurt.wait_for_step(1, _SECONDS)
            found = _hurt_often(hurting, arguments.times, rng)
            hurt.wait_for("finished", _SECONDS)
            hurt.process.communicate(timeout=60)
            same = adapter_hashes(hurt.run_dir) == adapter_hashes(unbroken.run_dir)
            code = hurt.process.returncode
    _print_table(found)
    num = sum(map(len, found.values()))
    print(f"{num} faults, after each of which it trained again; exit {code}, same adapter: {same}")
    return 0 if same and code == 0 else 1


def _hurt_often(
    hurting: Hurting, times: int, rng: random.Random
) -> dict[str, list[tuple[float, float]]]:
    found: dict[str, list[tuple[float, float]]] = {kind: [] for kind in hurting.kinds}
    for number in range(times):
        kind = list(hurting.kinds)[number % len(hurting.kinds)]
        # The steps of a launch are counted from the one that it goes on from.
        hurting.run.wait_for_steps(rng.randrange(1, _STEPS_A_FAULT), _SECONDS)
        told, again = hurting.hurt(kind)
        found[kind].append((told, again))
        print(f"  {number + 1:2} {kind:16} told {told:5.1f} s, trains {again:5.1f} s", flush=True)
    return found


def _print_table(found: dict[str, list[tuple[float, float]]]) -> None:
    print("| fault | times | told after (worst) | training again after (worst) |")
    print("|---|---|---|---|")
    for kind, seconds in found.items():
        if seconds:
            told, again = zip(*seconds, strict=True)
            means = [f"{sum(each) / len(each):.1f} s ({max(each):.1f})" for each in (told, again)]
            print(f"| {kind} | {len(seconds)} | {means[0]} | {means[1]} |")


if __name__ == "__main__":
    raise SystemExit(main())
