"""Adapters on containers of transformers at once: how far each is what it does alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_adapters import add_adapter, made_folder, move_adapter
from tiny_families import RESOLUTION, save_tiny

from loba_tui.core.associate.model_cache import ModelCache
from loba_tui.core.plugins import SHIPPED
from loba_tui.core.program.adapter_files.adapter import write_adapter
from loba_tui.core.program.adapter_files.read.read import read_adapter_file
from loba_tui.core.program.adapter_layers.strength import AdapterScale
from loba_tui.core.program.combine.attach import Part, attach
from loba_tui.core.program.combine.interference import measure_overlap
from loba_tui.core.program.trajectories.held_out import roll_out


@pytest.mark.parametrize("family", ["z-image", "sd3"])
def test_a_transformers_adapter_is_against_its_opposite(family: str, tmp_path: Path) -> None:
    save_tiny(family, tmp_path / "model")
    cache = ModelCache("cpu", torch.float32)
    trained = cache.container(str(tmp_path / "model"))
    add_adapter(trained, "lora", {"layers": ["self_attention"]})
    move_adapter(trained)
    files = write_adapter(trained.denoiser, made_folder(tmp_path / "adapter"))
    container = ModelCache("cpu", torch.float32).container(str(tmp_path / "model"))
    # Its length is tiny, so that the denoiser is next to linear in it.
    parts = [Part(files["diffusers"].path, 1e-3), Part(files["comfy"].path, -1e-3)]
    names = attach(container, parts, [read_adapter_file(part.source) for part in parts])
    prompts = container.encode_prompts(["a red circle"])
    scale = AdapterScale(container.denoiser, names[0])
    held_out = roll_out(
        container,
        scale,
        prompts,
        make_scheduler=lambda: SHIPPED.load("noise", "flow_match_euler")(
            container.scheduler_config
        ),
        seed=0,
        resolution=RESOLUTION,
    )
    scale.remove()
    found = measure_overlap(
        container, names, [part.strength for part in parts], ["one", "other"], held_out, prompts
    )
    assert found.pairs[0].overlap == pytest.approx(-1, abs=1e-3)
    for block, (pair,) in found.blocks.items():
        assert pair.overlap == pytest.approx(-1, abs=0.2), block
    blocks = [name.partition(".")[0] for name in found.blocks]
    order = ["noise_refiner", "context_refiner", "layers", "transformer_blocks"]
    assert blocks == sorted(blocks, key=order.index)
