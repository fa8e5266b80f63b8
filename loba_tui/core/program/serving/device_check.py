"""Check that torch and the graphics driver work together, which only the program can make."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import torch

from loba_tui.core.associate.devices import SPECIFIED_DEVICE, AcceleratorFacts, resolve_device
from loba_tui.core.errors import ExitCode, ResourceError
from loba_tui.core.findings import Finding, bad

logger = logging.getLogger(__name__)


def device_findings(facts: AcceleratorFacts) -> Iterator[Finding]:
    """Yield findings about torch, CUDA and the driver."""
    yield Finding("torch", "ok", f"imports; built for CUDA {_text(facts.torch_cuda)}")
    try:
        device = resolve_device(SPECIFIED_DEVICE, facts=facts)
    except ResourceError as error:
        if facts.driver_cuda is None:
            other = "mps" if facts.mps else "cpu"
            yield Finding("CUDA", "note", f"no NVIDIA driver; device auto is {other}")
        else:
            yield bad("CUDA", error.message, error.hint, ExitCode.RESOURCES)
        return
    driver = _text(facts.driver_cuda)
    yield Finding("CUDA", "ok", f"{device} with CUDA 12.2 or newer; the driver speaks {driver}")
    yield from _nvml_findings()
    for index in range(facts.num_cuda):
        yield from _memory_findings(index)


def _memory_findings(index: int) -> Iterator[Finding]:
    """Yield the free memory of a device; a driver that was lost shows here."""
    try:
        free, total = torch.cuda.mem_get_info(index)
        name = torch.cuda.get_device_name(index)
    except RuntimeError as error:
        message = f"cuda:{index} does not answer: {str(error).splitlines()[0]}"
        yield bad("CUDA memory", message, "Look at `nvidia-smi`.", ExitCode.RESOURCES)
        return
    message = f"cuda:{index} {name}: {free / 2**30:.1f} of {total / 2**30:.1f} GiB free"
    yield Finding("CUDA memory", "ok", message)


def _nvml_findings() -> Iterator[Finding]:
    """Yield whether NVML answers; without it figures of other processes are missing, no more."""
    try:
        # torch says so in numbers: a negative one is "NVML does not answer".
        count = torch.cuda._device_count_nvml()
    except Exception:
        # Private, and only a note hangs on it.
        logger.info("NVML", exc_info=True)
        count = -1
    if count < 0:
        message = "does not answer; memory of other processes is not shown"
        yield Finding("NVML", "note", message)
    else:
        yield Finding("NVML", "ok", f"answers, {count} device(s)")


def _text(version: tuple[int, int] | None) -> str:
    return "none" if version is None else f"{version[0]}.{version[1]}"
