"""A folder that PEFT wrote is an adapter like a file."""

from __future__ import annotations

from pathlib import Path

from loba_tui.client.runs.resolve import resolve_adapter


def test_a_folder_of_peft_means_its_weights(tmp_path: Path) -> None:
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        (tmp_path / name).write_text("")
    assert resolve_adapter(tmp_path) == (tmp_path / "adapter_model.safetensors", None)
