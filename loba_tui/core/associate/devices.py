"""From a recipe's device and dtype names to torch's, saying why where it cannot be.

`cuda:122` is the specification's name for "the CUDA 12.2 or newer device of this process".
"""

from __future__ import annotations

import ctypes
import logging
import re
from dataclasses import dataclass

import torch

from loba_tui.core.errors import RecipeError, ResourceError

logger = logging.getLogger(__name__)

REQUIRED_CUDA = (12, 2)
SPECIFIED_DEVICE = "cuda:122"

_DTYPES = ("float32", "bfloat16", "float16")
_USE_AUTO = "Set base_model.device: auto to take the best device there is."

Version = tuple[int, int]


@dataclass(frozen=True)
class AcceleratorFacts:
    """Accelerators of this machine and this build of torch.

    Attributes:
        torch_cuda: CUDA version torch was built with; None for a build without CUDA.
        driver_cuda: Newest CUDA the installed driver speaks; None without an NVIDIA driver.
        num_cuda: Usable CUDA devices.
        bfloat16: Whether those devices compute bfloat16 in hardware.
        mps: Whether Apple's Metal backend is usable.
        torch_version: As torch says it, for messages.
    """

    torch_cuda: Version | None = None
    driver_cuda: Version | None = None
    num_cuda: int = 0
    bfloat16: bool = False
    mps: bool = False
    torch_version: str = ""


def accelerator_facts() -> AcceleratorFacts:
    """Ask torch and the NVIDIA driver what there is."""
    num_cuda = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return AcceleratorFacts(
        torch_cuda=_parse_version(torch.version.cuda),
        driver_cuda=_driver_cuda(),
        num_cuda=num_cuda,
        bfloat16=num_cuda > 0 and torch.cuda.is_bf16_supported(including_emulation=False),
        mps=torch.backends.mps.is_available(),
        torch_version=torch.__version__,
    )


def resolve_device(
    name: str, *, local_rank: int = 0, facts: AcceleratorFacts | None = None
) -> torch.device:
    """Return the device a recipe names.

    Args:
        name: auto, cpu, mps, cuda, cuda:N or cuda:122.
        local_rank: This process among those of its host; picks the CUDA device.
        facts: What there is; None asks the machine.

    Raises:
        RecipeError: The name is none of these.
        ResourceError: The device is not there, with the reason.
    """
    match = re.fullmatch(r"auto|cpu|mps|cuda(?::(\d+))?", name)
    if match is None:
        raise RecipeError(
            f"base_model.device: {name!r} is not a device.",
            "Use auto, cpu, mps, cuda, cuda:N, or cuda:122 (CUDA 12.2 or newer).",
        )
    if name == "cpu":
        return torch.device("cpu")
    facts = accelerator_facts() if facts is None else facts
    if name == "auto":
        return _best_device(facts, local_rank)
    if name == "mps":
        if not facts.mps:
            raise ResourceError("base_model.device: mps is not available here.", _USE_AUTO)
        return torch.device("mps")
    if name == SPECIFIED_DEVICE or match[1] is None:
        return _cuda_device(name, local_rank, facts, min_cuda=name == SPECIFIED_DEVICE)
    return _cuda_device(name, int(match[1]), facts, min_cuda=False)


def resolve_dtype(
    name: torch.dtype | str, device: torch.device, *, facts: AcceleratorFacts | None = None
) -> torch.dtype:
    """Return the dtype that base weights are held in on a device; torch's own stay as they are.

    `auto` is float32 on the CPU, bfloat16 where CUDA has it in hardware, else float16.
    """
    if isinstance(name, torch.dtype):
        return name
    if name == "auto":
        if device.type == "cpu":
            return torch.float32
        if device.type == "cuda":
            facts = accelerator_facts() if facts is None else facts
            return torch.bfloat16 if facts.bfloat16 else torch.float16
        return torch.float16
    if name not in _DTYPES:
        raise RecipeError(
            f"base_model.dtype: {name!r} is not a dtype.", f"Use auto, {', '.join(_DTYPES)}."
        )
    return getattr(torch, name)


def _best_device(facts: AcceleratorFacts, local_rank: int) -> torch.device:
    """Prefer what cuda:122 would take, then Metal, then the CPU; say why CUDA was passed over."""
    try:
        return _cuda_device(SPECIFIED_DEVICE, local_rank, facts, min_cuda=True)
    except ResourceError as error:
        device = torch.device("mps" if facts.mps else "cpu")
        # A machine without an NVIDIA driver misses nothing; one that has it should know.
        level = logging.INFO if facts.driver_cuda is None else logging.WARNING
        logger.log(level, "device auto takes %s: %s", device, error.message)
        return device


def _cuda_device(name: str, index: int, facts: AcceleratorFacts, *, min_cuda: bool) -> torch.device:
    """Return cuda:`index`, or say which of driver, build and device is what is missing."""

    def missing(reason: str, hint: str = _USE_AUTO) -> ResourceError:
        return ResourceError(f"base_model.device: {name} is not available: {reason}", hint)

    if facts.torch_cuda is None:
        driver = (
            f" The driver here speaks CUDA {_text(facts.driver_cuda)}: install "
            f"{_build_for(facts.driver_cuda)}."
            if facts.driver_cuda
            else ""
        )
        raise missing(
            f"this torch ({facts.torch_version}) is built without CUDA.{driver}".replace(" ()", "")
        )
    # Within one major version any build runs on any driver; across majors it does not.
    if facts.driver_cuda and facts.driver_cuda[0] < facts.torch_cuda[0]:
        raise missing(
            f"the driver speaks CUDA {_text(facts.driver_cuda)}, and this torch is built for "
            f"CUDA {_text(facts.torch_cuda)}.",
            f"Install {_build_for(facts.driver_cuda)}, or a newer driver. {_USE_AUTO}",
        )
    if facts.num_cuda == 0:
        raise missing("there is no CUDA device in this process.")
    if min_cuda and facts.torch_cuda < REQUIRED_CUDA:
        raise missing(
            f"torch is built for CUDA {_text(facts.torch_cuda)}, and cuda:122 needs 12.2 or newer.",
            "Install a torch build for CUDA 12.2 or newer, or set base_model.device: cuda.",
        )
    if index >= facts.num_cuda:
        raise missing(
            f"there are {facts.num_cuda} CUDA device(s), and this would be number {index}."
        )
    return torch.device("cuda", index)


def _build_for(driver: Version) -> str:
    such = " (such as the cu126 one)" if driver[0] == 12 else ""
    return f"a torch build for CUDA {driver[0]}{such}"


def _driver_cuda() -> Version | None:
    """Return the newest CUDA that the installed NVIDIA driver speaks, without initialising it."""
    for library in ("libcuda.so.1", "nvcuda.dll"):
        try:
            driver = ctypes.CDLL(library)
        except OSError:
            continue
        number = ctypes.c_int()
        if driver.cuDriverGetVersion(ctypes.byref(number)) == 0:
            return (number.value // 1000, number.value % 1000 // 10)
    return None


def _parse_version(text: str | None) -> Version | None:
    if text is None:
        return None
    major, minor = text.split(".")[:2]
    return (int(major), int(minor))


def _text(version: Version) -> str:
    return f"{version[0]}.{version[1]}"
