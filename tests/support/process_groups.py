"""Trainings by several processes over gloo: one group of them makes one training after another.

As a program it is one of these processes: `python process_groups.py JOBS`, with RANK and
WORLD_SIZE as torchrun sets them.
"""

from __future__ import annotations

import importlib
import json
import math
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from loba_tui.core.plugins import SHIPPED
from loba_tui.core.program import main
from loba_tui.core.recipe.load import dump_recipe, parse_recipe
from loba_tui.core.recipe.schema import Recipe
from loba_tui.core.run.directory import RunDir

SECONDS = 300
"""After which a group is ended, whatever it does."""


@dataclass(frozen=True)
class Job:
    """A training, from its beginning or from a checkpoint of another run.

    Attributes:
        run_dir: Holds the recipe.
        breaks_first_strip: Drawing it fails on the first process between two of its images.
        after: Another run, which this one goes on from the checkpoint of `step` of.
        port: Of loopback, where the processes of this job meet.
        spoiled: The micro-step whose loss is NaN in it and in later jobs of its group.
    """

    run_dir: str
    breaks_first_strip: bool = False
    after: str | None = None
    step: int = 0
    port: int = 0
    spoiled: int | None = None


@dataclass(frozen=True)
class Trained:
    """A finished run and what it recorded."""

    run_dir: RunDir

    @property
    def adapter(self) -> dict[str, Tensor]:
        """The exported weights, by diffusers' names."""
        return load_file(self.run_dir.adapter.path)

    @property
    def losses(self) -> list[float]:
        """The loss of each step."""
        lines = self.run_dir.metrics.path.read_text().splitlines()
        return [json.loads(line)["loss"] for line in lines]

    def events(self, name: str) -> list[dict[str, Any]]:
        """Return the events of a name, in order."""
        lines = map(json.loads, self.run_dir.events.path.read_text().splitlines())
        return [event for event in lines if event["event"] == name]

    @property
    def num_held(self) -> int:
        """Elements of the denoiser that the first process held."""
        return int(self.events("built")[0]["held_parameters"])


def bank_slider(**sections: Any) -> Recipe:
    """Return a slider on the embedded model that trains in few forwards, with these sections."""
    recipe = {
        "version": 1,
        "name": "small",
        "base_model": {"id": "builtin:shapes-xl", "device": "cpu", "threads": 1},
        "adapter": {"name": "lora", "rank": 2, "alpha": 2},
        "method": {
            "name": "text_slider",
            "trajectories": "bank",
            "rollout_steps": 3,
            "bank_images": 4,
            "bank_samples": 16,
            "concepts": [
                {"target": "a shape", "positive": "a large shape", "negative": "a small shape"},
                {
                    "target": "a red circle",
                    "positive": "a large red circle",
                    "negative": "a red dot",
                },
            ],
        },
        # AdamW divides a gradient by its own size: with its usual eps of 1e-8, one that is nothing
        # but rounding makes a step as large as any other.
        "optimizer": {"name": "adamw", "lr": 1e-3, "eps": 1e-6},
        "scheduler": {"noise": {"name": "euler"}},
    }
    return parse_recipe({**recipe, **sections}, plugins=SHIPPED)


def new_job(recipe: Recipe, parent: Path) -> Job:
    """Return a job that trains a recipe in a new folder."""
    run_dir = RunDir.create(parent, recipe.name)
    run_dir.recipe.path.write_text(dump_recipe(recipe))
    return Job(str(run_dir.path), port=_free_port())


def job_after(job: Job, step: int) -> Job:
    """Return a job that goes on from a checkpoint of another one, in a copy of its folder."""
    return Job(f"{job.run_dir}-resumed", after=job.run_dir, step=step, port=_free_port())


def train_together(
    jobs: Sequence[Job], num_processes: int, folder: Path, *, seconds: float = SECONDS
) -> list[Trained]:
    """Make jobs one after another on so many processes, and return what each has made.

    Args:
        seconds: After which the group is ended, whatever it does.

    Raises:
        AssertionError: A process failed, or they took too long; it carries what they said.
    """
    file = folder / "jobs.json"
    file.write_text(json.dumps([asdict(job) for job in jobs]))
    run_together([__file__, str(file)], num_processes, folder, seconds=seconds)
    return [Trained(RunDir(Path(job.run_dir))) for job in jobs]


