"""CPU seconds of the commands that must feel instant, and what they import.

python benchmarks/startup.py [--runs 7]
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys

import bench

COMMANDS = {
    "loba --help": (["--help"], 0.35),
    "loba runs ls": (["runs", "ls"], 0.35),
    "loba validate recipes/slider.yaml": (["validate", str(bench.RECIPES / "slider.yaml")], 0.5),
}


def cpu_seconds_of(command: list[str]) -> float:
    """Return user plus system seconds of a command, with what it waits for."""
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode != 0:
        raise SystemExit(f"{command} ended with {child.returncode}")
    return usage.ru_utime + usage.ru_stime


def cpu_seconds(arguments: list[str]) -> float:
    """Return user plus system seconds of one call of `loba`."""
    return cpu_seconds_of([sys.executable, "-m", "loba_tui.cli", *arguments])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--runs", type=int, default=7)
    runs = parser.parse_args().runs
    print(f"{'command':36} median   max  limit (CPU seconds, {runs} runs)")
    for name, (arguments, limit) in COMMANDS.items():
        cpu_seconds(arguments)  # the first call compiles and fills the disk cache
        seconds = [cpu_seconds(arguments) for _ in range(runs)]
        print(f"{name:36} {statistics.median(seconds):6.2f} {max(seconds):5.2f}  {limit:5.2f}")


if __name__ == "__main__":
    main()
