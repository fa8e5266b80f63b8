"""What every method that trains owes: the same bytes again, and a file that others read alike."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from program_runs import adapter_hashes, new_run, run_here
from tiny_sd import open_plain

from loba_tui.core.associate.model_cache import ModelCache
from loba_tui.core.plugins import SHIPPED
from loba_tui.core.program.adapter_files.load import load_adapter
from loba_tui.core.program.adapter_layers.strength import AdapterScale
from loba_tui.core.program.sampling.images import sample_scales
from loba_tui.core.recipe.load import parse_recipe
from loba_tui.core.recipe.schema import Recipe, SampleSection

PROMPT = "a red circle"
CONCEPT = {
    "target": PROMPT,
    "positive": "a large red circle",
    "negative": "a small red circle",
    "neutral": "a blue circle",
    "preserve": ["a square"],
}
SOURCES = {
    "images": [{"path": "builtin:sizes/large"}],
    "pairs": [
        {"path": "builtin:sizes/small", "scale": -1},
        {"path": "builtin:sizes/large", "scale": 1},
    ],
}


def methods() -> Iterator[str]:
    for name in SHIPPED.names("methods"):
        constants = SHIPPED.describe("methods", name).constants
        # Text encoders' files in other tools: test_text_encoders_elsewhere.py.
        if not constants.get("SOLVES") and not constants.get("TEXT_ONLY"):
            yield name


def recipe_of(folder: Path, method: str) -> Recipe:
    plugin = SHIPPED.describe("methods", method)
    data = plugin.constants.get("DATA")
    sections: dict[str, Any] = {"method": {"name": method}}
    if data:
        sections["data"] = {"sources": SOURCES[data]}
    else:
        wanted = {key: CONCEPT[key] for key in plugin.constants.get("REQUIRES", ())}
        sections["method"]["concepts"] = [{"preserve": CONCEPT["preserve"], **wanted}]
    return parse_recipe(
        {
            "version": 1,
            "base_model": {"id": str(folder), "device": "cpu"},
            "optimizer": {"lr": 1e-2},
            "train": {"steps": 2, "batch_size": 2},
            "sample": {"scales": [0, 1], "steps": 2, "prompts": [PROMPT]},
            "proof": {"enabled": False},
            **sections,
        },
        plugins=SHIPPED,
    )


def theirs(folder: Path, file: Path) -> np.ndarray:
    """Draw with diffusers alone."""
    plain = open_plain(folder)
    plain.scheduler = SHIPPED.load("noise", "euler")(plain.scheduler.config)
    plain.load_lora_weights(str(file.parent), weight_name=file.name)
    image: np.ndarray = plain(
        PROMPT, num_inference_steps=3, guidance_scale=4.0, output_type="np",
        generator=torch.Generator().manual_seed(7),
    ).images[0]  # fmt: skip
    return image


@pytest.mark.parametrize("method", list(methods()))
def test_a_method_trains_the_same_file_twice_and_diffusers_draws_with_it_what_we_draw(
    method: str, tiny_folder: Path, tmp_path: Path
) -> None:
    recipe = recipe_of(tiny_folder, method)
    torch.manual_seed(5)
    one = run_here(recipe, new_run(recipe, tmp_path / "one"))
    torch.manual_seed(6)
    other = run_here(recipe, new_run(recipe, tmp_path / "other"))
    assert adapter_hashes(one) == adapter_hashes(other)

    container = ModelCache("cpu", torch.float32).container(str(tiny_folder))
    load_adapter(container, one.adapter)
    base, ours = sample_scales(
        container, AdapterScale(container.denoiser), container.encode_prompts([PROMPT]),
        scales=[0, 1], seeds=[7], settings=SampleSection(steps=3, guidance_scale=4.0),
    plugins=SHIPPED)[0, 0]  # fmt: skip
    effect = np.abs(ours - base).max()
    assert effect > 1e-4
    for file in (one.adapter, one.adapter_kohya):
        assert np.abs(theirs(tiny_folder, file.path) - ours).max() < 0.05 * effect, file.name
