"""Makes run folders as an attacker or a broken disk would leave them, and tells what they reach.

A folder is a healthy run with one or several of its entries replaced: by links, named pipes,
devices, sockets, hard links, other users' files, torn and foreign records, or files without end.
Beside it lie files that no command may touch. `attack_matrix.py` runs thousands of these through
every command; the tests take some of each kind.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import random
import socket
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from safetensors.numpy import save

from loba_tui.core.run import owner
from loba_tui.core.run.control import Command, send
from loba_tui.core.run.directory import Ledger, RunDir
from loba_tui.core.run.writer import RunWriter

RECIPE = """\
version: 1
name: victim
base_model: {id: builtin:shapes-xl}
method:
  name: text_slider
  concepts: [{target: a shape, positive: a large shape, negative: a small shape}]
"""
HOSTILE_TEXT = "x\x1b]0;owned\x07\x9b31m\u202e\r\nFAKE LINE\nroot:x:0:0"
ENTRIES = (
    "recipe.yaml", "status.json", "metrics.jsonl", "events.jsonl", "log.txt", "run.lock",
    "steering.json", "origin.json", ".loba-run", "control", "checkpoints", "samples", "adapter",
    "adapter/adapter.safetensors", "adapter/adapter.kohya.safetensors", "adapter/report.json",
    "adapter/report.png", "samples/step-000001.png", "checkpoints/step-000001",
    "checkpoints/step-000001/manifest.json", "checkpoints/step-000001/state.json",
    "checkpoints/step-000001/adapter.safetensors", "control/00000001-0123abcd.json",
    ".status.json.1.tmp", "checkpoints/.tmp-step-000002-1", "checkpoints/.replaced-step-000003-1",
)  # fmt: skip


class Place:
    """A folder with a victim's files, a ledger, and room for run folders.

    Attributes:
        outside: The victim's files, which no command may touch.
    """

    def __init__(self, folder: Path) -> None:
        self.outside = folder / "home"
        self.runs = folder / "runs"
        self.state = folder / "state"
        for each in (self.outside / "folder", self.outside / "checkpoints" / "step-000009"):
            each.mkdir(parents=True)
        self.runs.mkdir()
        os.mkfifo(self.outside / "pipe")
        (self.outside / ".profile").write_text("export PATH\n")
        (self.outside / "folder" / "00000001-0123abcd.json").write_text("{}")
        (self.outside / "folder" / "step-000001.png").write_bytes(b"\x89PNG mine")
        (self.outside / "checkpoints" / "step-000009" / "manifest.json").write_text("{}")
        (self.outside / "status.json").write_text('{"version": 1, "phase": "mine"}')
        self.ledger = Ledger(self.state / "loba" / "runs.jsonl")

    def make(self, name: str) -> RunDir:
        """Return a healthy finished run, with a checkpoint, strips, an adapter and a report."""
        run_dir = RunDir.create(self.runs, name)
        run_dir.recipe.replace(RECIPE.encode())
        with RunWriter.open(run_dir) as writer:
            writer.event("started", name="victim")
            for step in (1, 2):
                writer.metric(step=step, loss=0.5)
            writer.status(phase="training", step=2, total=4)
        weights = save({"unet.a.lora_A.weight": np.ones((1, 1), np.float32)})
        run_dir.adapter.replace(weights)
        run_dir.adapter_kohya.replace(weights)
        run_dir.report.replace(b'{"outcome": "working", "verdict": ["It works."]}')
        run_dir.report_picture.replace(b"\x89PNG")
        run_dir.sample_strip(1).replace(b"\x89PNG")
        run_dir.log.replace(b"one line\n")
        checkpoint = run_dir.checkpoints.folder("step-000001")
        checkpoint.make()
        files = {"adapter.safetensors": weights, "state.json": b'{"version": 1, "step": 1}'}
        sums = {file: hashlib.sha256(content).hexdigest() for file, content in files.items()}
        for file, content in {**files, "manifest.json": json.dumps(sums).encode()}.items():
            checkpoint.file(file).replace(content)
        send(run_dir, Command("save"))
        self.ledger.register(run_dir)
        return run_dir


def snapshot(folder: Path) -> dict[str, tuple[object, ...]]:
    """Return what everything below a folder is, so that any change of it shows."""
    found = {}
    for path in sorted([folder, *folder.rglob("*")]):
        facts = path.lstat()
        content = path.read_bytes() if stat.S_ISREG(facts.st_mode) else b""
        # A hard link made by an attack counts up the names; that is no doing of a command's.
        found[str(path.relative_to(folder))] = (facts.st_mode, facts.st_uid, content)
    return found


def _clear(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        for each in sorted(path.iterdir()):
            _clear(each)
        path.rmdir()
    elif os.path.lexists(path):
        path.unlink()


def _device(path: Path, minor: int) -> None:
    """Make /dev/zero or the like where that is allowed, a link to it elsewhere."""
    try:
        os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, minor))
    except PermissionError:
        path.symlink_to({3: "/dev/null", 5: "/dev/zero"}[minor])


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        here = os.open(path.parent, os.O_RDONLY)
        try:  # a socket's address is short
            server.bind(f"/proc/self/fd/{here}/{path.name}")
        finally:
            os.close(here)


def _hard_link(place: Place, path: Path) -> None:
    try:
        os.link(place.outside / ".profile", path)
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EPERM):
            raise
        path.symlink_to(place.outside / ".profile")


def _foreign(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    if os.geteuid() == 0:
        os.chown(path, 12345, 12345)


def _sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(2**40)


def _forged_status(**changes: object) -> bytes:
    """Return a status that names a living process of this user as the run's."""
    me = vars(owner.this_process())
    status = {"version": 1, "phase": "training", "step": 1, "total": 4, "heartbeat": 2e9, **me}
    return json.dumps({**status, **changes}).encode()


