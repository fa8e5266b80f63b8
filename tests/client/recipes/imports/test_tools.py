"""Importers on folders, references, families, and values that have to be worked out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from import_files import imported, left

from loba_tui.client.recipes.imports.prompts import parse_prompt
from loba_tui.client.recipes.imports.registry import foreign_problem, import_recipe, recognised
from loba_tui.core.errors import RecipeError
from loba_tui.core.plugins import SHIPPED
from loba_tui.core.recipe.schema import Recipe

KOHYA = ("--pretrained_model_name_or_path", "m", "--network_dim", "4")


def _folders(root: Path) -> None:
    for name, count in (("10_zog cat", 3), ("2_zog dog", 4)):
        (root / "img" / name).mkdir(parents=True)
        for index in range(count):
            (root / "img" / name / f"{index}.png").touch()
            (root / "img" / name / f"{index}.txt").touch()
    (root / "img" / "notes").mkdir()


def test_numbered_folders_are_sources_and_epochs_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _folders(tmp_path)
    monkeypatch.chdir(tmp_path)
    flags = ("--train_data_dir", "img", "--train_batch_size", "4", "--max_train_epochs", "5",
             "--save_every_n_epochs", "1", "--sample_every_n_epochs", "2")  # fmt: skip
    recipe, found = imported([], *KOHYA, *flags)
    assert recipe.data is not None
    assert [(s.path, s.repeats) for s in recipe.data.sources] == [
        ("img/10_zog cat", 10),
        ("img/2_zog dog", 2),
    ]
    assert recipe.data.captions.missing == "zog cat"
    # 3 images ten times and 4 twice are 38 samples: ten batches of four.
    assert (recipe.train.steps, recipe.save.every, recipe.sample.every) == (50, 10, 20)
    assert "# 5 epochs × 38 samples ÷ 4 a batch" in found.text


def test_prior_images_double_an_epoch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _folders(tmp_path)
    monkeypatch.chdir(tmp_path)
    flags = ("--train_data_dir", "img", "--reg_data_dir", "reg", "--max_train_epochs", "1")
    recipe, found = imported([], *KOHYA, *flags)
    assert recipe.train.steps == 76
    assert "a prior image for each" in found.text


def test_a_folder_can_be_named_beside_flags(tmp_path: Path) -> None:
    _folders(tmp_path)
    recipe, _ = imported([tmp_path / "img"], *KOHYA)
    assert recipe.data is not None
    assert [source.repeats for source in recipe.data.sources] == [10, 2]
    with pytest.raises(RecipeError, match="folder alone"):
        import_recipe([tmp_path / "img"], [], SHIPPED)


def test_folders_and_scales_make_image_sliders(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(
        "prompts_file: p.yaml\npretrained_model: {name_or_path: m}\n"
        "network: {type: lierla, rank: 4, training_method: xattn}\n"
        "train: {iterations: 100, lr: 1e-4}\n"
    )
    words = ("--folder_main", "eyes", "--folders", "small, large", "--scales", "-1, 1")
    recipe, _ = imported([config], *words)
    assert recipe.method.name == "image_slider"
    assert recipe.data is not None
    assert [(s.path, s.scale) for s in recipe.data.sources] == [
        ("eyes/small", -1),
        ("eyes/large", 1),
    ]


@pytest.mark.parametrize(
    ("kind", "method", "name", "layers"),
    [
        ("lierla", "xattn", "lora", ["cross_attention"]),
        ("lierla", "noxattn", "lora", ["self_attention"]),
        ("lierla", "full", "lora", ["cross_attention", "self_attention"]),
        ("c3lier", "selfattn", "lora", ["self_attention"]),
        ("c3lier", "noxattn", "locon", ["self_attention", "convolution"]),
        ("c3lier", "full", "locon", ["cross_attention", "self_attention", "convolution"]),
        ("c3lier", "noxattn-hspace", "locon", ["self_attention", "convolution"]),
    ],
)
def test_a_training_method_is_layers(
    kind: str, method: str, name: str, layers: list[str], tmp_path: Path
) -> None:
    config, prompts = tmp_path / "config.yaml", tmp_path / "prompts.yaml"
    config.write_text(
        "pretrained_model: {name_or_path: m}\n"
        f"network: {{type: {kind}, rank: 4, training_method: {method}}}\ntrain: {{lr: 1e-4}}\n"
    )
    prompts.write_text("- {target: a, positive: b, unconditional: c, action: enhance}\n")
    recipe, found = imported([config, prompts])
    assert (recipe.adapter.name, recipe.adapter.options["layers"]) == (name, layers)
    assert ("network.training_method" in left(found)) == ("hspace" in method)


FLUX = '{"training_method": "LORA", "base_model_name": "m", "model_type": "FLUX_DEV_1"}'
JOB = '{{"job": "x", "config": {{"process": [{{"type": "sd_trainer", "model": {{{}}}}}]}}}}'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (FLUX.replace("FLUX_DEV_1", "CHROMA_1"), "trains Chroma"),
        (FLUX.replace("FLUX_DEV_1", "FLUX_FILL_DEV_1"), "trains FLUX.1 Fill"),
        (FLUX.replace("FLUX_DEV_1", "STABLE_DIFFUSION_15_INPAINTING"), "inpainting"),
        (FLUX.replace("LORA", "FINE_TUNE").replace("FLUX_DEV_1", "STABLE_DIFFUSION_15"), "whole"),
        ('{"model_family": "hidream", "model_type": "lora"}', "trains HiDream"),
        ('{"model_family": "sdxl", "model_type": "full"}', "whole model"),
        ('{"model_family": "wan", "model_type": "lora"}', "trains Wan"),
        (JOB.format('"is_lumina2": true'), "trains Lumina"),
        (JOB.format('"arch": "qwen_image_edit_plus"'), "Qwen-Image-Edit"),
        (JOB.format('"arch": "flux2"'), "FLUX.2 dev"),
        (JOB.format('"arch": "flux_kontext"'), "FLUX.1 Kontext"),
        (JOB.format('"arch": "zeta_chroma"'), "Chroma"),
        (JOB.format('"arch": "wan22_14b:t2v"'), "Wan"),
        (JOB.format('"name_or_path": "black-forest-labs/FLUX.2-dev"'), "FLUX.2 dev"),
        ('pretrained_model_name_or_path = "m"\nnetwork_module = "networks.lora_lumina"', "Lumina"),
        ("python flux_train_network.py --model_type chroma --network_dim 4", "trains Chroma"),
        ("python flux_2_train_network.py --dit x --network_dim 4", "trains FLUX.2 dev"),
        ("python wan_train_network.py --dit x --network_dim 4", "trains Wan"),
        ("python flux_train.py --pretrained_model_name_or_path m", "whole model"),
        ("python sdxl_train.py --pretrained_model_name_or_path m", "whole model"),
        ("python train_network.py --network_dim 4", "name no model"),
        ('pretrained_model_name_or_path = "m"\nlearning_rate = 1', "name no images"),
        ('{"model_family": "sdxl", "model_type": "lora"}', "data_backend_config"),
        ("- {target: a, positive: b}", "config.yaml"),
        (
            "prompts_file: p.yaml\npretrained_model: {name_or_path: x}\nnetwork: {rank: 4}\n",
            "its prompts are in p.yaml",
        ),
    ],
)
def test_what_cannot_be_trained_is_said_by_name(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "config"
    path.write_text(text)
    with pytest.raises(RecipeError, match=message) as caught:
        import_recipe([path], [], SHIPPED)
    assert caught.value.exit_code == 2
    assert caught.value.hint
    if "cannot be trained here" in str(caught.value):
        assert "FLUX.1, FLUX.2 klein, Qwen-Image and Z-Image" in caught.value.hint


def test_a_recipe_is_not_taken_for_another_tools_configuration(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("version: 1\nbase_model: {id: x}\nmethod: {name: leco}\nlearning_rate: 1\n")
    assert recognised(recipe) is None
    assert foreign_problem(recipe) is None


def test_the_file_of_a_tool_is_told_by_its_text_whatever_its_name(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text('pretrained_model_name_or_path = "x"\nlearning_rate = 1e-4\n')
    problem = foreign_problem(path)
    assert problem is not None
    assert f"kohya sd-scripts; turn it into a recipe with: loba recipe import {path}" in str(
        problem
    )


def test_what_a_check_refuses_is_left_with_its_reason(tmp_path: Path) -> None:
    words = ("--train_data_dir", "d", "--learning_rate", "-1", "--network_alpha", "fast")
    recipe, found = imported([], *KOHYA, *words, "--optimizer_type", "Muon")
    assert recipe.optimizer == Recipe.model_fields["optimizer"].default
    reasons = left(found)
    assert "greater than 0" in reasons["learning_rate"]
    assert reasons["network_alpha"] == "expected a number"
    assert "no such optimizer" in reasons["optimizer_type"]


def test_the_flags_behind_a_prompt_are_told_apart() -> None:
    prompt = parse_prompt("a cat, sitting --n dog, blurry --w 512 --d 7 --m -2.5 --x")
    assert prompt.text == "a cat, sitting"
    assert prompt.negative == "dog, blurry"
    assert (prompt.number("seed"), prompt.number("scale"), prompt.number("steps")) == (
        7,
        -2.5,
        None,
    )
    assert dict(prompt.flags)["w"] == "512"


def test_long_and_weighted_prompts_and_wildcards_are_carried(tmp_path: Path) -> None:
    words = ("--train_data_dir", "d", "--max_token_length", "225", "--weighted_captions")
    recipe, found = imported([], *KOHYA, *words, "--enable_wildcard")
    assert recipe.base_model.long_prompts == "chunks"
    assert recipe.base_model.prompt_weights
    assert recipe.data is not None
    assert recipe.data.captions.wildcards
    assert "225 tokens at most" in found.text


def test_a_validation_split_is_held_out(tmp_path: Path) -> None:
    flags = (
        "--validation_split",
        "0.1",
        "--validation_seed",
        "3",
        "--validate_every_n_steps",
        "25",
    )
    recipe, found = imported([], *KOHYA, "--train_data_dir", "d", *flags)
    assert recipe.validation is not None
    assert (recipe.validation.share, recipe.validation.seed, recipe.validation.every) == (
        0.1,
        3,
        25,
    )
    recipe, found = imported([], *KOHYA, "--train_data_dir", "d", *flags[2:])
    assert recipe.validation is None
    assert "nothing is held out without validation_split" in found.text


@pytest.mark.parametrize(
    ("words", "rate", "components"),
    [
        ((), None, None),
        (("--text_encoder_lr", "1e-5"), 1e-5, None),
        (("--text_encoder_lr", "1e-5", "0"), 1e-5, ("text_encoder",)),
        (("--text_encoder_lr1", "0", "--text_encoder_lr2", "2e-5"), 2e-5, ("text_encoder_2",)),
    ],
)
def test_text_encoders_are_trained_as_there(
    words: Sequence[str], rate: float | None, components: Sequence[str] | None
) -> None:
    recipe, _ = imported([], *KOHYA, "--train_data_dir", "d", *words)
    section = recipe.adapter.text_encoders
    assert section is not None
    assert (section.lr, section.components) == (rate, components)


@pytest.mark.parametrize(
    "words", [("--network_train_unet_only",), ("--text_encoder_lr", "0"), ("--network_dim", "8")]
)
def test_text_encoders_are_left_alone_as_there(words: Sequence[str]) -> None:
    is_loha = words[0] == "--network_dim"
    if is_loha:
        words = (*words, "--network_module", "lycoris.kohya", "--network_args", "algo=loha")
    recipe, found = imported([], *KOHYA, "--train_data_dir", "d", *words)
    assert recipe.adapter.text_encoders is None
    if is_loha:
        assert "a loha here is of the UNet alone" in found.text
