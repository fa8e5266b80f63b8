"""Configurations of flow-matching models: the model, its layers, and how timesteps are drawn."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path
from typing import Any

import pytest
from import_files import imported, left

from loba_tui.client.recipes.imports.registry import Imported
from loba_tui.core.recipe.schema import Recipe

ATTENTION = ["cross_attention", "self_attention"]
BLOCKS = [*ATTENTION, "feed_forward", "modulation"]
FLUX_SHIFT = round(math.exp(0.5 + (1.15 - 0.5) * (1024 - 256) / (4096 - 256)), 3)
"""For 512 pixels, which are 1,024 tokens: a line from 0.5 at 256 tokens to 1.15 at 4,096."""


def _ai_toolkit(
    folder: Path, model: dict[str, Any], train: dict[str, Any] | None = None, **parts: Any
) -> tuple[Recipe, Imported]:
    process = {
        "type": "sd_trainer",
        "model": model,
        "network": {"type": "lora", "linear": 8, "linear_alpha": 8},
        "train": {"steps": 10, "noise_scheduler": "flowmatch", **(train or {})},
        "datasets": [{"folder_path": "images", "resolution": 512}],
        "sample": {"sampler": "flowmatch", "prompts": ["a cat"]},
        **parts,
    }
    path = folder / "job.json"
    path.write_text(json.dumps({"job": "extension", "config": {"process": [process]}}))
    return imported([path])


def _kohya(*words: str) -> tuple[Recipe, Imported]:
    usual = ("--train_data_dir", "d", "--network_dim", "4", "--resolution", "512")
    return imported([], *usual, *words)


FLUX_FLAGS = (
    "--pretrained_model_name_or_path", "flux1-dev.safetensors", "--network_module",
    "networks.lora_flux",
)  # fmt: skip


def _onetrainer(folder: Path, **values: Any) -> tuple[Recipe, Imported]:
    concepts = [{"path": "images", "image": {}, "text": {}}]
    config = {"training_method": "LORA", "resolution": "512", "concepts": concepts, **values}
    path = folder / "config.json"
    path.write_text(json.dumps(config))
    return imported([path])


def _simpletuner(folder: Path, **values: Any) -> tuple[Recipe, Imported]:
    config, data = folder / "config.json", folder / "data.json"
    config.write_text(
        json.dumps({"model_type": "lora", "resolution": 512, "resolution_type": "pixel", **values})
    )
    data.write_text(json.dumps([{"id": "a", "type": "local", "instance_data_dir": "images"}]))
    return imported([config, data])


def _check_flow(recipe: Recipe, model: str) -> None:
    assert recipe.base_model.id == model
    assert recipe.base_model.prediction_type is None
    assert recipe.scheduler.noise.name == "flow_match_euler"
    assert recipe.sample.noise.name == "flow_match_euler"


def _timestep(recipe: Recipe) -> dict[str, Any]:
    return {"name": recipe.scheduler.timestep.name, **recipe.scheduler.timestep.options}


@pytest.mark.parametrize(
    ("model", "layers"),
    [
        ({"name_or_path": "black-forest-labs/FLUX.1-dev", "is_flux": True}, BLOCKS),
        ({"name_or_path": "black-forest-labs/FLUX.1-dev"}, BLOCKS),
        ({"name_or_path": "models/sd3", "is_v3": True}, BLOCKS),
        ({"name_or_path": "models/sd3", "arch": "sd3"}, BLOCKS),
        ({"name_or_path": "Qwen/Qwen-Image-2512", "arch": "qwen_image:2512"}, BLOCKS),
        ({"name_or_path": "models/klein", "arch": "flux2_klein_4b"}, BLOCKS[:3]),
        ({"name_or_path": "Tongyi-MAI/Z-Image", "arch": "zimage"}, BLOCKS[1:]),
    ],
)
def test_a_job_of_ai_toolkit_trains_its_model(
    model: dict[str, Any], layers: list[str], tmp_path: Path
) -> None:
    recipe, found = _ai_toolkit(tmp_path, {**model, "quantize": True})
    _check_flow(recipe, model["name_or_path"])
    assert recipe.adapter.options["layers"] == layers
    assert "not quantized" in left(found)["config.process.0.model.quantize"]
    assert not {key for key in left(found) if "noise_scheduler" in key or "sampler" in key}


@pytest.mark.parametrize(
    ("arch", "train", "expected"),
    [
        ("flux", {}, {"name": "logit_normal"}),
        ("flux", {"timestep_type": "sigmoid"}, {"name": "logit_normal"}),
        ("flux", {"timestep_type": "linear"}, {"name": "uniform"}),
        ("flux", {"linear_timesteps": True}, {"name": "uniform"}),
        ("flux", {"timestep_type": "weighted"}, {"name": "uniform"}),
        ("flux", {"timestep_type": "flux_shift"}, {"name": "uniform", "shift": FLUX_SHIFT}),
        ("zimage", {"timestep_type": "shift"}, {"name": "uniform", "shift": 3.0}),
        (
            "sd3",
            {"timestep_type": "linear", "min_denoising_steps": 100, "max_denoising_steps": 700},
            # Steps are counted from noise there.
            {"name": "uniform", "low": 0.3, "high": 0.9},
        ),
    ],
)
def test_ai_toolkits_timestep_types_are_densities(
    arch: str, train: dict[str, Any], expected: dict[str, Any], tmp_path: Path
) -> None:
    recipe, found = _ai_toolkit(tmp_path, {"name_or_path": "m", "arch": arch}, train)
    assert _timestep(recipe) == expected
    weighs = {"linear_timesteps", "weighted"} & {*train, *train.values()}
    assert any("no such weight" in reason for reason in left(found).values()) == bool(weighs)


def test_a_slider_of_a_flow_model_has_both_schedulers(tmp_path: Path) -> None:
    slider = {"targets": [{"target_class": "person", "positive": "old", "negative": "young"}]}
    model = {"name_or_path": "Tongyi-MAI/Z-Image", "arch": "zimage"}
    recipe, _ = _ai_toolkit(tmp_path, model, type="slider", slider=slider)
    _check_flow(recipe, "Tongyi-MAI/Z-Image")
    assert recipe.method.name == "text_slider"


@pytest.mark.parametrize(
    ("file", "hub_id"),
    [
        ("flux1-dev.safetensors", "black-forest-labs/FLUX.1-dev"),
        ("D:\\models\\flux1-schnell.safetensors", "black-forest-labs/FLUX.1-schnell"),
    ],
)
def test_a_transformer_in_one_file_is_named_with_the_hubs_model(file: str, hub_id: str) -> None:
    words = ("--pretrained_model_name_or_path", file, "--network_module", "networks.lora_flux")
    recipe, found = _kohya(*words, "--ae", "ae.safetensors", "--clip_l", "c.safetensors")
    _check_flow(recipe, hub_id)
    assert "in one file is not read here" in left(found)["pretrained_model_name_or_path"]
    assert {"ae", "clip_l", "network_train_unet_only"} <= set(left(found))
    assert recipe.adapter.options["layers"] == BLOCKS
    assert recipe.adapter.text_encoders is None


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ((), {"name": "uniform", "shift": 3.0}),
        (("--timestep_sampling", "uniform"), {"name": "uniform"}),
        (
            ("--timestep_sampling", "sigmoid", "--sigmoid_scale", "0.5"),
            {"name": "logit_normal", "std": 0.5},
        ),
        (
            ("--timestep_sampling", "shift", "--discrete_flow_shift", "3.1582"),
            {"name": "logit_normal", "shift": 3.1582},
        ),
        (("--timestep_sampling", "flux_shift"), {"name": "logit_normal", "shift": FLUX_SHIFT}),
        (
            ("--weighting_scheme", "logit_normal", "--logit_mean", "0.5", "--logit_std", "2"),
            # sigma draws an index into timesteps from noise to image.
            {"name": "logit_normal", "mean": -0.5, "std": 2.0, "shift": 3.0},
        ),
        (
            ("--weighting_scheme", "mode", "--mode_scale", "1", "--discrete_flow_shift", "1"),
            {"name": "mode", "scale": 1.0},
        ),
        (("--weighting_scheme", "cosmap", "--discrete_flow_shift", "1"), {"name": "cosmap"}),
    ],
)
def test_kohyas_ways_to_draw_timesteps_of_flux_are_densities(
    words: tuple[str, ...], expected: dict[str, Any]
) -> None:
    recipe, found = _kohya(*FLUX_FLAGS, *words, "--guidance_scale", "3.5")
    assert _timestep(recipe) == expected
    assert "is told 1 in training" in left(found)["guidance_scale"]
    assert "velocity" in left(found)["model_prediction_type"]


def test_settings_of_the_graphical_program_say_flux_by_a_box(tmp_path: Path) -> None:
    values = {
        "LoRA_type": "Flux1",
        "flux1_checkbox": True,
        "pretrained_model_name_or_path": "models/flux1-dev.safetensors",
        "train_data_dir": "d",
        "max_resolution": "512,512",
        "network_dim": 8,
        "conv_dim": 1,
        "timestep_sampling": "shift",
        "discrete_flow_shift": 3,
    }
    path = tmp_path / "settings.json"
    path.write_text(json.dumps(values))
    recipe, _ = imported([path])
    _check_flow(recipe, "black-forest-labs/FLUX.1-dev")
    assert (recipe.adapter.name, recipe.adapter.options["layers"]) == ("lora", BLOCKS)
    assert _timestep(recipe) == {"name": "logit_normal", "shift": 3.0}


def test_a_scheme_that_weighs_nothing_is_no_density() -> None:
    words = ("--weighting_scheme", "cosmap", "--model_prediction_type", "raw")
    recipe, found = _kohya(*FLUX_FLAGS, *words, "--discrete_flow_shift", "1")
    assert _timestep(recipe) == {"name": "uniform"}
    assert "weighs nothing" in left(found)["weighting_scheme"]
    assert "model_prediction_type" not in left(found)


def test_sd3s_scheme_counts_from_image_to_noise() -> None:
    words = ("--pretrained_model_name_or_path", "models/sd3", "--network_module",
             "networks.lora_sd3", "--weighting_scheme", "logit_normal", "--logit_mean", "0.5",
             "--training_shift", "3")  # fmt: skip
    recipe, _ = _kohya(*words)
    _check_flow(recipe, "models/sd3")
    assert _timestep(recipe) == {"name": "logit_normal", "mean": 0.5, "shift": 3.0}


def test_what_is_of_diffusion_alone_is_listed() -> None:
    words = ("--min_snr_gamma", "5", "--v_parameterization", "--zero_terminal_snr",
             "--sample_sampler", "ddim", "--min_timestep", "100")  # fmt: skip
    recipe, found = _kohya(*FLUX_FLAGS, *words)
    _check_flow(recipe, "black-forest-labs/FLUX.1-dev")
    assert recipe.loss.weighting is None
    assert {"min_snr_gamma", "v_parameterization", "sample_sampler"} <= set(left(found))


@pytest.mark.parametrize(
    ("script", "words", "hub_id", "layers"),
    [
        ("zimage", "", "Tongyi-MAI/Z-Image", BLOCKS[1:3]),
        ("qwen_image", "", "Qwen/Qwen-Image", BLOCKS[:3]),
        ("flux_2", "--model_version klein-base-9b",
         "black-forest-labs/FLUX.2-klein-base-9B", BLOCKS[:3]),
    ],
)  # fmt: skip
def test_musubis_scripts_and_data_sets_are_read(
    script: str, words: str, hub_id: str, layers: list[str], tmp_path: Path
) -> None:
    command, data = tmp_path / "train.sh", tmp_path / "data.toml"
    command.write_text(
        f"accelerate launch src/musubi_tuner/{script}_train_network.py --dit models/dit {words}"
        f" --vae v --text_encoder t --dataset_config data.toml --network_dim 32 --network_module"
        f" networks.lora_{script} --timestep_sampling shift --discrete_flow_shift 2.0"
        " --blocks_to_swap 16"
    )
    data.write_text(
        '[general]\nresolution = [512, 512]\ncaption_extension = ".txt"\n'
        '[[datasets]]\nimage_directory = "images"\ncache_directory = "c"\nnum_repeats = 2\n'
    )
    recipe, found = imported([command])
    _check_flow(recipe, hub_id)
    assert recipe.adapter.options["layers"] == layers
    assert _timestep(recipe) == {"name": "logit_normal", "shift": 2.0}
    assert recipe.data is not None
    assert [(each.path, each.repeats) for each in recipe.data.sources] == [("images", 2)]
    assert recipe.adapter.text_encoders is None
    assert (recipe.base_model.offload, recipe.base_model.blocks_on_host) == ("blocks", 16)
    assert {"dit", "vae", "text_encoder", "datasets.0.cache_directory"} <= set(left(found))


@pytest.mark.parametrize(
    ("kind", "model"),
    [
        ("FLUX_DEV_1", "black-forest-labs/FLUX.1-dev"),
        ("FLUX_2", "black-forest-labs/FLUX.2-klein-base-9B"),
        ("STABLE_DIFFUSION_3", "stabilityai/stable-diffusion-3-medium-diffusers"),
        ("STABLE_DIFFUSION_35", "models/sd35"),
        ("QWEN", "Qwen/Qwen-Image"),
        ("Z_IMAGE", "Tongyi-MAI/Z-Image"),
    ],
)
def test_a_model_type_of_onetrainer_is_a_family(kind: str, model: str, tmp_path: Path) -> None:
    part = {"train": True, "weight_dtype": "NFLOAT_4", "learning_rate": 3e-4, "guidance_scale": 2}
    values = {"model_type": kind, "base_model_name": model, "transformer": part}
    recipe, found = _onetrainer(tmp_path, **values, layer_filter_preset="attn-only")
    _check_flow(recipe, model)
    layers = ATTENTION[1:] if kind == "Z_IMAGE" else ATTENTION
    assert recipe.adapter.options["layers"] == layers
    assert recipe.optimizer.lr == 3e-4
    assert recipe.adapter.text_encoders is None
    assert "transformer.weight_dtype" in left(found)
    assert "is told 1 in training" in left(found)["transformer.guidance_scale"]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, {"name": "uniform"}),
        ({"timestep_shift": 3.0}, {"name": "uniform", "shift": 3.0}),
        (
            {"timestep_distribution": "LOGIT_NORMAL", "noising_bias": 0.2, "noising_weight": 0.5},
            {"name": "logit_normal", "mean": 0.2, "std": 1.5},
        ),
        (
            {"timestep_distribution": "LOGIT_NORMAL", "dynamic_timestep_shifting": True},
            {"name": "logit_normal", "shift": FLUX_SHIFT},
        ),
        (
            {"timestep_distribution": "HEAVY_TAIL", "noising_weight": 0.8},
            {"name": "mode", "scale": 0.8},
        ),
        ({"timestep_distribution": "COS_MAP", "timestep_shift": 2}, {"name": "cosmap", "shift": 2}),
        (
            {"timestep_distribution": "SIGMOID", "noising_weight": 7.0, "noising_bias": 0.1},
            {"name": "sigmoid", "midpoint": 0.6, "steepness": 7.0},
        ),
        (
            {"timestep_distribution": "BETA", "noising_weight": 0.8, "noising_bias": 1.0},
            {"name": "beta", "alpha": 0.8, "beta": 1.0},
        ),
    ],
)
def test_onetrainers_distributions_are_densities(
    values: dict[str, Any], expected: dict[str, Any], tmp_path: Path
) -> None:
    model = {"model_type": "FLUX_DEV_1", "base_model_name": "models/flux"}
    recipe, _ = _onetrainer(tmp_path, **model, **values)
    assert _timestep(recipe) == expected


@pytest.mark.parametrize(
    ("family", "flavour", "model", "layers"),
    [
        ("flux", "dev", "black-forest-labs/FLUX.1-dev", ATTENTION),
        ("flux2", "klein-4b", "black-forest-labs/FLUX.2-klein-base-4B", ATTENTION[1:]),
        ("sd3", "large", "stabilityai/stable-diffusion-3.5-large", ATTENTION[1:]),
        ("qwen_image", "v1.0", "Qwen/Qwen-Image", ATTENTION[1:]),
        ("z_image", "base", "Tongyi-MAI/Z-Image", ATTENTION[1:]),
        ("z-image", None, "Tongyi-MAI/Z-Image-Turbo", ATTENTION[1:]),
    ],
)
def test_a_flavour_of_simpletuner_is_a_model_of_the_hub(
    family: str, flavour: str | None, model: str, layers: list[str], tmp_path: Path
) -> None:
    recipe, found = _simpletuner(
        tmp_path, model_family=family, model_flavour=flavour, base_model_precision="int8-quanto"
    )
    _check_flow(recipe, model)
    assert recipe.adapter.options["layers"] == layers
    assert _timestep(recipe) == {"name": "logit_normal", "shift": 3.0}
    assert "base_model_precision" in left(found)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (
            {"flow_schedule_shift": 1, "flow_sigmoid_scale": 0.8},
            {"name": "logit_normal", "std": 0.8},
        ),
        (
            {"flow_schedule_shift": 0, "flow_schedule_auto_shift": True},
            {"name": "logit_normal", "shift": FLUX_SHIFT},
        ),
        (
            {"flow_use_uniform_schedule": True, "flow_schedule_shift": 2},
            {"name": "uniform", "shift": 2.0},
        ),
        (
            {"flow_use_beta_schedule": True, "flow_beta_schedule_alpha": 3,
             "flow_schedule_shift": 0},
            {"name": "beta", "alpha": 3.0, "beta": 2.0},
        ),
    ],
)  # fmt: skip
def test_simpletuners_flow_schedules_are_densities(
    values: dict[str, Any], expected: dict[str, Any], tmp_path: Path
) -> None:
    recipe, found = _simpletuner(tmp_path, model_family="flux", flux_guidance_value=3.5, **values)
    assert _timestep(recipe) == expected
    assert "flux_guidance_value" in left(found)


def test_a_flavour_that_is_not_known_is_listed(tmp_path: Path) -> None:
    recipe, found = _simpletuner(tmp_path, model_family="flux", model_flavour="libreflux")
    _check_flow(recipe, "black-forest-labs/FLUX.1-dev")
    assert "set base_model.id" in left(found)["model_flavour"]


def test_simpletuners_targets_of_flux_are_groups_of_layers(tmp_path: Path) -> None:
    recipe, _ = _simpletuner(tmp_path, model_family="flux", flux_lora_target="ai-toolkit")
    assert recipe.adapter.options["layers"] == BLOCKS


def test_a_unet_of_flow_matching_is_one_by_its_prediction(tmp_path: Path) -> None:
    recipe, _ = _simpletuner(
        tmp_path,
        model_family="sdxl",
        pretrained_model_name_or_path="models/rectified",
        prediction_type="flow_matching",
    )
    assert recipe.base_model.prediction_type == "flow"
    assert recipe.scheduler.noise.name == "flow_match_euler"
    assert recipe.sample.noise.name == "flow_match_euler"


def test_sizes_and_names_beyond_measure_are_read(tmp_path: Path) -> None:
    words = ("--timestep_sampling", "flux_shift", "--resolution", "99999", "--vae", "v")
    recipe, _ = _kohya(*FLUX_FLAGS, *words)
    assert recipe.scheduler.timestep.name == "logit_normal"
    begun = time.perf_counter()
    recipe, _ = _onetrainer(tmp_path, base_model_name="m", model_type="FLUX " * 50_000)
    _check_flow(recipe, "m")
    assert time.perf_counter() - begun < 5
