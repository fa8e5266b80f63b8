"""Fingerprint of a run: the recipe and the machine, on which a checkpoint's bits depend.

Exact resume is promised for the same recipe on the same machine and libraries. Another recipe is
refused. Another machine is refused too, unless the user allows what comes of it to differ; the run
then says so for good.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from loba_tui.core.associate.machine import device_name, dtype_name, library_versions
from loba_tui.core.errors import RecipeError
from loba_tui.core.recipe.schema import BaseModelSection, Recipe, TrainSection
from loba_tui.core.recipe.sections.parallel import ParallelSection

_SECTIONS = ("method", "adapter", "optimizer", "scheduler", "loss", "train")
# How the model is held, but not where: a device is known by what it is.
_MODEL_KEYS = ("id", "revision", "variant", "dtype", "attention", "gradient_checkpointing")
_LATER_MODEL_KEYS = (
    *("vae", "config", "prediction_type", "zero_snr"),
    *("long_prompts", "prompt_weights", "quantize"),
)
_LATER_TRAIN_KEYS = ("exactness", "compile", "global_batch_size")
_DATA_EXCLUDED: dict[str, Any] = {
    "workers": True,
    "cache": True,
    "skip_bad": True,
    "max_megapixels": True,
    "sources": {"__all__": {"path", "masks"}},
}
_PARALLEL_EXCLUDED = {"timeout"}
_LIBRARIES = ("torch", "diffusers", "peft", "accelerate")


@dataclass(frozen=True)
class RunFingerprint:
    """Facts in a checkpoint by which its run is known again.

    Attributes:
        recipe: Everything in the recipe that a trained bit depends on.
        machine: What computes it, the user's own drop-ins included.
    """

    recipe: Mapping[str, Any]
    machine: Mapping[str, Any]

    @classmethod
    def of(
        cls,
        recipe: Recipe,
        accelerator: Accelerator,
        dtype: torch.dtype,
        plugins: Mapping[str, str],
        *,
        images: str | None = None,
        quantized: str = "",
    ) -> RunFingerprint:
        """Return the fingerprint of a run on this machine.

        Args:
            plugins: sha256 of each of the user's own drop-ins that the recipe uses, by kind/name.
            quantized: Quantizer of the base model, and the version of its package.
        """
        dumped = recipe.model_dump(mode="json", include={"base_model", *_SECTIONS})
        model = dumped["base_model"]
        # Checkpoints of former versions do not have the later keys.
        usual = BaseModelSection.model_fields
        later = {k: model[k] for k in _LATER_MODEL_KEYS if model[k] != usual[k].default}
        dumped["base_model"] = {key: model[key] for key in _MODEL_KEYS} | later
        for key in _LATER_TRAIN_KEYS:
            if dumped["train"][key] == TrainSection.model_fields[key].default:
                del dumped["train"][key]
        if recipe.train.global_batch_size is not None:
            # It comes to another one where the run goes on with other processes.
            del dumped["train"]["batch_size"]
        shared = recipe.parallel.model_dump(mode="json", exclude=_PARALLEL_EXCLUDED)
        if shared != ParallelSection().model_dump(mode="json", exclude=_PARALLEL_EXCLUDED):
            dumped["parallel"] = shared
        # Where that file lies does not matter, and it is read once, before the first step.
        if recipe.adapter.init_from is not None:
            dumped["adapter"]["init_from"] = Path(recipe.adapter.init_from).name
        dumped["noise"] = recipe.model_dump(mode="json", include={"noise"})["noise"] or None
        if recipe.data is not None:
            # Where images lie and how they are read does not matter, but what they are does.
            kept = recipe.data.model_dump(mode="json", exclude=_DATA_EXCLUDED)
            kept["captions"]["wildcards"] = kept["captions"]["wildcards"] or None
            dumped["data"] = {**kept, "images": images}
        if recipe.validation is not None:
            left_out = {"sources": {"__all__": {"path", "masks"}}}
            dumped["validation"] = recipe.validation.model_dump(mode="json", exclude=left_out)
        if recipe.save.best is not None:
            dumped["best"] = recipe.save.best.model_dump(mode="json", exclude={"use"})
        computed_by = _machine(accelerator, dtype)
        computed_by |= {"quantized": quantized} if quantized else {}
        computed_by |= {f"plugin {key}": sha256 for key, sha256 in plugins.items()}
        return cls(dumped, computed_by)

    def inexact_after(self, saved: Mapping[str, Any], *, allow_inexact: bool) -> list[str]:
        """Return in what the machine of a saved fingerprint differs from this one.

        Raises:
            RecipeError: It is of another recipe, or of another machine and that is not allowed.
        """
        others = list(_differences(saved["recipe"], self.recipe))
        if others:
            raise RecipeError(
                "the checkpoint is of another recipe: " + "; ".join(others[:5]),
                "Start a run of its own for a recipe that was changed.",
            )
        self._require_processes(saved["machine"].get("processes"), allow_inexact=allow_inexact)
        differences = list(_differences(saved["machine"], self.machine))
        if differences and not allow_inexact:
            raise RecipeError(
                "the checkpoint was made elsewhere, so that the run would not go on exactly: "
                + "; ".join(differences),
                "Resume with --allow-inexact where that does not matter; the adapter will say so.",
            )
        return differences

    def _require_processes(self, before: int | None, *, allow_inexact: bool) -> None:
        """Refuse another number of processes, unless the samples of a step stay and it is allowed.

        Raises:
            RecipeError: The run had `before` processes, and these are not as many.
        """
        now = self.machine["processes"]
        if before is None or before == now:
            return
        same = f"`loba run --resume RUN --processes {before}` goes on exactly"
        noun = "process" if before == 1 else "processes"
        had = f"the run had {before} {noun}, and here {_is(now)}"
        train = self.recipe["train"]
        if train.get("global_batch_size") is None:
            raise RecipeError(
                f"{had}: each step would learn from another number of samples",
                f"{same}. Another number of processes needs a run with train.global_batch_size.",
            )
        if not allow_inexact:
            raise RecipeError(
                f"{had}: the run would not go on exactly",
                f"{same}. --allow-inexact goes on with {now}, at the same"
                f" train.global_batch_size of {train['global_batch_size']}.",
            )


def _is(num_processes: int) -> str:
    return "is one" if num_processes == 1 else f"are {num_processes}"


def _machine(accelerator: Accelerator, dtype: torch.dtype) -> dict[str, Any]:
    device = accelerator.device
    handler = accelerator.autocast_handler
    casts_itself = handler is not None and not handler.enabled and dtype != torch.float32
    return {
        # Former versions have autocast around every model of low precision.
        **({"autocast": "off"} if casts_itself else {}),
        "device": f"{device.type}: {device_name(device)}",
        "dtype": dtype_name(dtype),
        "threads": torch.get_num_threads() if device.type == "cpu" else None,
        "processes": accelerator.num_processes,
        "cuda": torch.version.cuda if device.type == "cuda" else None,
        **library_versions(_LIBRARIES),
    }


def _differences(saved: Any, now: Any, key: str = "") -> Iterator[str]:
    if isinstance(saved, Mapping) and isinstance(now, Mapping):
        for name in sorted({*saved, *now}):
            yield from _differences(
                saved.get(name), now.get(name), f"{key}.{name}" if key else str(name)
            )
    elif saved != now:
        yield f"{key} was {saved!r} and is {now!r}"
