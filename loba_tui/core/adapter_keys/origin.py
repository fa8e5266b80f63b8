"""The tool that made an adapter file, by its metadata."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from loba_tui.core.foreign_json import parse_json

_MARKS = (
    ("loba.version", "LOBA-Trainer"),
    ("ot_revision", "OneTrainer"),
    ("ot_branch", "OneTrainer"),
    ("simpletuner_version", "SimpleTuner"),
    ("lycoris_config", "LyCORIS' wrapper"),
    ("workflow", "ComfyUI"),
    ("prompt", "ComfyUI"),
)


def maker_of(metadata: Mapping[str, str]) -> str:
    """Return the tool that a file's metadata names; empty where it names none."""
    for key, name in _MARKS:
        if key in metadata:
            version = metadata[key] if key in ("loba.version", "simpletuner_version") else ""
            return f"{name} {version}".strip()
    if software := _table(metadata.get("software", "")):
        tool, number = software.get("name"), software.get("version")
        if isinstance(tool, str):
            return f"{tool} {number}" if isinstance(number, str) else tool
    module = metadata.get("ss_network_module", "")
    if module == "lycoris.kohya":
        return "LyCORIS in kohya's sd-scripts"
    if module:
        return f"kohya's sd-scripts ({module})"
    if "lora_adapter_metadata" in metadata:
        return "diffusers with PEFT"
    return ""


def network_arguments(metadata: Mapping[str, str]) -> dict[str, Any]:
    """Return the options of kohya's network that metadata has; none where it is no JSON."""
    return _table(metadata.get("ss_network_args", ""))


def _table(text: str) -> dict[str, Any]:
    try:
        value = parse_json(text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
