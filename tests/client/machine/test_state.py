"""The machine under a run: the probe that asks NVML, and what is made of its answers."""

from __future__ import annotations

import os
import time
from types import SimpleNamespace
from typing import Any

from loba_tui.client.machine import gpu_probe
from loba_tui.client.machine.state import GpuProbe, Machine, MachineState, figures
from loba_tui.core.run import owner


class Refused(Exception):
    pass


def refuse(*arguments: Any) -> None:
    raise Refused


def driver(**changes: Any) -> SimpleNamespace:
    """Return what pynvml is with one GPU."""
    functions = {
        "NVMLError": Refused,
        "NVML_TEMPERATURE_GPU": 0,
        "nvmlDeviceGetCount": lambda: 1,
        "nvmlDeviceGetHandleByIndex": lambda index: index,
        "nvmlDeviceGetName": lambda handle: b"Some GPU",
        "nvmlDeviceGetMemoryInfo": lambda handle: SimpleNamespace(used=2**30, total=2**33),
        "nvmlDeviceGetUtilizationRates": lambda handle: SimpleNamespace(gpu=93),
        "nvmlDeviceGetTemperature": lambda handle, which: 61,
        "nvmlDeviceGetPowerUsage": lambda handle: 250_000,
        "nvmlDeviceGetComputeRunningProcesses": lambda handle: [
            SimpleNamespace(pid=7, usedGpuMemory=2**20)
        ],
    }
    return SimpleNamespace(**{**functions, **changes})


def test_the_probe_tells_what_nvml_tells() -> None:
    (gpu,) = gpu_probe.read(driver())["gpus"]
    assert gpu["name"] == "Some GPU"
    assert (gpu["used_mib"], gpu["total_mib"]) == (1024.0, 8192.0)
    assert (gpu["utilization"], gpu["celsius"], gpu["watts"]) == (93, 61, 250.0)
    assert gpu["processes"] == [{"pid": 7, "mib": 1.0}]


def test_what_a_gpu_does_not_tell_is_left_out() -> None:
    found = driver(nvmlDeviceGetMemoryInfo=refuse, nvmlDeviceGetComputeRunningProcesses=refuse)
    (gpu,) = gpu_probe.read(found)["gpus"]
    assert gpu["used_mib"] is None
    assert gpu["processes"] == []
    assert gpu["utilization"] == 93
    state = MachineState(0.0, 1.0, 2.0, 3.0, gpus=(gpu,))
    assert figures(state)["GPU 0 utilisation, %"] == 93.0
    assert "GPU 0 memory, MiB" not in figures(state)


def test_the_probe_answers_with_gpus_or_why_there_are_none_and_ends() -> None:
    probe = GpuProbe()
    process = probe._process
    assert process is not None
    deadline = time.monotonic() + 30
    while not probe.look() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert probe.newest.keys() & {"gpus", "error"}
    probe.close()
    assert process.poll() is not None
    assert probe.look() == probe.newest


def test_a_look_sees_the_host_and_the_trainer() -> None:
    machine = Machine()
    try:
        state = machine.look(owner.this_process())
        assert 0 < state.host_used_gib <= state.host_total_gib
        assert state.trainer_gib is not None
        assert state.trainer_gib > 0.01
        assert list(machine.history) == [state]
        gone = owner.Owner(os.getpid(), "another host", 1.0, None)
        assert machine.look(gone).trainer_gib is None
    finally:
        machine.close()
