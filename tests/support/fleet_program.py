"""A program for tests of the queue: it trains nothing, but steps, saves and resumes as a run does.

It counts up to `train.steps`, leaves a checkpoint's folder at every step, and goes on from the
newest one with --resume. Its loss is the learning rate, so that a table of runs has an order.
A learning rate of 0.5 fails as a recipe error does.
"""

import os
import re
import signal
import sys
import time
from pathlib import Path

from loba_tui.core.run.directory import RunDir, checkpoint_name, checkpoint_names, checkpoint_step
from loba_tui.core.run.writer import RunWriter

ADAPTER = b"\2" + bytes(7) + b"{}"  # a safetensors file of no tensors
STEP_SECONDS = 0.01


def train(run_dir: RunDir, writer: RunWriter, *, resume: bool) -> int:
    stopped: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, lambda number, frame: stopped.append(number))
    text = run_dir.recipe.path.read_text()
    total, rate = (float(re.search(rf"^  {key}: (\S+)$", text, re.M)[1]) for key in ("steps", "lr"))
    saved = checkpoint_names(run_dir.checkpoints) if resume else []
    first = checkpoint_step(saved[-1]) if saved else 0
    writer.event(
        "started", resume=resume, step=first, devices=os.environ.get("CUDA_VISIBLE_DEVICES")
    )
    if rate == 0.5:
        writer.event("failed", message="the rate is refused", hint="", exit_code=2)
        writer.status(phase="failed")
        return 2
    for step in range(first + 1, int(total) + 1):
        writer.metric(step=step, loss=rate, seconds=STEP_SECONDS, memory_mib=10.0)
        writer.status(phase="training", step=step, total=int(total))
        (run_dir.checkpoints.path / checkpoint_name(step)).mkdir()
        if stopped:
            writer.event("stopped", message="Stopped.", exit_code=75)
            writer.status(phase="stopped")
            return 75
        time.sleep(STEP_SECONDS)
    run_dir.adapter.path.write_bytes(ADAPTER)
    writer.event("finished")
    writer.status(phase="finished")
    return 0


def main(argv: list[str]) -> int:
    run_dir = RunDir(Path(argv[argv.index("--run-dir") + 1]))
    with RunWriter.open(run_dir) as writer:
        return train(run_dir, writer, resume="--resume" in argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
