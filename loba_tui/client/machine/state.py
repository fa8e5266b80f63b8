"""The machine under a run: host memory, the trainer's own, and GPUs as NVML sees them."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import psutil

from loba_tui.core.foreign_json import parse_json
from loba_tui.core.run import owner
from loba_tui.core.run.records import Owner

_GIB = 2**30
_PROBE_SECONDS = 2.0
# Two hours at one look in two seconds; more is what metrics.jsonl is for.
_MOST_SAMPLES = 3600
_MAX_LINE = 1024 * 1024


@dataclass(frozen=True)
class MachineState:
    """One look at the machine.

    Attributes:
        trainer_gib: Resident memory of the program; None where it is not seen from here.
        gpus: As `gpu_probe` writes them.
        gpu_error: Why there are none, in one line.
    """

    time: float
    host_used_gib: float
    host_total_gib: float
    cpu_percent: float
    trainer_gib: float | None = None
    gpus: tuple[Mapping[str, Any], ...] = ()
    gpu_error: str = ""


class GpuProbe:
    """The child process that asks NVML, started at once, and its newest answer."""

    def __init__(self) -> None:
        self.newest: Mapping[str, Any] = {}
        self._rest = b""
        self._process: subprocess.Popen[bytes] | None = None
        module = "loba_tui.client.machine.gpu_probe"
        argv = [sys.executable, "-P", "-m", module, str(_PROBE_SECONDS)]
        pipe, null = subprocess.PIPE, subprocess.DEVNULL
        try:
            self._process = subprocess.Popen(argv, stdin=pipe, stdout=pipe, stderr=null)
            assert self._process.stdout is not None
            os.set_blocking(self._process.stdout.fileno(), False)
        except OSError as error:
            self.newest = {"error": f"NVML cannot be asked: {error.strerror}"}

    def look(self) -> Mapping[str, Any]:
        """Return its newest answer without waiting for one."""
        if self._process is None or self._process.stdout is None:
            return self.newest
        with contextlib.suppress(OSError):
            while chunk := os.read(self._process.stdout.fileno(), 65536):
                self._rest = (self._rest + chunk)[-_MAX_LINE:]
        *lines, self._rest = self._rest.split(b"\n")
        for line in lines:
            with contextlib.suppress(ValueError):
                self.newest = parse_json(line)
        return self.newest

    def close(self) -> None:
        """Kill the process."""
        if self._process is None:
            return
        self._process.kill()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()
        self._process.wait()
        self._process = None


@dataclass
class Machine:
    """Looks at the machine, and remembers the last hours while somebody watches."""

    probe: GpuProbe = field(default_factory=GpuProbe)
    history: deque[MachineState] = field(default_factory=lambda: deque(maxlen=_MOST_SAMPLES))

    def look(self, process: Owner | None) -> MachineState:
        """Return the present state; `process` is the program of the run that is watched."""
        memory = psutil.virtual_memory()
        answer = self.probe.look()
        state = MachineState(
            time=time.time(),
            host_used_gib=(memory.total - memory.available) / _GIB,
            host_total_gib=memory.total / _GIB,
            cpu_percent=psutil.cpu_percent(),
            trainer_gib=_resident(process),
            gpus=tuple(answer.get("gpus", ())),
            gpu_error=str(answer.get("error", "")),
        )
        if not self.history or state.time - self.history[-1].time >= _PROBE_SECONDS * 0.9:
            self.history.append(state)
        return state

    def close(self) -> None:
        """End the probe."""
        self.probe.close()


def figures(state: MachineState) -> dict[str, float]:
    """Return the numbers of a state that can be drawn over time, by name."""
    found = {"host memory, GiB": state.host_used_gib, "CPU, %": state.cpu_percent}
    if state.trainer_gib is not None:
        found["trainer's host memory, GiB"] = state.trainer_gib
    for gpu in state.gpus:
        number = gpu.get("index")
        for key, label in (
            ("utilization", "utilisation, %"),
            ("used_mib", "memory, MiB"),
            ("celsius", "temperature, °C"),
        ):
            value = gpu.get(key)
            if isinstance(value, int | float):
                found[f"GPU {number} {label}"] = float(value)
    return found


def _resident(process: Owner | None) -> float | None:
    if process is None or process.host != owner.this_process().host or owner.has_ended(process):
        return None
    try:
        return float(psutil.Process(process.pid).memory_info().rss) / _GIB
    except psutil.Error:
        return None
