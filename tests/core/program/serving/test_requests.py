"""What is asked of a program without training: by which recipe, and what comes of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from loba_tui.core.associate.model_cache import ModelCache
from loba_tui.core.errors import RecipeError
from loba_tui.core.owned_files import OwnedFolder
from loba_tui.core.plugins import SHIPPED
from loba_tui.core.program.adapter_files.adapter import write_adapter
from loba_tui.core.program.adapter_files.families import KOHYA_NAME
from loba_tui.core.program.serving.requests import serve, wanted_recipe
from loba_tui.core.recipe.load import dump_recipe, parse_recipe
from loba_tui.core.run.directory import RunDir
from loba_tui.core.run.launch import Request
from loba_tui.core.run.writer import RunWriter


@pytest.fixture
def foreign(tiny_sdxl_folder: Path, tmp_path: Path) -> Path:
    """An adapter file that says nothing but its weights."""
    container = ModelCache("cpu", torch.float32).container(str(tiny_sdxl_folder))
    config = SHIPPED.load("adapters", "loha")(container.adapter_targets())
    container.denoiser.add_adapter(config)
    generator = torch.Generator().manual_seed(0)
    for name, parameter in container.denoiser.named_parameters():
        if ".hada_" in name:
            parameter.data = torch.randn(parameter.shape, generator=generator)
    (tmp_path / "made").mkdir()
    write_adapter(container.denoiser, OwnedFolder(tmp_path / "made"))
    path = tmp_path / "foreign.safetensors"
    save_file(load_file(tmp_path / "made" / KOHYA_NAME), path)
    return path


@pytest.fixture
def recipe(tiny_sdxl_folder: Path, tmp_path: Path) -> Path:
    path = tmp_path / "recipe.yaml"
    concept = {"target": "a circle", "positive": "a large circle", "negative": "a small circle"}
    made = parse_recipe(
        {
            "version": 1,
            "base_model": {"id": str(tiny_sdxl_folder), "device": "cpu"},
            "method": {"name": "text_slider", "concepts": [concept]},
            "sample": {"scales": [-1, 0, 1], "steps": 2, "prompts": ["a circle"]},
            "proof": {"measure": {"name": "mean_brightness"}, "prompts": ["a red circle"]},
        },
        plugins=SHIPPED,
    )
    path.write_text(dump_recipe(made))
    return path


def test_the_program_takes_no_recipe_but_the_requests(foreign: Path, recipe: Path) -> None:
    """A recipe in a run's folder or in the adapter's file may be a stranger's."""
    run = RunDir.create(recipe.parent, "run")
    (run.path / "recipe.yaml").write_text(recipe.read_text())
    for of_run in (None, str(run.path)):
        asked = Request("sample", str(foreign), of_run, "")
        with pytest.raises(RecipeError, match="does not say by which recipe"):
            wanted_recipe(asked, plugins=SHIPPED)
    text = recipe.read_text()
    by = Request("sample", str(foreign), None, "", recipe=text, scales=(0.0, 3.0))
    assert wanted_recipe(by, plugins=SHIPPED).sample.scales == (0.0, 3.0)
    assert wanted_recipe(by, plugins=SHIPPED).proof.prompts == ("a red circle",)


@pytest.mark.parametrize("action", ["sample", "eval"])
def test_an_adapter_of_another_tool_is_drawn_and_measured_by_a_recipe(
    action: str, foreign: Path, recipe: Path, tmp_path: Path
) -> None:
    run_dir = RunDir.create(tmp_path, "asked")
    wanted = Request(action, str(foreign), None, str(run_dir.path), recipe=recipe.read_text())  # type: ignore[arg-type]
    with RunWriter.open(run_dir) as writer:
        serve(wanted, writer, plugins=SHIPPED)
    if action == "sample":
        files = sorted(run_dir.samples.path.glob("000-*.png"))
        assert len(files) == 3
        assert len({Image.open(file).tobytes() for file in files}) == 3
    else:
        report = json.loads((run_dir.path / "adapter" / "report.json").read_text())
        assert report["effect"]["measure"] == "mean_brightness"
        assert report["scales"] == [-1, 0, 1]
        assert report["efficacy"] is not None
