"""A sweep as a script for somebody else's scheduler: a SLURM array, or jobs of SkyPilot.

The runs' folders are made when the script is printed; each task trains one, in the foreground, so
that what ends the task ends the run.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from typing import Literal

from loba_tui import __version__
from loba_tui.client.launching.slurm import SAVE_SECONDS, TRAPS, WAIT, requeued
from loba_tui.client.sweeps.folder import Sweep
from loba_tui.client.sweeps.mark import SweepRun
from loba_tui.core.run.launch import PROGRAM

Scheduler = Literal["slurm", "skypilot"]

FILE_NAMES: dict[Scheduler, str] = {"slurm": "sweep.sbatch", "skypilot": "sweep.sky.yaml"}

# Exit 75 says that all is saved. A shell's status of a child that a signal ended is above 128.
_SLURM = """\
#!/bin/bash
#SBATCH --job-name={name}
#SBATCH --array={numbers}
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@{seconds}
#SBATCH --output={output}
{resources}# More options go before this file: sbatch --partition=P --time=4:00:00 FILE
# The folder below has to be on a disk that every node sees.
set -u
sweep={sweep}
declare -A runs=({runs})
run="$sweep/${{runs[$SLURM_ARRAY_TASK_ID]}}"
export OMP_NUM_THREADS="${{SLURM_CPUS_PER_TASK:-1}}"
{traps}for attempt in $(seq 0 {retries}); do
  {program} --run-dir "$run" --resume &
{wait}  # Killed, as by the kernel for want of memory: it goes on from its checkpoint.
  if [ -n "$stopping" ] || [ $status -le 128 ]; then break; fi
done
{end}"""
_SKYPILOT_RUN = """\
set -u
declare -A runs=({runs})
name="${{runs[$LOBA_RUN]}}"
kept="/sweep/$name" here="$HOME/sweep/$name"
mkdir -p "$here"
# A bucket takes whole files only, so that the run is on the local disk and copied there.
cp -r "$kept/." "$here/"
keep() {{ cp -r "$here/." "$kept/"; }}
set -m  # a process group of its own, so that its sleep ends with it
(while sleep 60; do keep; done) & copier=$!
set +m
child= stopping=
trap 'stopping=1; kill -TERM $child 2>/dev/null' TERM
for attempt in $(seq 0 {retries}); do
  python -P -m loba_tui.core.program.main --run-dir "$here" --resume & child=$!
  wait $child
  status=$?
  while kill -0 $child 2>/dev/null; do wait $child; status=$?; done
  if [ -n "$stopping" ] || [ $status -le 128 ]; then break; fi
done
kill -- -$copier
keep
exit $status
"""


def script(sweep: Sweep, runs: Sequence[SweepRun], scheduler: Scheduler, *, on_cpu: bool) -> str:
    """Return the script that trains these runs of a sweep, one a task.

    Args:
        on_cpu: Whether no GPU is asked for.
    """
    return (_slurm if scheduler == "slurm" else _skypilot)(sweep, runs, on_cpu)


def _slurm(sweep: Sweep, runs: Sequence[SweepRun], on_cpu: bool) -> str:
    return _SLURM.format(
        name=sweep.name,
        numbers=_ranges([each.number for each in runs]),
        seconds=SAVE_SECONDS,
        traps=TRAPS,
        wait=WAIT,
        end=requeued("${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID}"),
        # SLURM reads the file name as a shell would not: it takes quotes as they are.
        output=f"{sweep.path}/slurm-%a.txt",
        resources="" if on_cpu else "#SBATCH --gpus-per-node=1\n",
        sweep=shlex.quote(str(sweep.path)),
        runs=_folders(runs),
        retries=sweep.settings.retries,
        program=shlex.join(PROGRAM),
    )


def _skypilot(sweep: Sweep, runs: Sequence[SweepRun], on_cpu: bool) -> str:
    numbers = " ".join(str(each.number) for each in runs)
    run = _SKYPILOT_RUN.format(runs=_folders(runs), retries=sweep.settings.retries)
    resources = "cpus: 4+" if on_cpu else "accelerators: {L4: 1, A10G: 1, RTX4090: 1}"
    lines = [
        "# One managed job for each run; SkyPilot starts it anew where a spot machine is lost:",
        f"#   for number in {numbers}; do",
        f"#     sky jobs launch -y -d --env LOBA_RUN=$number {FILE_NAMES['skypilot']}",
        "#   done",
        "# The bucket's name is yours to choose. Afterwards copy its folders back here.",
        f"name: {json.dumps(sweep.name.lower())}",
        "resources:",
        f"  {resources}",
        "  use_spot: true",
        "envs:",
        f'  LOBA_RUN: "{runs[0].number}"',
        "file_mounts:",
        "  /sweep:",
        f"    name: {json.dumps(sweep.name.lower())}",
        f"    source: {json.dumps(str(sweep.path))}",
        "    mode: MOUNT",
        "setup: |",
        f"  pip install loba-trainer=={__version__}",
        "run: |",
        *(f"  {line}" for line in run.splitlines()),
    ]
    return "\n".join(lines) + "\n"


def _folders(runs: Sequence[SweepRun]) -> str:
    return " ".join(f"[{each.number}]={shlex.quote(each.run.name)}" for each in runs)


def _ranges(numbers: Sequence[int]) -> str:
    """Return 1, 2, 3, 7 as `1-3,7`."""
    parts: list[list[int]] = []
    for number in sorted(numbers):
        if parts and number == parts[-1][-1] + 1:
            parts[-1].append(number)
        else:
            parts.append([number])
    return ",".join(str(p[0]) if len(p) == 1 else f"{p[0]}-{p[-1]}" for p in parts)
