"""Whole runs of methods that compute their adapter: records, files, stops and resumes."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from program_runs import adapter_hashes, events, new_run, run_here
from tiny_sd import open_plain

from loba_tui.core.associate.model_cache import ModelCache
from loba_tui.core.errors import Interrupted, RecipeError
from loba_tui.core.plugins import SHIPPED
from loba_tui.core.program.adapter_files.adapter import read_adapter
from loba_tui.core.program.adapter_files.families import KOHYA_NAME
from loba_tui.core.program.adapter_files.load import load_adapter
from loba_tui.core.program.adapter_layers.attach import adapter_section
from loba_tui.core.program.adapter_layers.strength import AdapterScale
from loba_tui.core.program.closed_form.solution import LayerUpdate, Solution
from loba_tui.core.program.closed_form.solved_run import attach_solution
from loba_tui.core.program.planning.estimate import Estimator
from loba_tui.core.program.planning.preview import preview
from loba_tui.core.program.sampling.images import sample_scales
from loba_tui.core.program.train import train
from loba_tui.core.recipe.load import check_text, parse_recipe, parse_text
from loba_tui.core.recipe.schema import Recipe, SampleSection
from loba_tui.core.run import control
from loba_tui.core.run.control import Command
from loba_tui.core.run.directory import RunDir
from loba_tui.core.run.reader import RunReader
from loba_tui.core.run.start_options import StartOptions
from loba_tui.core.run.writer import RunWriter

RED = {"target": "a red circle", "neutral": "a blue circle", "preserve": ["a green circle"]}
METHODS = {
    "uce": {"concepts": [RED]},
    "speed": {"concepts": [RED]},
    "instant_slider": {
        "concepts": [
            {"target": "a circle", "positive": "a large circle", "negative": "a small circle"}
        ]
    },
}


def recipe_of(folder: Path, method: str, **sections: Any) -> Recipe:
    return parse_recipe(
        {
            "version": 1,
            "name": "computed",
            "base_model": {"id": str(folder), "device": "cpu"},
            "method": {"name": method, **METHODS[method]},
            "sample": {"scales": [0, 1], "steps": 2, "prompts": ["a red circle"]},
            "proof": {"enabled": False},
            **sections,
        },
        plugins=SHIPPED,
    )


@pytest.mark.parametrize("method", METHODS)
def test_a_run_computes_the_same_adapter_every_time_and_keeps_no_checkpoint(
    method: str, tiny_sdxl_folder: Path, tmp_path: Path
) -> None:
    recipe = recipe_of(tiny_sdxl_folder, method)
    torch.manual_seed(5)
    one = run_here(recipe, new_run(recipe, tmp_path / "one"))
    torch.manual_seed(6)
    other = run_here(recipe, new_run(recipe, tmp_path / "other"), resume=True)
    assert adapter_hashes(one) == adapter_hashes(other)
    assert list(one.checkpoints.path.iterdir()) == []
    reader = RunReader(one)
    (metric,) = reader.new_metrics()
    assert (metric.step, metric.forwards) == (1, 0)
    assert metric.values["unsolved"] < 0.5
    status = reader.status()
    assert status is not None
    assert (status.step, status.total) == (1, 1)
    assert one.sample_strip(1).is_there()


@pytest.mark.parametrize("method", METHODS)
def test_its_files_load_in_a_plain_pipeline_and_draw_what_we_draw(
    method: str, tiny_folder: Path, tmp_path: Path
) -> None:
    recipe = recipe_of(tiny_folder, method)
    run_dir = run_here(recipe, new_run(recipe, tmp_path))
    container = ModelCache("cpu", torch.float32).container(str(tiny_folder))
    load_adapter(container, run_dir.adapter)
    embeds = container.encode_prompts(["a red circle"])
    settings = SampleSection(steps=3, guidance_scale=4.0)
    ours = sample_scales(
        container, AdapterScale(container.denoiser), embeds, scales=[0, 1], seeds=[7],
        settings=settings,
    plugins=SHIPPED)[0, 0]  # fmt: skip
    assert np.abs(ours[1] - ours[0]).max() > 1e-3
    for name in (run_dir.adapter.name, KOHYA_NAME):
        plain = open_plain(tiny_folder)
        plain.scheduler = _euler(plain.scheduler.config)
        plain.load_lora_weights(str(run_dir.adapter_dir), weight_name=name)
        theirs = plain(
            "a red circle", num_inference_steps=3, guidance_scale=4.0, output_type="np",
            generator=torch.Generator().manual_seed(7),
        ).images[0]  # fmt: skip
        assert np.abs(theirs - ours[1]).max() < 1e-3, name


def _euler(config: Any) -> Any:
    from loba_tui.core.plugins import SHIPPED

    return SHIPPED.load("noise", "euler")(config)


@pytest.mark.parametrize("method", ["instant_slider", "speed"])
def test_both_formats_say_the_same_update(
    method: str, tiny_sdxl_folder: Path, tmp_path: Path
) -> None:
    recipe = recipe_of(tiny_sdxl_folder, method)
    run_dir = run_here(recipe, new_run(recipe, tmp_path))
    (one, config, _), (other, _, _) = map(read_adapter, (run_dir.adapter, run_dir.adapter_kohya))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert config["lora_alpha"] == config["r"]
    assert not config["alpha_pattern"]


def test_layers_of_different_rank_keep_their_updates(tiny_sdxl_folder: Path) -> None:
    container = ModelCache("cpu", torch.float32).container(str(tiny_sdxl_folder))
    names = [n for n in container.adapter_targets()["cross_attention"] if n.endswith("to_k")][:3]
    generator = torch.Generator().manual_seed(0)
    layers = {}
    for rank, name in zip((2, 2, 5), names, strict=True):
        weight = container.denoiser.get_submodule(name).weight
        layers[name] = LayerUpdate(
            torch.randn(weight.shape[0], rank, generator=generator),
            torch.randn(rank, weight.shape[1], generator=generator),
        )
    attach_solution(Solution(layers), container)
    for name, layer in layers.items():
        module = container.denoiser.get_submodule(name)
        torch.testing.assert_close(module.get_delta_weight("default"), layer.up @ layer.down)


def test_a_solution_that_changes_nothing_is_refused(tiny_sdxl_folder: Path) -> None:
    container = ModelCache("cpu", torch.float32).container(str(tiny_sdxl_folder))
    name = container.adapter_targets()["cross_attention"][1]
    nothing = LayerUpdate(torch.zeros(4, 0), torch.zeros(0, 4))
    with pytest.raises(RecipeError, match="nothing is to change"):
        attach_solution(Solution({name: nothing}), container)


def test_it_can_be_stopped_before_it_begins(tiny_sdxl_folder: Path, tmp_path: Path) -> None:
    run_dir = RunDir.create(tmp_path, "computed")
    control.send(run_dir, Command("stop"))
    recipe, flag = recipe_of(tiny_sdxl_folder, "uce"), SimpleNamespace(is_set=False)
    with RunWriter.open(run_dir) as writer, pytest.raises(Interrupted, match="after step 0 of 1"):
        train(recipe, run_dir, writer, flag, StartOptions(), SHIPPED)
    assert not run_dir.adapter.path.exists()


def test_what_only_training_uses_is_told(tmp_path: Path) -> None:
    text = """\
