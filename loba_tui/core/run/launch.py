"""Start the program as a process of its own, one that outlives the terminal that started it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from loba_tui.core.errors import ResourceError
from loba_tui.core.file_sources import file_at
from loba_tui.core.files import UnsafeFileError, unwritable
from loba_tui.core.run import owner
from loba_tui.core.run.directory import RunDir
from loba_tui.core.run.launching.shape import LaunchShape
from loba_tui.core.run.reader import former_ending
from loba_tui.core.run.records import RECORD_VERSION, Status, decode, encode

# -P keeps the working directory out of sys.path, so that no file there can shadow a module.
PROGRAM: tuple[str, ...] = (sys.executable, "-P", "-m", "loba_tui.core.program.main")

SUPERVISOR: tuple[str, ...] = (
    sys.executable,
    "-P",
    "-m",
    "loba_tui.core.run.launching.supervisor",
)
"""What takes the program's place for a run of several processes."""

Action = Literal[
    "sample", "eval", "plan", "data", "doctor", "merge", "interfere", "export", "extract", "bench"
]

_MAX_REQUEST_BYTES = 1024 * 1024

PLAN = "plan.json"
"""The file that a program asked for a plan leaves in its folder."""
BENCH = "bench.json"
"""The file that a program asked for a benchmark leaves in its folder."""


@dataclass(frozen=True)
class Request:
    """Request to a program that does not train; the content of `request.json`.

    Args:
        action: `sample` draws a strip, `eval` measures and writes report.json and report.png,
            `plan` says what the run's recipe comes to and writes plan.json, `data` opens its images
            and leaves what it found there, `doctor` looks at torch and the devices, `merge` makes
            one file of several adapters, `interfere` says how they disturb each other, `export`
            writes one in another form, or into a checkpoint, `extract` makes one of two models,
            `bench` measures the recipe's steps and writes bench.json.
        adapter: Not read for a plan.
        run: The run folder that it comes from, if any.
        out_dir: The folder that results, status, events and log are written to.
        prompts: To draw; as with scales and seeds, empty takes the recipe's.
        several: Adapter files and their strengths, where more than one is meant; to extract, the
            tuned model and the base.
        rank: Most that a written layer may have; None keeps all of it.
        file: Where what is written goes, with keys named as `file_format` has it.
        weights_dtype: Of the written adapter.
        into: The checkpoint that an exported adapter is baked into; empty for none.
        recipe: The text of the resolved recipe that says model, prompts and measure. Whoever makes
            the request has it from the user, or has asked about it: the program reads no other.
        unet_only: Leave out what adapters have for text encoders.
        twins: Write a plus and a minus file instead of `file`, for tools without negative weights.
        recipes: That of each of `several`, for its measure; "" for one that has none.
        tries: To measure, alternatives to the recipe: `KEY=VALUE` assignments, each as `--set` has
            them, for every alternative.
        minutes: The most that a benchmark takes.
        quick: Measure less often.
        memory: For a plan, sizes of memory in bytes: how the recipe would use each of them.
        processes: For a plan, how many: what each of them would hold under every engine.
    """

    action: Action
    adapter: str
    run: str | None
    out_dir: str
    prompts: tuple[str, ...] = ()
    scales: tuple[float, ...] = ()
    seeds: tuple[int, ...] = ()
    several: tuple[tuple[str, float], ...] = ()
    rank: int | None = None
    file: str = ""
    file_format: Literal["diffusers", "kohya", "peft", "comfy"] = "diffusers"
    weights_dtype: Literal["fp32", "fp16", "bf16"] = "fp32"
    into: str = ""
    recipe: str | None = None
    recipes: tuple[str, ...] = ()
    unet_only: bool = False
    twins: bool = False
    tries: tuple[tuple[str, ...], ...] = ()
    minutes: float = 8.0
    quick: bool = False
    memory: tuple[int, ...] = ()
    processes: int = 0
    version: int = field(default=RECORD_VERSION, kw_only=True)

    @classmethod
    def read(cls, path: Path | str) -> Request:
        """Read a request file; raise ValueError where it is not one of this version."""
        try:
            data = decode(file_at(Path(path)).read(_MAX_REQUEST_BYTES))
        except ValueError as error:
            raise ValueError(f"{path} is not a request: {error}") from error
        if data.get("version") != RECORD_VERSION:
            raise ValueError(f"{path} is not a request of version {RECORD_VERSION}")
        try:
            for key in ("prompts", "scales", "seeds", "memory"):
                data[key] = tuple(data.get(key, ()))
            data["recipes"] = tuple(str(each) for each in data.get("recipes", ()))
            data["tries"] = tuple(tuple(map(str, each)) for each in data.get("tries", ()))
            data["several"] = tuple((str(p), float(s)) for p, s in data.get("several", ()))
            return cls(**data)
        except TypeError as error:
            raise ValueError(f"{path} is not a request: {error}") from error


