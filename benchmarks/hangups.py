"""Does a run notice when its viewers are hung up on?

A run is started in a terminal of its own, which is then closed. After that, viewers of it
(`loba runs logs -f`) are attached in further terminals, some at a time, and each terminal is closed
at a random moment. The viewers must be gone soon after; the run must end as if nobody had ever
looked: done, every step recorded once, and with the adapter of a run without viewers.

    python benchmarks/hangups.py [--times 50] [--at-once 5] [--steps 300]
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import pty
import random
import select
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from bench_options import numbers_of

from loba_tui.core.run.directory import RunDir

# A hang-up counts even where this runs under nohup.
LOBA = [
    sys.executable,
    "-c",
    "import signal; signal.signal(signal.SIGHUP, signal.SIG_DFL)\n"
    "from loba_tui.cli import main; main()",
]
RECIPE = """\
version: 1
name: watched
base_model: {id: builtin:shapes-xl, device: cpu}
adapter: {layers: [cross_attention]}
method:
  name: text_slider
  rollout_steps: 4
  concepts: [{target: a circle, positive: a large circle, negative: a small circle}]
train: {batch_size: 1}
sample: {steps: 1, scales: [-1, 1], prompts: [a circle]}
proof: {enabled: false}
"""


@dataclass
class Viewer:
    """A command in a pseudo-terminal of its own."""

    process: subprocess.Popen[bytes]
    master: int

    @classmethod
    def start(cls, *arguments: str, folder: Path) -> Viewer:
        master, slave = pty.openpty()
        process = subprocess.Popen(
            [*LOBA, *arguments],
            cwd=folder,
            env={**os.environ, "XDG_STATE_HOME": str(folder / "state"), "TERM": "xterm"},
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            # The terminal is the session's own, so that closing it hangs the session up.
            preexec_fn=lambda: __import__("fcntl").ioctl(0, __import__("termios").TIOCSCTTY, 0),
        )
        os.close(slave)
        return cls(process, master)

    def read_for(self, seconds: float) -> bytes:
        """Return what it shows in this time."""
        shown = b""
        deadline = time.monotonic() + seconds
        while (rest := deadline - time.monotonic()) > 0:
            if select.select([self.master], [], [], rest)[0]:
                try:
                    shown += os.read(self.master, 65536)
                except OSError:
                    break
        return shown

    def hang_up(self) -> float:
        """Close its terminal and return how long it took to go."""
        begin = time.monotonic()
        os.close(self.master)
        self.process.wait(timeout=30)
        return time.monotonic() - begin


def _sums(run_dir: RunDir) -> list[str]:
    return [
        hashlib.sha256(file.path.read_bytes()).hexdigest()
        for file in (run_dir.adapter, run_dir.adapter_kohya)
    ]


def _only_run(folder: Path) -> RunDir:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        for path in (folder / "output").glob("watched-*"):
            if (path / "status.json").exists():
                return RunDir(path)
        time.sleep(0.05)
    raise SystemExit("no run was started")


def _wait_for(run_dir: RunDir, *phases: str) -> str:
    """Wait until the run is in one of these phases, or has ended; return the phase."""
    while True:
        with contextlib.suppress(OSError, ValueError):
            phase = str(json.loads(run_dir.status.path.read_bytes())["phase"])
            if phase in (*phases, "finished", "failed", "stopped"):
                return phase
        time.sleep(0.05)


def watched(folder: Path, *, times: int, at_once: int, rng: random.Random) -> tuple[RunDir, bool]:
    """Start a run, hang up on it so many times, and return it when it has ended."""
    first = Viewer.start("run", "recipe.yaml", folder=folder)
    run_dir = _only_run(folder)
    _wait_for(run_dir, "training")
    first.read_for(rng.uniform(0, 1))
    gone = [first.hang_up()]
    num_shown = 0
    while len(gone) < times:
        viewers = [
            Viewer.start("runs", "logs", "-f", run_dir.path.name, folder=folder)
            for _ in range(min(at_once, times - len(gone)))
        ]
        for viewer in viewers:
            num_shown += bool(viewer.read_for(rng.uniform(0, 1.0)))
            gone.append(viewer.hang_up())
    phase = json.loads(run_dir.status.path.read_bytes())["phase"]
    print(f"{len(gone)} hang-ups; {num_shown} of them while the viewer showed something")
    print(f"the viewer was gone after {1000 * max(gone):.0f} ms at the latest")
    print(f"the run was {phase} at the last of them")
    _wait_for(run_dir)
    return run_dir, phase == "training"


def main() -> int:
    arguments = numbers_of(__doc__, times=50, at_once=5, steps=300)
    with tempfile.TemporaryDirectory(prefix="loba-hangups-") as temporary:
        folders = [Path(temporary) / name for name in ("watched", "alone")]
        for folder in folders:
            folder.mkdir()
            text = RECIPE.replace("batch_size: 1", f"batch_size: 1, steps: {arguments.steps}")
            (folder / "recipe.yaml").write_text(text)
        run_dir, was_training = watched(
            folders[0], times=arguments.times, at_once=arguments.at_once, rng=random.Random(0)
        )
        outcome = json.loads(run_dir.status.path.read_bytes())["phase"]
        steps = [json.loads(line)["step"] for line in run_dir.metrics.path.read_text().splitlines()]
        once = steps == list(range(1, arguments.steps + 1))
        print(f"the run {outcome}; every step recorded once: {once}")
        alone = Viewer.start("run", "recipe.yaml", folder=folders[1])
        while alone.process.poll() is None:
            alone.read_for(0.2)
        same = _sums(run_dir) == _sums(_only_run(folders[1]))
        print(f"the same adapter as without viewers: {same}")
        if not was_training:
            print("the run ended too soon: give it more --steps")
        return 0 if outcome == "finished" and once and same and was_training else 1


if __name__ == "__main__":
    sys.exit(main())