version: 1
base_model: {id: "builtin:shapes-xl"}
method: {name: uce, concepts: [{target: a red circle, neutral: a blue circle}]}
adapter: {rank: 8, alpha: 1.0}
train: {steps: 50, seed: 3, resolution: 64}
scheduler: {model: {name: cosine}}
loss: {name: mse}
"""
    told = {problem.key: problem.line for problem in check_text(text, "r.yaml", plugins=SHIPPED)}
    assert told == {"adapter.rank": 4, "train.steps": 5, "scheduler.model.name": 6}
    assert all(
        "unused" in problem.message for problem in check_text(text, "r.yaml", plugins=SHIPPED)
    )


@pytest.mark.parametrize("method", METHODS)
def test_a_plan_says_what_drawing_takes_and_that_nothing_trains(
    method: str, tiny_sdxl_folder: Path
) -> None:
    recipe = recipe_of(tiny_sdxl_folder, method)
    estimate = Estimator(torch.device("cpu"), plugins=SHIPPED).estimate(recipe)
    assert estimate.trained_parameters == 0
    assert estimate.adapter_parameters > 0
    assert estimate.disk.checkpoints == 0
    assert estimate.disk.adapter == 8 * estimate.adapter_parameters
    assert estimate.work.flops > 0
    assert estimate.memory.peak > 0
    assert set(preview(recipe, plugins=SHIPPED)) == {"needs"}


def test_sdxl_is_planned_without_its_weights() -> None:
    recipe = recipe_of(Path("stabilityai/stable-diffusion-xl-base-1.0"), "uce")
    estimate = Estimator(torch.device("cpu"), plugins=SHIPPED).estimate(recipe)
    # k and v of 70 cross-attentions, 640 or 1280 wide, at rank 1 over text of width 2048.
    widths = [640] * 10 + [1280] * 60
    assert estimate.adapter_parameters == 2 * sum(width + 2048 for width in widths)


def test_a_variant_chooses_the_layers_and_a_recipe_that_says_others_is_told() -> None:
    text = """\
