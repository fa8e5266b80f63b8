"""Every method on the embedded flow-matching model: exact resume, and files that others read."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import ZImagePipeline
from program_runs import new_run, run_here, stop_after

import loba_tui.models
from loba_tui.core.associate.model_cache import ModelCache
from loba_tui.core.errors import RecipeError
from loba_tui.core.plugins import SHIPPED
from loba_tui.core.program.adapter_files.load import load_adapter
from loba_tui.core.program.adapter_layers.strength import AdapterScale
from loba_tui.core.program.sampling.images import sample_scales
from loba_tui.core.recipe.load import parse_recipe
from loba_tui.core.recipe.schema import Recipe, SampleSection
from loba_tui.core.recipe.sections.method import Choice
from loba_tui.core.run.directory import RunDir

MODEL = "builtin:shapes-z"
FOLDER = Path(loba_tui.models.__file__).parent / "shapes-z"
EULER = {"name": "flow_match_euler"}
PROMPT = "a red circle on a white background"
CONCEPT = {
    "target": PROMPT,
    "positive": "a large red circle on a white background",
    "negative": "a small red circle on a white background",
    "neutral": "a blue circle on a white background",
    "preserve": ["a green square"],
}
SOURCES = {
    "images": [{"path": "builtin:sizes/large"}],
    "pairs": [
        {"path": "builtin:sizes/small", "scale": -1},
        {"path": "builtin:sizes/large", "scale": 1},
    ],
}
# A trained and a computed one are drawn by diffusers too: its reading has nothing to do with how a
# file's numbers came to be.
DRAWN = ("image_slider", "uce")
OPTIONS: dict[str, list[dict[str, Any]]] = {
    "text_slider": [
        {"trajectories": "restart"},
        {"trajectories": "rolling"},
        {"trajectories": "bank", "warm_start": "instant"},
    ],
    "esd": [{"variant": "u"}],
}


def cases() -> Iterator[Any]:
    for name in SHIPPED.names("methods"):
        constants = SHIPPED.describe("methods", name).constants
        if constants.get("TEXT_ONLY") or name == "text_space_slider":
            continue  # refused below
        for options in OPTIONS.get(name, [{}]):
            yield pytest.param(name, options, id=" ".join([name, *map(str, options.values())]))


def recipe_of(method: str, options: dict[str, Any], **sections: Any) -> Recipe:
    plugin = SHIPPED.describe("methods", method)
    data, solves = plugin.constants.get("DATA"), plugin.constants.get("SOLVES")
    whole: dict[str, Any] = {
        "version": 1,
        "base_model": {"id": MODEL, "device": "cpu"},
        "method": {"name": method, **options},
        "sample": {"scales": [0, 1], "steps": 2, "prompts": [PROMPT], "noise": EULER},
        "proof": {"enabled": False},
        **sections,
    }
    if not solves:
        whole["scheduler"] = {"noise": EULER}
        whole["optimizer"] = {"lr": 1e-2}
        whole["train"] = {"steps": 3, "batch_size": 2}
        if method not in ("esd", "text_encoder_slider"):  # these say which
            whole.setdefault("adapter", {"layers": ["projection", "self_attention"]})
    if data:
        whole["data"] = {"sources": SOURCES[data]}
    else:
        wanted = {key: CONCEPT[key] for key in plugin.constants.get("REQUIRES", ())}
        whole["method"]["concepts"] = [{"preserve": CONCEPT["preserve"], **wanted}]
    return parse_recipe(whole, plugins=SHIPPED)


def hashes(run_dir: RunDir) -> list[str]:
    files = sorted(run_dir.adapter_dir.path.glob("*.safetensors"))
    assert len(files) > 1
    return [hashlib.sha256(path.read_bytes()).hexdigest() for path in files]


def theirs(file: Path) -> np.ndarray:
    """Draw with diffusers alone."""
    plain = ZImagePipeline.from_pretrained(str(FOLDER))
    plain.set_progress_bar_config(disable=True)
    plain.load_lora_weights(str(file.parent), weight_name=file.name)
    image: np.ndarray = plain(
        [PROMPT], num_inference_steps=3, guidance_scale=3.0, output_type="np",
        height=32, width=32, generator=[torch.Generator().manual_seed(7)],
    ).images[0]  # fmt: skip
    return image


@pytest.mark.parametrize(("method", "options"), list(cases()))
def test_a_method_makes_the_same_file_again_and_after_an_interruption(
    method: str, options: dict[str, Any], tmp_path: Path
) -> None:
    recipe = recipe_of(method, options)
    torch.manual_seed(5)
    whole = run_here(recipe, new_run(recipe, tmp_path / "whole"))
    torch.manual_seed(6)
    parts = new_run(recipe, tmp_path / "parts")
    if SHIPPED.describe("methods", method).constants.get("SOLVES"):
        run_here(recipe, parts)
    else:
        stop_after(1, recipe, parts)
        run_here(recipe, parts, resume=True)
    assert hashes(whole) == hashes(parts)
    if method in DRAWN:
        _check_that_diffusers_draws_alike(whole)


def _check_that_diffusers_draws_alike(whole: RunDir) -> None:
    container = ModelCache("cpu", torch.float32).container(MODEL)
    load_adapter(container, whole.adapter)
    base, ours = sample_scales(
        container, AdapterScale(container.denoiser), container.encode_prompts([PROMPT]),
        scales=[0, 1], seeds=[7], settings=SampleSection(steps=3, noise=Choice(**EULER)),
    plugins=SHIPPED)[0, 0]  # fmt: skip
    effect = np.abs(ours - base).max()
    assert effect > 1e-4
    for path in sorted(whole.adapter_dir.path.glob("*.safetensors")):
        assert np.abs(theirs(path) - ours).max() < 0.05 * effect, path.name


@pytest.mark.parametrize(
    ("method", "sections", "said"),
    [
        ("text_space_slider", {}, "cannot be moved in text space"),
        ("text_encoder_slider", {}, "cannot be moved in text space|no adapter file"),
        ("text_slider", {"adapter": {"text_encoders": {}}}, "no adapter file has a place"),
    ],
)
def test_what_needs_clips_encoders_is_refused_by_name(
    method: str, sections: dict[str, Any], said: str, tmp_path: Path
) -> None:
    recipe = recipe_of(method, {}, **sections)
    with pytest.raises(RecipeError, match=said):
        run_here(recipe, new_run(recipe, tmp_path))


@pytest.mark.parametrize("section", ["scheduler", "sample"])
def test_another_noise_scheduler_is_refused_before_training(section: str, tmp_path: Path) -> None:
    recipe = recipe_of("text_slider", {})
    noise = {"noise": Choice(name="ddim")}
    changed = recipe.model_copy(update={section: getattr(recipe, section).model_copy(update=noise)})
    with pytest.raises(RecipeError, match=rf"{section}\.noise: this model predicts a") as raised:
        run_here(changed, new_run(changed, tmp_path))
    assert "flow_match_euler" in raised.value.hint
    assert "flow-matching" in f"{raised.value.message} {raised.value}"
