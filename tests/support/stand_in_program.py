"""A program that trains nothing: it behaves as its recipe's name says, in fractions of a second."""

import os
import signal
import sys
import time
from pathlib import Path

from loba_tui.core.run.control import take
from loba_tui.core.run.directory import RunDir
from loba_tui.core.run.writer import RunWriter

ADAPTER = b"\2" + bytes(7) + b"{}"  # a safetensors file of no tensors
HOSTILE = "\x1b]0;owned\x07\x1b[31mred\x1b[0m \udcff\u202e"


def behave(name: str, writer: RunWriter, run_dir: RunDir) -> int:
    stopped: list[int] = []
    if name != "deaf":
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
            signal.signal(number, lambda number, frame: stopped.append(number))
    else:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    writer.event("started", device="cpu", dtype="float32")
    total = 1000 if name in ("long", "deaf") else 20
    writer.status(phase="training", step=0, total=total)
    for step in range(1, total + 1):
        obey(writer, step, stopped)
        if stopped:
            writer.status(phase="stopped", step=step)
            writer.event("command", signal=stopped[0])
            return 75
        writer.metric(step=step, loss=1 / step, seconds=0.01, memory_mib=1234.5)
        writer.status(step=step)
        time.sleep(0.01)
    if name == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if name == "silent":
        raise RuntimeError("nobody caught me")
    if name == "out-of-memory":
        writer.status(phase="failed")
        writer.event("failed", message=f"Out of memory {HOSTILE}", hint="Lower train.batch_size.")
        return 4
    if name == "bug":
        writer.status(phase="failed")
        writer.event("failed", message="KeyError: 'x'", hint="")
        return 1
    writer.event("warning", message=f"slow {HOSTILE}")
    run_dir.adapter.path.write_bytes(ADAPTER)
    writer.status(phase="finished")
    writer.event("finished", adapter="adapter/adapter.safetensors")
    return 0


def obey(writer: RunWriter, step: int, stopped: list[int]) -> None:
    """Answer commands as the real program does, with a limit of its own for the learning rate."""
    is_paused = False
    while True:
        for command in take(writer.run_dir):
            answer = {"id": command.id, "command": command.kind, "step": step, "accepted": True}
            if command.kind == "set":
                answer |= {"key": command.args["key"], "old": 1.0, "new": command.args["value"]}
                if command.args["value"] == 0.5:
                    answer |= {"accepted": False, "message": "too fast"}
            is_paused = command.kind == "pause" or (is_paused and command.kind != "resume")
            if command.kind == "stop":
                stopped.append(0)
            writer.status(phase="paused" if is_paused else "training")
            writer.event("command", **answer)
        if not is_paused or stopped:
            return
        time.sleep(0.02)


def main(argv: list[str]) -> int:
    if argv[0] == "--request":
        run_dir = RunDir(Path(argv[1]).parent)
        name = "request"
    else:
        run_dir = RunDir(Path(argv[1]))
        recipe = run_dir.recipe.path.read_text()
        name = next(line[6:] for line in recipe.splitlines() if line.startswith("name: "))
    print("argv", argv[2:], HOSTILE.encode("utf-8", "surrogateescape"), flush=True)
    with RunWriter.open(run_dir) as writer:
        return behave(name, writer, run_dir)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
