"""Asks NVML for the GPUs, in a process of its own: a driver that hangs must not hang a viewer.

Writes one JSON object a line, and ends when nobody reads it any more.
"""

from __future__ import annotations

import json
import select
import sys
from typing import Any


def read(nvml: Any) -> dict[str, Any]:
    """Return what NVML says of every GPU and its processes."""
    return {"gpus": [_gpu(nvml, index) for index in range(nvml.nvmlDeviceGetCount())]}


def _gpu(nvml: Any, index: int) -> dict[str, Any]:
    handle = nvml.nvmlDeviceGetHandleByIndex(index)

    def ask(function: Any, *arguments: Any) -> Any:
        # What a GPU or a container does not tell is left out, not guessed.
        try:
            return function(handle, *arguments)
        except nvml.NVMLError:
            return None

    memory = ask(nvml.nvmlDeviceGetMemoryInfo)
    use = ask(nvml.nvmlDeviceGetUtilizationRates)
    name = ask(nvml.nvmlDeviceGetName)
    power = ask(nvml.nvmlDeviceGetPowerUsage)
    processes = ask(nvml.nvmlDeviceGetComputeRunningProcesses) or []
    return {
        "index": index,
        "name": name.decode() if isinstance(name, bytes) else name,
        "utilization": use.gpu if use else None,
        "used_mib": memory.used / 2**20 if memory else None,
        "total_mib": memory.total / 2**20 if memory else None,
        "celsius": ask(nvml.nvmlDeviceGetTemperature, nvml.NVML_TEMPERATURE_GPU),
        "watts": None if power is None else power / 1000,
        "processes": [
            {
                "pid": process.pid,
                "mib": None if process.usedGpuMemory is None else process.usedGpuMemory / 2**20,
            }
            for process in processes
        ],
    }


def main(seconds: float) -> None:
    """Write what NVML says, again and again, until stdin is closed."""
    try:
        import pynvml

        pynvml.nvmlInit()
    except Exception as error:  # noqa: BLE001 (whatever is wrong, one line says it)
        _say({"error": _why_not(error)})
        return
    while True:
        try:
            _say(read(pynvml))
        except pynvml.NVMLError as error:
            _say({"error": f"NVML: {error}"})
        if select.select([sys.stdin], [], [], seconds)[0]:
            return


def _why_not(error: Exception) -> str:
    # Which of NVML's errors it is: its class has that as the last part of its name.
    if type(error).__name__ == "NVMLError_LibraryNotFound":
        return "no NVIDIA driver here: NVML is missing"
    return f"NVML does not answer: {str(error) or type(error).__name__}"


def _say(record: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(record) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(float(sys.argv[1]))