MUTATIONS: dict[str, Callable[[Place, Path], object]] = {
    "link to a file": lambda place, path: path.symlink_to(place.outside / ".profile"),
    "link to a folder": lambda place, path: path.symlink_to(place.outside / "folder"),
    "link to checkpoints": lambda place, path: path.symlink_to(place.outside / "checkpoints"),
    "link to a record": lambda place, path: path.symlink_to(place.outside / "status.json"),
    "link to nothing": lambda place, path: path.symlink_to(place.outside / "not-there"),
    "link to itself": lambda place, path: path.symlink_to(path.name),
    "link upwards": lambda place, path: path.symlink_to("../" * 3),
    "link to a process": lambda place, path: path.symlink_to("/proc/self/environ"),
    "hard link": _hard_link,
    "named pipe": lambda place, path: os.mkfifo(path),
    "socket": lambda place, path: _socket(path),
    "zero device": lambda place, path: _device(path, 5),
    "null device": lambda place, path: _device(path, 3),
    "link to zeros": lambda place, path: path.symlink_to("/dev/zero"),
    "empty folder": lambda place, path: path.mkdir(),
    "empty file": lambda place, path: path.write_bytes(b""),
    "another user's file": lambda place, path: _foreign(path, b"{}"),
    "file without end": lambda place, path: _sparse(path),
    "no access": lambda place, path: (path.write_bytes(b"{}"), path.chmod(0)),
    "garbage": lambda place, path: path.write_bytes(random.Random(0).randbytes(3000)),
    "torn record": lambda place, path: path.write_bytes(b'{"version":1,"phase":"trai'),
    "a list": lambda place, path: path.write_bytes(b"[1,2,3]\n"),
    "deep nesting": lambda place, path: path.write_bytes(b"[" * 100_000),
    "huge numbers": lambda place, path: path.write_bytes(
        b'{"version":1,"phase":"training","step":1e999,"total":' + b"9" * 5000 + b',"pid":1e99}\n'
    ),
    "odd types": lambda place, path: path.write_bytes(
        b'{"version":1,"phase":[],"step":{},"total":null,"pid":"a","host":3,"time":"x",'
        b'"event":[],"recipe":7,"changes":{},"outcome":[],"verdict":{},"command":[],"args":3}\n'
    ),
    "hostile text": lambda place, path: path.write_bytes(
        json.dumps(dict.fromkeys(("phase", "event", "outcome", "recipe"), HOSTILE_TEXT)).encode()
        + b"\n" + HOSTILE_TEXT.encode()
    ),
    "forged counters": lambda place, path: path.write_bytes(
        _forged_status(
            process_start=1.0,
            oom_kills={f"/sys/fs/cgroup/../../..{place.outside / 'pipe'}": 0, "/dev/zero": 0},
        )
    ),
    "forged process": lambda place, path: path.write_bytes(_forged_status()),
    "forged init": lambda place, path: path.write_bytes(
        _forged_status(pid=1, process_start=owner.process_start(1))
    ),
}  # fmt: skip
"""What stands in an entry's place, made at its path."""


def mutate(place: Place, run_dir: RunDir, entry: str, kind: str) -> None:
    """Replace an entry of a run by something else; what has no parent folder any more stays out."""
    path = run_dir.path / entry
    if not path.parent.is_dir() or path.parent.resolve() != path.parent:
        return
    _clear(path)
    MUTATIONS[kind](place, path)


def random_mutations(generator: random.Random) -> Iterator[tuple[str, str]]:
    """Yield some entries, and what each is replaced by."""
    for _ in range(generator.choice((1, 1, 1, 2, 3, 6))):
        yield generator.choice(ENTRIES), generator.choice(list(MUTATIONS))