def launch(
    run_dir: RunDir,
    *,
    argv_extra: Sequence[str] = (),
    program: Sequence[str] = PROGRAM,
    environ: Mapping[str, str] | None = None,
    folder: str | None = None,
) -> subprocess.Popen[bytes]:
    """Start the program on a run folder that holds a resolved recipe.yaml.

    A run with a launch.json gets a supervisor in the program's place, which starts its processes.

    Args:
        argv_extra: Further arguments of the program, such as `--resume`.
        environ: None hands on this process's own.
        folder: The working directory; None hands on this process's own.

    Raises:
        InUseError: A program works on the run already.
        CorruptError: Its launch.json cannot be used.
        RefusedError: Something in the folder is not this user's own file or folder.
        ResourceError: The log cannot be written or the process cannot be started.
    """
    argv = [*program, "--run-dir", str(run_dir.path), *argv_extra]
    if LaunchShape.read(run_dir) is not None:
        given = [] if tuple(program) == PROGRAM else ["--program", json.dumps(list(program))]
        argv = [*SUPERVISOR, *argv[len(program) :], *given]
    return _start(run_dir, argv, environ, folder)


def request(
    run_dir: RunDir, wanted: Request, *, program: Sequence[str] = PROGRAM
) -> subprocess.Popen[bytes]:
    """Start the program on a request; it reports in `run_dir`, as a training run does.

    Raises:
        ResourceError: The request or the log cannot be written, or nothing can be started.
    """
    run_dir.request.replace(encode(asdict(wanted)))
    return _start(run_dir, [*program, "--request", str(run_dir.request)])


def _start(
    run_dir: RunDir,
    argv: Sequence[str],
    environ: Mapping[str, str] | None = None,
    folder: str | None = None,
) -> subprocess.Popen[bytes]:
    run_dir.require_safe()
    if run_dir.lock.is_locked(shared=True):
        raise owner.in_use(run_dir.lock)
    former = former_ending(run_dir)
    status = Status("starting", 0, 0, time.time(), extra={"former": former} if former else {})
    run_dir.status.replace(encode(status.as_json()))
    try:
        output = run_dir.log.open_to_append()
        return start_detached(argv, output, environ=environ, folder=folder)
    except UnsafeFileError as error:
        raise unwritable(run_dir.log.path, error) from error
    except OSError as error:
        raise ResourceError(
            f"The program cannot be started in {run_dir.path}: {error.strerror or error}.",
            "Check the folder's free space and that the installation is complete.",
        ) from error


def start_detached(
    argv: Sequence[str],
    output: int,
    *,
    environ: Mapping[str, str] | None = None,
    folder: str | None = None,
) -> subprocess.Popen[bytes]:
    """Start a process that no terminal's end reaches.

    Args:
        output: The descriptor that takes what it prints; it is closed here.
        environ: None hands on this process's own.
        folder: The working directory; None hands on this process's own.

    Raises:
        OSError: It cannot be started.
    """
    try:
        return subprocess.Popen(
            list(argv),
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            # A session of its own: neither Ctrl-C nor a hang-up of the terminal reaches it.
            start_new_session=True,
            env=None if environ is None else dict(environ),
            umask=0o077,
        )
    finally:
        os.close(output)
