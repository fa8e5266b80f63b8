"""Each example of another tool's configuration makes a valid recipe with the same values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from import_files import FILES, TOKEN, copied, imported, left

from loba_tui.core.recipe.schema import Recipe

XFORMER = ["cross_attention", "self_attention", "feed_forward", "projection"]

# For each folder: the files in the order they are named, values of the recipe by key, and keys that
# were not carried over.
EXAMPLES: dict[str, tuple[list[str], dict[str, Any], set[str]]] = {
    "sliders": (
        ["config.yaml"],
        {
            "name": "smile-slider",
            "base_model.id": "models/photo-xl",
            "base_model.dtype": "bfloat16",
            "adapter": {
                "name": "locon",
                "rank": 8,
                "alpha": 2,
                "layers": ["self_attention", "convolution"],
            },
            "method.name": "text_slider",
            "method.rollout_steps": 40,
            "method.concepts.0.negative": "portrait, frown",
            "method.concepts.0.neutral": None,
            "method.concepts.0.guidance": 3,
            "method.concepts.1.target": "",
            "method.concepts.1.positive": "smiling {{everyone}}",
            "optimizer": {"name": "adamw_8bit", "lr": 3e-4},
            "scheduler.model.name": "cosine",
            "scheduler.noise.name": "euler_ancestral",
            "train.steps": 800,
            "train.batch_size": 2,
            "train.resolution": 768,
            "save.every": 200,
        },
        {"save.path", "logging.use_wandb", "other.use_xformers", "prompts: resolution"},
    ),
    "leco": (
        ["config.yaml", "prompts.yaml"],
        {
            "method.name": "leco",
            "method.action": "erase",
            "method.concepts.0.target": "car",
            "method.concepts.0.positive": None,
            "method.concepts.0.neutral": "",
            "method.concepts.0.guidance": 1.5,
            "adapter.layers": ["cross_attention", "self_attention"],
            "optimizer": {
                "name": "lion",
                "lr": 1e-4,
                "weight_decay": 0.02,
                "beta1": 0.9,
                "beta2": 0.95,
            },
            "train.batch_size": 4,
        },
        {"save.precision"},
    ),
    "leco-enhance": (
        ["prompts.yaml", "config.yaml"],
        {
            "method": {"name": "leco", "action": "enhance"},
            "method.concepts.0.positive": "dog with a hat",
            "method.concepts.0.negative": None,
            "train.batch_size": 1,
        },
        {"save.path"},
    ),
    "mixed": (
        ["config.yaml"],
        {
            "method.name": "text_slider",
            "method.concepts.0.positive": "old house",
            # To erase "new barn" is to go from it to its opposite.
            "method.concepts.1.positive": "old barn",
            "method.concepts.1.negative": "new barn",
        },
        {"save.path"},
    ),
    "ai-slider": (
        ["slider.yaml"],
        {
            "name": "age_v1",
            "adapter": {"name": "lora", "rank": 8, "alpha": 4, "layers": XFORMER},
            "method.rollout_steps": 30,
            "method.concepts.0.target": "person",
            "method.concepts.0.negative": "very young person",
            "method.concepts.0.neutral": "",
            "method.concepts.0.guidance": 1.5,
            "method.concepts.0.preserve": ["a dog"],
            "optimizer.name": "prodigy",
            "base_model.gradient_checkpointing": True,
            "sample.prompts": ["a gardener at work", "a baker"],
            "sample.scales": [-4, -2, 0, 4],
            "sample.seeds": [7],
            "sample.negative_prompt": "blurry",
            "train.resolution": 640,
            "save.keep": 2,
        },
        {
            "config.process.0.train.min_snr_gamma",
            "config.process.0.slider.targets.0.weight",
            "config.process.0.slider.targets.0.shuffle",
            "slider.resolutions",
        },
    ),
    "ai-slider-ui": (
        ["job.json"],
        {
            "adapter.name": "locon",
            "adapter.conv_rank": 8,
            "adapter.conv_alpha": 4,
            "method.rescale_target": True,
            "method.concepts.0.target": "",
            "method.concepts.0.guidance": 2.5,
            "method.concepts.0.preserve": ["a portrait"],
            "train.gradient_accumulation": 2,
            "train.ema.decay": 0.99,
            "optimizer.weight_decay": 1e-4,
            "sample.prompts": ["a lake", "a road"],
        },
        {"config.process.0.datasets.0.folder_path", "config.process.0.slider.anchor_strength"},
    ),
    "ai-lora": (
        ["lora.yaml"],
        {
            "name": "my-clay-figures",
            "method.name": "lora_finetune",
            "data.sources.0": {"path": "data/clay", "repeats": 3, "masks": "data/clay-masks"},
            "data.sources.1": {"path": "data/things", "prior": True},
            "data.captions": {
                "trigger": "cl4y",
                "extension": ".txt",
                "dropout": 0.05,
                "shuffle": True,
            },
            "data.cache": "disk",
            "train.resolution": 1024,
            "optimizer": {"name": "adafactor", "lr": 5e-5},
            "loss.weighting": {"name": "min_snr", "gamma": 4},
            "noise": [{"name": "offset", "strength": 0.05}],
            "scheduler.model": {"name": "cosine_restarts", "warmup_steps": 20},
            "scheduler.timestep.name": "logit_normal",
            "sample.prompts": ["cl4y of a fox", "a castle, cl4y"],
            "sample.seeds": [3],
            "sample.scales": [0, 1],
            "base_model.dtype": "float16",
        },
        {
            "config.process.0.network.dropout",
            "config.process.0.save.hf_repo_id",
            "config.process.0.model.quantize",
        },
    ),
    "kohya-toml": (
        ["config.toml", "dataset.toml"],
        {
            "name": "zog",
            "base_model.id": "models/photo-xl.safetensors",
            "base_model.vae": "models/vae-fix",
            "adapter": {"name": "locon", "rank": 32, "alpha": 16, "conv_rank": 8, "conv_alpha": 4},
            "adapter.layers": [*XFORMER, "convolution"],
            "data.sources.0": {"path": "C:\\photos\\zog", "repeats": 10},
            "data.sources.1": {"path": "C:\\photos\\cats", "prior": True},
            "data.captions": {
                "extension": ".caption",
                "shuffle": True,
                "keep": 1,
                "dropout": 0.05,
                "missing": "zog cat",
            },
            "data.buckets": {"enabled": True, "step": 64},
            "data.flip": True,
            "optimizer": {"name": "adamw_8bit", "lr": 5e-5, "weight_decay": 0.05, "beta2": 0.99},
            "scheduler.model": {"name": "cosine_restarts", "cycles": 2, "warmup_steps": 50},
            "loss.weighting": {"name": "min_snr", "gamma": 5},
            "noise": [
                {"name": "offset", "strength": 0.0357},
                {"name": "pyramid", "levels": 6, "discount": 0.3},
            ],
            "train": {
                "steps": 900,
                "batch_size": 4,
                "gradient_accumulation": 2,
                "seed": 1234,
                "resolution": 1024,
                "max_grad_norm": 0.5,
            },
            "sample": {
                "every": 150,
                "negative_prompt": "low quality, blurry",
                "seeds": [1],
                "steps": 28,
                "guidance_scale": 7,
            },
            "sample.prompts": ["zog cat on a chair", "zog cat in snow"],
            "sample.noise.name": "euler_ancestral",
            "save": {"every": 300, "keep": 3},
        },
        {
            "network_dropout",
            "text_encoder_lr",
            "clip_skip",
            "wandb_api_key",
            "sample_prompts --w",
            "sample_prompts --seed",
        },
    ),
    "kohya-sections": (
        ["config.toml"],
        {
            "base_model.prediction_type": "v_prediction",
            "adapter": {"name": "loha", "rank": 4, "alpha": 1},
            "optimizer": {
                "name": "prodigy",
                "step_factor": 0.8,
                "safeguard_warmup": True,
                "bias_correction": True,
            },
            "scheduler.model": {"name": "linear_warmup", "warmup_steps": 50},
            "base_model.zero_snr": True,
            "loss": {"name": "huber", "delta": 0.2, "schedule": "exponential"},
            "loss.weighting": {"name": "debiased"},
            "noise": [{"name": "perturbation", "gamma": 0.1}],
            "train.resolution": 768,
        },
        {"network_train_unet_only", "v2"},
    ),
    "kohya-flags": (
        ["train.sh"],
        {
            "name": "robots",
            "base_model.id": "models/photo-xl.safetensors",
            "base_model.dtype": "float16",
            "adapter": {"name": "lokr", "rank": 16, "alpha": 8, "factor": 8, "layers": XFORMER},
            "data.sources.0": {"path": "data/robots"},
            "data.sources.1": {"path": "data/reg", "prior": True},
            "data.prior_weight": 0.5,
            "optimizer": {"name": "prodigy", "lr": 1e-4},
            "scheduler.model": {"name": "polynomial", "power": 1},
            "train.batch_size": 2,
        },
        {"max_train_epochs", "seed", "huggingface_token", "network_args dropout"},
    ),
    "kohya-leco": (
        ["leco.bat", "prompts.yaml"],
        {
            "base_model.id": "models\\sd15",
            "method": {"name": "text_slider", "rollout_steps": 40},
            "method.concepts.0.target": "",
            "method.concepts.0.negative": "blurry, coarse",
            "method.concepts.0.guidance": 2,
            "sample.prompts": ["fine detail, sharp"],
            "train.steps": 500,
        },
        {"prompts.yaml.0.weight"},
    ),
    "kohya-gui": (
        ["settings.json"],
        {
            "adapter": {"name": "locon", "rank": 64, "alpha": 32, "conv_rank": 16, "conv_alpha": 8},
            "train": {"steps": 700, "batch_size": 3, "seed": 11, "resolution": 512},
            "scheduler.model": {"name": "cosine", "warmup_steps": 70},
            "optimizer.name": "lion",
            "data.captions.keep": 2,
            "sample.prompts": ["a red chair", "a blue chair"],
            "sample.seeds": [5],
        },
        {"epoch", "bucket_no_upscale"},
    ),
    "kohya-captions": (
        ["config.toml", "meta_birds.json"],
        {"data.sources.0": {"path": "photos/birds"}, "adapter.rank": 8, "train.steps": 200},
        {"in_json"},
    ),
    "kohya-lycoris": (
        ["config.toml"],
        {"adapter": {"name": "dora", "rank": 8, "alpha": 8}, "optimizer.name": "adafactor"},
        {"lr_scheduler", "network_args conv_dim", "network_weights"},
    ),
    "kohya-easy": (
        ["runtime.toml"],
        {
            "adapter": {"name": "oft", "rank": 4},
            "optimizer.name": "came",
            "scheduler.model.name": "rex",
            "data.sources.0": {"path": "photos/masks-of-wood", "repeats": 4},
            "train.seed": 23,
        },
        {"network_train_unet_only"},
    ),
    "onetrainer": (
        ["config.json", "concepts.json", "samples.json"],
        {
            "adapter": {"name": "loha", "rank": 12, "alpha": 6, "layers": XFORMER},
            "optimizer": {"name": "prodigy", "lr": 2e-4, "step_factor": 0.5},
            "scheduler.model": {"name": "cosine_restarts", "cycles": 4, "warmup_steps": 30},
            "scheduler.timestep.name": "logit_normal",
            "loss.weighting": {"name": "min_snr", "gamma": 4},
            "noise": [
                {"name": "offset", "strength": 0.03},
                {"name": "perturbation", "gamma": 0.05},
            ],
            "data.sources.0": {"path": "photos", "repeats": 3},
            "data.captions": {"shuffle": True, "keep": 2},
            "data.mask.floor": 0.2,
            "data.flip": True,
            "train": {"resolution": 1024, "max_grad_norm": 2},
            "train.ema.decay": 0.998,
            "sample": {
                "seeds": [9],
                "steps": 22,
                "guidance_scale": 6.5,
                "negative_prompt": "plastic",
            },
            "sample.prompts": ["a pot", "a pot in rain"],
        },
        {
            "masked_training",
            "text_encoder.train",
            "epochs",
            "sample_after",
            "concepts.1",
            "secrets.huggingface_token",
            "resolution",
        },
    ),
    "onetrainer-old": (
        ["config.json"],
        {
            "adapter": {"name": "locon", "rank": 16, "alpha": 1},
            "optimizer": {"name": "adamw", "lr": 1e-4, "weight_decay": 0.02},
            "scheduler.model": {"name": "linear_warmup", "warmup_steps": 100},
            "loss.weighting": {"name": "min_snr", "gamma": 5},
            "data.sources.0": {"path": "D:\\cats"},
            "data.buckets.enabled": False,
            "save.every": 500,
        },
        {"concepts.0.text.prompt_source", "attention_mechanism"},
    ),
    "simpletuner": (
        ["config.json", "multidatabackend.json", "lycoris_config.json"],
        {
            "name": "towers",
            "adapter": {"name": "lokr", "rank": 10000, "alpha": 1, "factor": 16},
            "adapter.layers": ["cross_attention", "self_attention", "feed_forward"],
            "optimizer": {"name": "lion", "lr": 3e-4, "weight_decay": 0.01},
            "scheduler.model": {"name": "polynomial", "power": 0.8, "warmup_steps": 60},
            "data.sources.0": {"path": "photos/towers", "repeats": 5},
            "data.sources.1": {"path": "photos/sky", "prior": True, "caption": "a sky"},
            "data.captions": {"dropout": 0.1, "trigger": "zog tower"},
            "data.crop": "random",
            "data.cache": "none",
            "train": {"steps": 1200, "batch_size": 2, "seed": 42, "resolution": 1024},
            "sample.prompts": ["a tower"],
            "sample": {"every": 100, "seeds": [4], "guidance_scale": 4.5, "steps": 18},
            "save": {"every": 300, "keep": 5},
        },
        {"--hub_token", "report_to", "backends.2.type", "2.aws_secret_access_key"},
    ),
    "simpletuner-env": (
        ["config.env"],
        {
            "name": "lora-hats",
            "adapter": {"name": "lora", "rank": 24, "alpha": 24},
            "noise": [{"name": "offset", "strength": 0.02}],
            "train.steps": 640,
            "optimizer": {"name": "adamw", "lr": 8e-5},
            "data.sources.0": {"path": "photos/hats"},
        },
        {"seed", "HF_TOKEN", "lr_warmup_steps", "backends.0.caption_strategy"},
    ),
    "simpletuner-dora": (
        ["config.json"],
        {
            "adapter": {"name": "dora", "rank": 8, "alpha": 16},
            "optimizer.name": "schedule_free_adamw",
            "loss.name": "smooth_l1",
        },
        {"num_train_epochs", "lr_scheduler"},
    ),
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_is_imported_with_its_values(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files, expected, not_carried = EXAMPLES[name]
    folder = copied(name, tmp_path)
    monkeypatch.chdir(tmp_path)
    recipe, found = imported([folder / file for file in files])
    for key, value in expected.items():
        assert _matches(_at(recipe, key), value), (key, _at(recipe, key))
    assert not_carried <= set(left(found)), sorted(left(found))
    assert TOKEN not in found.text


def test_every_example_that_lies_there_is_tested() -> None:
    assert {path.name for path in FILES.iterdir()} == set(EXAMPLES)
    assert len(EXAMPLES) >= 20


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_key_is_carried_over_or_listed_with_a_reason(name: str, tmp_path: Path) -> None:
    folder = copied(name, tmp_path)
    _, found = imported([folder / file for file in EXAMPLES[name][0]])
    comments = " ".join(line for line in found.text.splitlines() if line.startswith("#"))
    for each in found.draft.left_overs:
        assert each.reason, each
        if not each.is_off:
            assert each.key in comments, each


def _at(recipe: Recipe, key: str) -> Any:
    found: Any = recipe.model_dump(mode="json")
    for step in key.split("."):
        found = found[int(step)] if isinstance(found, list) else found[step]
    return found


def _matches(found: Any, expected: Any) -> bool:
    """Say whether a value is as expected; of a section only the keys that are named count."""
    if isinstance(expected, dict):
        return all(_matches(found[key], value) for key, value in expected.items())
    if isinstance(expected, list):
        same = len(found) == len(expected)
        return same and all(map(_matches, found, expected))
    return bool(found == expected)