version: 1
base_model: {id: "builtin:shapes-xl"}
method: {name: esd, variant: u, concepts: [{target: a red circle}]}
adapter: {name: locon}
"""
    assert check_text(text, "r.yaml", plugins=SHIPPED) == []
    wanted = adapter_section(parse_text(text, "r.yaml", plugins=SHIPPED), plugins=SHIPPED)
    assert wanted.options["layers"] == (
        "self_attention", "feed_forward", "projection", "convolution",
    )  # fmt: skip
    # lora has no convolutions
    plain = adapter_section(
        parse_text(text.replace("locon", "lora"), "r.yaml", plugins=SHIPPED), plugins=SHIPPED
    )
    assert plain.options["layers"] == ("self_attention", "feed_forward", "projection")
    same = text.replace("locon", "locon, layers: [cross_attention]")
    (problem,) = check_text(same, "r.yaml", plugins=SHIPPED)
    assert problem.key == "adapter.layers"
    assert "variant: u has the layers self_attention" in problem.message
    assert check_text(same.replace("variant: u", "variant: x"), "r.yaml", plugins=SHIPPED) == []


def test_a_sliders_figures_are_not_looked_at_for_an_eraser() -> None:
    text = """\
version: 1
base_model: {id: "builtin:shapes-xl"}
method: {name: leco, concepts: [{target: a red circle}]}
train: {efficacy_every: 10}
"""
    (problem,) = check_text(text, "r.yaml", plugins=SHIPPED)
    assert (problem.key, problem.line) == ("train.efficacy_every", 4)


def test_a_list_is_split_into_adapters_each_of_which_erases_its_share(
    tiny_folder: Path, tmp_path: Path
) -> None:
    concepts = [
        {"target": f"a {color} circle", "neutral": "a circle"} for color in ("red", "green", "pink")
    ]
    method = {
        "name": "speed",
        "concepts": concepts,
        "preserve": ["a square"],
        "watch": ["a black cross"],
        "keep_empty": False,
        "adapters": 2,
    }
    content = {
        "version": 1,
        "base_model": {"id": str(tiny_folder), "device": "cpu"},
        "method": method,
        "sample": {"scales": [0, 1], "steps": 2, "prompts": ["a red circle"]},
    }
    recipe = parse_recipe(content, plugins=SHIPPED)
    run_dir = run_here(recipe, new_run(recipe, tmp_path))
    whole: list[dict[str, torch.Tensor]] = []
    parts: list[dict[str, torch.Tensor]] = []
    for name, found in (("adapter", whole), ("adapter-1of2", parts), ("adapter-2of2", parts)):
        for ending in (".safetensors", ".kohya.safetensors"):
            tensors, config, metadata = read_adapter(run_dir.adapter_dir.file(name + ending))
            scale = config["lora_alpha"] / config["r"]
            ups = {key: value for key, value in tensors.items() if ".lora_B." in key}
            found.append(
                {key: scale * up @ tensors[key.replace("_B.", "_A.")] for key, up in ups.items()}
            )
    for key, change in whole[0].items():
        torch.testing.assert_close(parts[0][key] + parts[2][key], change, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(parts[1][key] + parts[3][key], change, rtol=1e-4, atol=1e-6)
        assert float(parts[0][key].abs().max()) > 0
        assert float(parts[2][key].abs().max()) > 0
    _, _, metadata = read_adapter(run_dir.adapter_dir.file("adapter-1of2.safetensors"))
    assert metadata["loba.share"] == '["a red circle", "a green circle"]'
    assert not any(key.startswith("loba.effect.") for key in metadata)  # which is the whole's
    _, _, metadata = read_adapter(run_dir.adapter)
    assert metadata["loba.effect.scales"] == "0 1"
    assert "loba.share" not in metadata
    rows = run_dir.costs.path.read_text().splitlines()
    assert [row.split(",")[0] for row in rows[1:]] == ["erased"] * 3 + ["preserved", "watched"]
    assert run_dir.costs_picture.path.read_bytes().startswith(b"\x89PNG")
    (told,) = events(run_dir, "costs")
    assert told["sentences"][0].startswith("Of the change of 3 concepts")
