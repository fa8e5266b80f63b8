"""A launch as text for the user to run: lines of torchrun, a SLURM script, a SkyPilot file."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Sequence
from typing import Literal

from loba_tui import __version__
from loba_tui.client.launching.slurm import SAVE_SECONDS, TRAPS, WAIT, requeued
from loba_tui.core.errors import RecipeError
from loba_tui.core.recipe.schema import Recipe
from loba_tui.core.run.directory import RunDir
from loba_tui.core.run.launch import PROGRAM
from loba_tui.core.run.launching.hosts import Reach, meeting_of
from loba_tui.core.run.launching.network import LOOPBACK, interface_of
from loba_tui.core.run.launching.shape import Host, LaunchShape
from loba_tui.core.run.launching.torchrun import Launch, torchrun_arguments

Tool = Literal["torchrun", "slurm", "skypilot"]

# Exit 75 says that the run can go on; a shell's status of what a signal ended is above 128. Nothing
# is killed when the first task ends: the run's first process measures when the others are done, and
# a process that is lost is noticed by the others.
_SLURM = """\
#!/bin/bash
#SBATCH --job-name={name}
#SBATCH --nodes={nodes}
#SBATCH --ntasks-per-node={slots}
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@{seconds}
#SBATCH --output={output}
{resources}# More options go before this file: sbatch --partition=P --time=4:00:00 FILE
# The folder below has to be on a disk that every node sees.
set -u
run={run}
export OMP_NUM_THREADS="${{SLURM_CPUS_PER_TASK:-1}}"
export WORLD_SIZE={processes} LOCAL_WORLD_SIZE={slots}
{meeting}
{traps}for attempt in $(seq 0 {restarts}); do
  export MASTER_PORT=$((20000 + (SLURM_JOB_ID * 7 + attempt) % 20000))
  srun --kill-on-bad-exit=0 --wait=0 bash -c \\
    'RANK=$SLURM_PROCID LOCAL_RANK=$SLURM_LOCALID exec "$@"' bash \\
    {program} --run-dir "$run" {arguments} &
{wait}  # A process was lost: all go on from the last checkpoint.
  if [ -n "$stopping" ] || {{ [ $status != 75 ] && [ $status -le 128 ]; }}; then break; fi
done
{end}"""
_SKYPILOT = """\
# sky launch FILE, or: sky jobs launch FILE. The adapter is in ~/run/adapter of the first node.
name: {name}
num_nodes: {nodes}
resources:
  {resources}
file_mounts:
  ~/run: {run}
setup: |
  pip install loba-trainer=={version}
run: |
  set -u
  cd "$HOME"
  python -P -m torch.distributed.run \\
    --nnodes="$SKYPILOT_NUM_NODES" --node-rank="$SKYPILOT_NODE_RANK" --nproc-per-node={slots} \\
    --master-addr="$(echo "$SKYPILOT_NODE_IPS" | head -n 1)" --master-port={port} \\
    --max-restarts=0 --no-python \\
    python -P -m loba_tui.core.program.main --run-dir "$HOME/run" {arguments}
"""
_SKYPILOT_PORT = 29400


def printed_launch(
    tool: Tool, run_dir: RunDir, shape: LaunchShape | None, recipe: Recipe, extra: Sequence[str]
) -> str:
    """Return what starts the run of a folder by another tool.

    Args:
        shape: None is a single process.
        extra: Arguments of the program.

    Raises:
        LobaError: The tool cannot start this shape, or an address is not found.
    """
    shape = shape or LaunchShape((Host("localhost"),))
    if tool == "torchrun":
        return _torchrun(run_dir, shape, extra)
    slots = {host.slots for host in shape.hosts}
    if len(slots) > 1:
        raise RecipeError(
            f"--print-launch {tool}: its nodes get equally many processes.",
            "Give all --hosts the same number; their names do not matter here.",
        )
    arguments = [*extra, *([] if "--resume" in extra else ["--resume"])]
    on_cpu = recipe.base_model.device == "cpu"
    text = _slurm if tool == "slurm" else _skypilot
    return text(run_dir, shape, shlex.join(arguments), on_cpu=on_cpu)


def _torchrun(run_dir: RunDir, shape: LaunchShape, extra: Sequence[str]) -> str:
    reach = Reach(shape.remote_python or sys.executable)
    meeting = meeting_of(shape, reach, restart=0)
    lines = []
    for place, host in enumerate(shape.hosts):
        python = reach.python if place else sys.executable
        program = [python, *PROGRAM[1:], "--run-dir", str(run_dir.path), *extra]
        # Of another host the interface may have another name.
        iface = shape.iface or (None if place else interface_of(meeting.address))
        if place:
            program += ["--join", str(run_dir.recipe.path)]
            lines.append(f"# on {host.name}; copy the file after --join there, unless it is there")
            if iface is None:
                lines.append(f"# set GLOO_SOCKET_IFNAME to what leads to {meeting.address}")
        elif len(shape.hosts) > 1:
            lines.append("# on this machine")
        words = [f"{kind}_SOCKET_IFNAME={iface}" for kind in ("GLOO", "NCCL") if iface is not None]
        command = torchrun_arguments(Launch(shape, meeting), place, program, python=python)
        lines.append(" ".join([*words, shlex.join(command)]))
    return "\n".join(lines) + "\n"


def _slurm(run_dir: RunDir, shape: LaunchShape, arguments: str, *, on_cpu: bool) -> str:
    slots = shape.hosts[0].slots
    is_one = len(shape.hosts) == 1
    iface = shape.iface or (interface_of(LOOPBACK) if is_one else None)
    meeting = (
        f"export MASTER_ADDR={LOOPBACK}"
        if is_one
        else 'export MASTER_ADDR="$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)"'
    )
    if iface is not None:
        meeting += f"\nexport GLOO_SOCKET_IFNAME={iface} NCCL_SOCKET_IFNAME={iface}"
    return _SLURM.format(
        name=run_dir.name,
        nodes=len(shape.hosts),
        slots=slots,
        processes=shape.processes,
        seconds=SAVE_SECONDS,
        traps=TRAPS,
        wait=WAIT,
        end=requeued("$SLURM_JOB_ID"),
        # SLURM reads the file name as a shell would not: it takes quotes as they are.
        output=f"{run_dir.path}/slurm.txt",
        resources="" if on_cpu else f"#SBATCH --gpus-per-node={slots}\n",
        run=shlex.quote(str(run_dir.path)),
        meeting=meeting,
        restarts=shape.restarts,
        program=shlex.join(PROGRAM),
        arguments=arguments,
    )


def _skypilot(run_dir: RunDir, shape: LaunchShape, arguments: str, *, on_cpu: bool) -> str:
    slots = shape.hosts[0].slots
    kinds = ", ".join(f"{name}: {slots}" for name in ("L4", "A100", "H100"))
    return _SKYPILOT.format(
        name=json.dumps(run_dir.name.lower()),
        nodes=len(shape.hosts),
        resources=f"cpus: {4 * slots}+" if on_cpu else f"accelerators: {{{kinds}}}",
        run=json.dumps(str(run_dir.path)),
        version=__version__,
        slots=slots,
        port=shape.port or _SKYPILOT_PORT,
        arguments=arguments,
    )
