"""Which of a run's adapter files is for which tool, and what a tool cannot have of it."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from peft import PeftConfig

from loba_tui.core.program.adapter_files.families import AdapterFamily
from loba_tui.core.program.adapter_files.file import WrittenFile
from loba_tui.core.program.adapter_layers.kinds import kind_of

_LORA = (
    "adapter.safetensors is for diffusers, adapter.kohya.safetensors for ComfyUI, A1111, Forge, "
    "InvokeAI and kohya's scripts."
)
_PEFT_ONLY = (
    "diffusers' load_lora_weights does not take {kind}: give adapter/peft to "
    "PeftModel.from_pretrained(pipe.unet, FOLDER), or the kohya file to ComfyUI, A1111 or Forge."
)
_NOTES_OF_TRANSFORMER = MappingProxyType(
    {
        "LoRA": "adapter.safetensors is for diffusers, adapter.comfy.safetensors for ComfyUI; "
        "docs/adapters.md says what else reads which.",
        **{
            kind: f"diffusers' load_lora_weights does not take this {kind}: give adapter/peft to "
            "PeftModel.from_pretrained(pipe.transformer, FOLDER), or adapter.comfy.safetensors to "
            "ComfyUI or LyCORIS."
            for kind in ("LoHa", "LoKr")
        },
        "OFT": "Only PEFT reads this OFT: give adapter/peft to "
        "PeftModel.from_pretrained(pipe.transformer, FOLDER). ComfyUI rotates a layer's outputs "
        "where PEFT rotates its inputs.",
        "DoRA": "adapter.safetensors is the DoRA, for diffusers, which at scales other than 1 "
        "scales its low-rank part only.",
    }
)
_NOTES = MappingProxyType(
    {
        "LoRA": _LORA,
        "LoHa": _PEFT_ONLY.format(kind="LoHa"),
        "LoKr": _PEFT_ONLY.format(kind="LoKr"),
        "OFT": "Only PEFT reads this OFT: give adapter/peft to "
        "PeftModel.from_pretrained(pipe.unet, FOLDER). It has no form for kohya's tools, which "
        "rotate a layer's outputs where PEFT rotates its inputs.",
        "DoRA": "adapter.safetensors is the DoRA, for diffusers, which at scales other than 1 "
        "scales its low-rank part only.",
    }
)


def notes_of(
    config: PeftConfig, files: Mapping[str, WrittenFile], family: AdapterFamily
) -> list[str]:
    """Return which file is for what, and what was lost in one."""
    kind = kind_of(config)
    notes = _NOTES if family.transformer is None else _NOTES_OF_TRANSFORMER
    lost = files[family.other_form].lost if family.other_form in files else None
    if kind != "DoRA" or lost is None:
        return [notes[kind]]
    worst = ""
    if lost.worst is not None and lost.worst.share > 0:
        worst = f", most in {lost.worst.layer}, {lost.worst.share:.1%}"
    return [
        notes[kind],
        f"Other tools read DoRA's own form differently, so {family.other_name} is the LoRA"
        f" that is nearest to its change at scale 1; it lacks {lost.share:.1%} of that{worst}.",
    ]