def run_together(
    command: Sequence[str], num_processes: int, folder: Path, *, seconds: float = SECONDS
) -> None:
    """Run a Python program as so many processes that know of each other as torchrun's do.

    Args:
        seconds: After which the group is ended, whatever it does.

    Raises:
        AssertionError: A process failed, or they took too long; it carries what they said.
    """
    with _processes(command, num_processes, folder) as processes:
        end = time.monotonic() + seconds
        while any(process.poll() is None for process in processes):
            failed = any(process.poll() for process in processes)
            if failed or time.monotonic() > end:
                break
            time.sleep(0.05)
        codes = [process.poll() for process in processes]
    said = "\n".join((folder / f"{rank}.txt").read_text()[-4000:] for rank in range(num_processes))
    assert codes == [0] * num_processes, f"exit codes {codes}\n{said}"


@contextmanager
def _processes(command: Sequence[str], num_processes: int, folder: Path) -> Iterator[list[Any]]:
    """Start processes, each with a process group of its own, and end them all."""
    started, port = [], _free_port()
    with ExitStack() as stack:
        for rank in range(num_processes):
            output = stack.enter_context((folder / f"{rank}.txt").open("w"))
            environment = os.environ | {
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": str(num_processes),
                "LOCAL_WORLD_SIZE": str(num_processes),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
                "OMP_NUM_THREADS": "1",
            }
            process = subprocess.Popen(
                [sys.executable, *command],
                env=environment,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            started.append(process)
        try:
            yield started
        finally:
            for process in started:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def _free_port() -> int:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        port: int = bound.getsockname()[1]
        return port


def _work(jobs: Sequence[Job]) -> int:
    """Make all jobs as one of their processes; return the first exit code that is not 0."""
    from ring_on_cpu import ring_on_cpu

    from loba_tui.core.program.benchmarking.subject import forget_accelerators

    with ring_on_cpu():
        return _work_through(jobs, forget_accelerators)


def _work_through(jobs: Sequence[Job], forget_accelerators: Callable[[], None]) -> int:
    for job in jobs:
        os.environ["MASTER_PORT"] = str(job.port)
        if job.after is not None:
            _copy(job) if os.environ["RANK"] == "0" else _wait_for(Path(job.run_dir))
        forget_accelerators()
        _forget_deepspeed()
        if job.spoiled is not None:
            _spoil(job.spoiled)
        if job.breaks_first_strip:
            _break_first_strip()
        resume = ["--resume"] if job.after is not None else []
        if code := main.main(["--run-dir", job.run_dir, *resume]):
            return code
    return 0


def _break_first_strip() -> None:
    from loba_tui.core.program.sampling import run_strips

    usual = run_strips.go_on_or_stop

    def broken(*_arguments: object) -> None:
        run_strips.go_on_or_stop = usual
        raise RuntimeError("the paper is out")

    run_strips.go_on_or_stop = broken


def _spoil(index: int) -> None:
    """Make the loss of a micro-step NaN, in this and in later runs of the group."""
    from loba_tui.core.program.method import StepOutput
    from loba_tui.core.program.methods.text_slider import TextSlider

    step = TextSlider.step

    def spoiled(self: TextSlider, at: int, progress: float) -> StepOutput:
        output = step(self, at, progress)
        loss = output.loss * math.nan if at == index else output.loss
        return StepOutput(loss=loss, metrics=output.metrics)

    TextSlider.step = spoiled


def _forget_deepspeed() -> None:
    """Have DeepSpeed look for a group of processes again: it keeps the first one for good."""
    if "deepspeed" in sys.modules:
        sys.modules["deepspeed.comm.comm"].cdb = None  # type: ignore[attr-defined]
        importlib.reload(sys.modules["deepspeed.utils.groups"])


def _copy(job: Job) -> None:
    """Make a job's folder as if its run had been killed just after a step was saved."""
    assert job.after is not None
    copy = Path(f"{job.run_dir}-copying")
    shutil.copytree(job.after, copy)
    for folder in (copy / "checkpoints").iterdir():
        if folder.name != f"step-{job.step:06}":
            shutil.rmtree(folder)
    shutil.rmtree(copy / "adapter")
    copy.rename(job.run_dir)


def _wait_for(folder: Path) -> None:
    while not folder.exists():
        time.sleep(0.05)


if __name__ == "__main__":
    sys.exit(_work([Job(**each) for each in json.loads(Path(sys.argv[1]).read_text())]))
