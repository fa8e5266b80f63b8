"""The slots of a sweep: the devices of this machine that its runs may take, one run each."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from loba_tui.core.errors import RecipeError
from loba_tui.core.recipe.schema import Recipe
from loba_tui.core.run.launching.children import num_cores
from loba_tui.core.text import clean, counted


def parse_slots(text: str) -> tuple[str, ...]:
    """Return `0,1,cpu` as `("cuda:0", "cuda:1", "cpu")`; one given twice takes two runs at once.

    Raises:
        RecipeError: One is neither the number of a CUDA device nor `cpu`.
    """
    found = []
    for slot in (part.strip() for part in text.split(",")):
        if slot == "cpu":
            found.append("cpu")
        elif re.fullmatch(r"(cuda:)?[0-9]{1,3}", slot):
            found.append(f"cuda:{int(slot.removeprefix('cuda:'))}")
        elif ":" in slot:
            raise RecipeError(
                f"--slots {clean(text, limit=80)}: {clean(slot)} is on another machine.",
                "Slots are of this machine. For many machines: --print slurm, --print skypilot "
                "or --engine ray.",
            )
        else:
            raise RecipeError(
                f"--slots {clean(text, limit=80)}: {clean(slot)} is not a slot.",
                "A slot is the number of a CUDA device or cpu, as in --slots 0,1 or cpu,cpu.",
            )
    return tuple(found)


def require_devices(slots: Sequence[str], recipes: Iterable[Recipe], num_gpus: int) -> None:
    """Refuse slots that this machine has not, or that a recipe's device does not go with.

    Raises:
        RecipeError: It is so.
    """
    asked = {int(slot.partition(":")[2]) for slot in slots if slot != "cpu"}
    missing = sorted(index for index in asked if index >= num_gpus)
    if missing:
        raise RecipeError(
            f"--slots: there is no CUDA device {missing[0]}; "
            f"this machine has {counted(num_gpus, 'CUDA device')}.",
            "`loba doctor` lists the devices. --slots cpu computes on the CPU.",
        )
    devices = {recipe.base_model.device for recipe in recipes}
    for device in sorted(devices):
        if device == "cpu" and asked:
            raise RecipeError(
                "--slots names a CUDA device, but base_model.device is cpu.",
                "Take --slots cpu, or add --set base_model.device=auto.",
            )
        if device not in ("cpu", "auto") and "cpu" in slots:
            raise RecipeError(
                f"--slots names cpu, but base_model.device is {clean(device)}.",
                "Add --set base_model.device=auto.",
            )
        if device.startswith("cuda:") and device not in ("cuda:0", "cuda:122"):
            raise RecipeError(
                f"base_model.device is {clean(device)}, but a slot shows its run one device alone.",
                "Add --set base_model.device=auto, and choose devices with --slots.",
            )


def count_gpus() -> int:
    """Return the number of CUDA devices as the driver counts them, 0 where there is no driver."""
    import pynvml

    try:
        pynvml.nvmlInit()
        return int(pynvml.nvmlDeviceGetCount())
    except pynvml.NVMLError:
        return 0


def with_threads(slots: Sequence[str], environ: Mapping[str, str]) -> dict[str, str]:
    """Return an environment in which runs on several CPU slots share the cores.

    Runs that each take every core wait for each other at every operation. What the user has set
    stays.
    """
    found = dict(environ)
    num_cpu = slots.count("cpu")
    if num_cpu > 1 and "OMP_NUM_THREADS" not in found:
        found["OMP_NUM_THREADS"] = str(max(1, num_cores() // num_cpu))
    return found
