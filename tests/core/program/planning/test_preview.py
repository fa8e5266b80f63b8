"""The numbers of a plan, against closed forms and what a run really does."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler
from program_runs import shape_slider

from loba_tui.core.errors import RecipeError
from loba_tui.core.plugins import SHIPPED, Plugins
from loba_tui.core.plugins.user import UserPlugins
from loba_tui.core.program.adapter_layers.attach import attach_adapter
from loba_tui.core.program.open_model import open_model
from loba_tui.core.program.planning import preview as module
from loba_tui.core.program.planning.preview import MOST_POINTS
from loba_tui.core.recipe.load import parse_recipe
from loba_tui.core.recipe.schema import Recipe
from loba_tui.models import shapes_world

SHAPES_XL = Path(shapes_world.__file__).with_name("shapes-xl")


SCHEDULES = {
    name: module.SECTIONS[name] for name in ("learning_rate", "timesteps", "noise", "layers")
}


def preview(recipe: Recipe, plugins: Plugins) -> dict[str, dict[str, Any]]:
    return module.preview(recipe, plugins, sections=SCHEDULES)


def recipe_with(**sections: Any) -> Recipe:
    return shape_slider(5, **sections)


def test_the_learning_rate_is_the_schedules_closed_form() -> None:
    recipe = recipe_with(
        optimizer={"lr": 2e-3}, train={"steps": 1000}, scheduler={"model": {"name": "cosine"}}
    )
    section = preview(recipe, plugins=SHIPPED)["learning_rate"]
    assert len(section["step"]) == len(section["lr"]) == MOST_POINTS
    assert (section["step"][0], section["step"][-1]) == (0, 999)
    for step, rate in zip(section["step"], section["lr"], strict=True):
        assert rate == pytest.approx(1e-3 * (1 + math.cos(math.pi * step / 1000)), rel=1e-4)
    short = preview(recipe_with(train={"steps": 7}), plugins=SHIPPED)["learning_rate"]
    assert short["step"] == list(range(7))


def test_the_factors_of_layers_are_those_of_the_real_model() -> None:
    recipe = recipe_with(
        adapter={"name": "locon", "layers": ["self_attention", "cross_attention", "convolution"]},
        scheduler={"layer": {"name": "cross_attention_only"}},
    )
    section = preview(recipe, plugins=SHIPPED)["layers"]
    model = open_model(recipe, prompts=["a shape"], plugins=SHIPPED)
    attach_adapter(recipe, model.container, plugins=SHIPPED)
    trained = {
        name: parameter
        for name, parameter in model.container.denoiser.named_parameters()
        if parameter.requires_grad
    }
    expected = sum(p.numel() for name, p in trained.items() if ".attn2." in name)
    assert section["trained_parameters"] == expected
    blocks = {block["name"]: block for block in section["blocks"]}
    assert list(blocks) == [
        *(f"down_blocks.{n}" for n in range(3)),
        "mid_block",
        *(f"up_blocks.{n}" for n in range(3)),
    ]
    assert blocks["down_blocks.0"]["most"] == 0.0  # convolutions only
    assert (blocks["mid_block"]["least"], blocks["mid_block"]["most"]) == (0.0, 1.0)
    assert blocks["mid_block"]["part"] == "mid"
    modules = {name.partition(".lora_")[0] for name in trained}
    assert sum(block["num_modules"] for block in blocks.values()) == len(modules)


def test_densities_have_mean_one_and_are_told_apart_only_where_they_change() -> None:
    timestep = {"name": "linear", "clean": 0.0, "noisy": 2.0}
    section = preview(recipe_with(scheduler={"timestep": timestep}), plugins=SHIPPED)["timesteps"]
    (curve,) = section["curves"]
    assert curve["density"] == pytest.approx([2 * t for t in section["t"]])
    assert (section["t"][0], section["t"][-1], len(section["t"])) == (0.0, 1.0, 101)


def test_noise_levels_are_those_of_the_models_own_schedule() -> None:
    recipe = recipe_with(
        scheduler={"noise": {"name": "ddim"}},
        sample={"scales": [0, 1], "steps": 4, "noise": {"name": "euler"}},
    )
    section = preview(recipe, plugins=SHIPPED)["noise"]
    config = json.loads((SHAPES_XL / "scheduler" / "scheduler_config.json").read_text())
    oracle = DDIMScheduler.from_config(config, timestep_spacing="trailing")
    oracle.set_timesteps(5)
    training = section["training"]
    assert training["timestep"] == oracle.timesteps.tolist()
    kept = oracle.alphas_cumprod[oracle.timesteps].double()
    assert training["sigma"] == pytest.approx(((1 - kept) / kept).sqrt().tolist(), rel=1e-5)
    # Another sampler on the same schedule has the same noise at the same timestep.
    oracle.set_timesteps(4)
    kept = oracle.alphas_cumprod[oracle.timesteps].double()
    assert section["sampling"]["sigma"] == pytest.approx(
        ((1 - kept) / kept).sqrt().tolist(), rel=1e-3
    )


@pytest.mark.parametrize("kind", ["model", "layer", "timestep", "noise"])
def test_every_drop_in_can_be_planned(kind: str) -> None:
    recipe = recipe_with(train={"steps": 30})
    for name in SHIPPED.names(kind):
        described = SHIPPED.describe(kind, name)
        if name == "flow_match_euler" or any(o.required for o in described.options.values()):
            continue
        section = recipe.scheduler.model_copy(
            update={kind: recipe.scheduler.model.model_copy(update={"name": name})}
        )
        try:
            sections = preview(recipe.model_copy(update={"scheduler": section}), plugins=SHIPPED)
        except RecipeError:  # some need layers that this adapter has not
            continue
        json.dumps(sections, allow_nan=False)


def test_no_weights_are_needed(tmp_path: Path) -> None:
    def no_weights(folder: str, names: list[str]) -> list[str]:
        return [name for name in names if name.endswith(".safetensors")]

    shutil.copytree(SHAPES_XL, tmp_path / "model", ignore=no_weights)
    sections = preview(
        recipe_with(base_model={"id": str(tmp_path / "model"), "device": "cpu"}), plugins=SHIPPED
    )
    assert sections == preview(recipe_with(), plugins=SHIPPED)


def test_a_density_of_the_users_own_that_changes_over_the_run_is_drawn_three_times(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "loba" / "plugins" / "timestep"
    folder.mkdir(parents=True, mode=0o700)
    for each in (folder.parent, folder.parent.parent):
        each.chmod(0o700)
    (folder / "mine.py").write_text(
        "def get_timestep_scheduler(**cfg): return lambda t, progress: 1 + progress * t"
    )
    (folder / "mine.py").chmod(0o600)
    mine = Plugins(UserPlugins(folder.parent, tmp_path / "loba" / "trusted.json"))
    mine.user.trust(mine.user.read("timestep", "mine"))
    concept = {"target": "a shape", "positive": "a large shape", "negative": "a small shape"}
    recipe = parse_recipe(
        {
            "version": 1,
            "base_model": {"id": "builtin:shapes-xl"},
            "method": {"name": "text_slider", "concepts": [concept]},
            "scheduler": {"timestep": {"name": "mine"}},
        },
        plugins=mine,
    )
    curves = preview(recipe, mine)["timesteps"]["curves"]
    assert [curve["progress"] for curve in curves] == [0.0, 0.5, 1.0]
    t = torch.linspace(0, 1, 101, dtype=torch.float64)
    assert curves[2]["density"] == pytest.approx(((1 + t) / 1.5).tolist(), rel=1e-5)
