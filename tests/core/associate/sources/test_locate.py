import json
import shutil
from pathlib import Path

import pytest
from file_headers import ORDINARY, write_header

from loba_tui.core.associate.pipeline_files import select_files
from loba_tui.core.associate.sources.locate import (
    ModelSource,
    locate,
    read_index,
)
from loba_tui.core.associate.sources.overrides import Overrides
from loba_tui.core.errors import CorruptError, ExitCode, RecipeError, RefusedError
from loba_tui.models import builtin_names

# What the repository of SD-XL 1.0 holds beside what a pipeline needs.
SDXL_FILES = [
    "model_index.json",
    "sd_xl_base_1.0.safetensors",
    "sd_xl_base_1.0_0.9vae.safetensors",
    "scheduler/scheduler_config.json",
    "text_encoder/config.json",
    "text_encoder/model.safetensors",
    "text_encoder/model.fp16.safetensors",
    "text_encoder/flax_model.msgpack",
    "text_encoder/model.onnx",
    "tokenizer/merges.txt",
    "tokenizer/vocab.json",
    "unet/config.json",
    "unet/diffusion_pytorch_model.safetensors",
    "unet/diffusion_pytorch_model.fp16.safetensors",
    "vae/config.json",
    "vae/diffusion_pytorch_model.safetensors",
    "vae_1_0/diffusion_pytorch_model.safetensors",
]
COMPONENTS = ["scheduler", "text_encoder", "tokenizer", "unet", "vae"]


def test_only_the_files_of_one_weight_set_are_fetched():
    wanted = select_files("me/sdxl", SDXL_FILES, COMPONENTS, None)
    assert [name for name in wanted if name.endswith(".safetensors")] == [
        "text_encoder/model.safetensors",
        "unet/diffusion_pytorch_model.safetensors",
        "vae/diffusion_pytorch_model.safetensors",
    ]
    assert "tokenizer/merges.txt" in wanted
    assert not any(name.endswith((".onnx", ".msgpack")) for name in wanted)


def test_a_variant_falls_back_to_plain_weights_where_it_is_missing():
    wanted = select_files("me/sdxl", SDXL_FILES, COMPONENTS, "fp16")
    assert [name for name in wanted if name.endswith(".safetensors")] == [
        "text_encoder/model.fp16.safetensors",
        "unet/diffusion_pytorch_model.fp16.safetensors",
        "vae/diffusion_pytorch_model.safetensors",
    ]


def test_sharded_weights_come_with_their_index():
    files = [
        "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors.index.json",
        "unet/diffusion_pytorch_model-00001-of-00002.safetensors",
        "unet/diffusion_pytorch_model-00002-of-00002.safetensors",
    ]
    assert set(files) < set(select_files("me/big", files, ["unet"], None))


def test_a_chat_template_in_a_file_of_its_own_comes_along():
    files = ["tokenizer/tokenizer.json", "tokenizer/chat_template.jinja", "tokenizer/merges.txt"]
    assert set(files) < set(select_files("me/language", files, ["tokenizer"], None))


def test_a_repository_of_pickles_is_refused():
    with pytest.raises(RefusedError, match="pickle"):
        select_files("me/old", ["unet/config.json", "unet/model.bin"], ["unet"], None)


def test_a_folder_is_found_whole(tiny_sdxl_folder):
    source = locate(str(tiny_sdxl_folder))
    assert source == ModelSource(str(tiny_sdxl_folder), "local", tiny_sdxl_folder.resolve())
    assert read_index(source)["_class_name"] == "StableDiffusionXLPipeline"


def test_builtin_models_are_found_in_the_package():
    assert "shapes-xl" in builtin_names()
    source = locate("builtin:shapes-xl")
    assert source.kind == "builtin"
    assert source.settings()["cpu_threads"] == 1


@pytest.mark.parametrize("model_id", ["builtin:shapes-xxl", "builtin:shape-xl"])
def test_a_mistyped_builtin_model_names_the_nearest(model_id):
    with pytest.raises(RecipeError) as caught:
        locate(model_id)
    assert "Did you mean builtin:shapes-xl?" in caught.value.hint


@pytest.mark.parametrize("model_id", ["./nowhere", "/nowhere/at/all", "a/b/c", "~/nowhere-loba"])
def test_a_missing_path_is_not_asked_of_the_hub(model_id):
    with pytest.raises(RecipeError, match="there is no folder") as caught:
        locate(model_id)
    assert caught.value.exit_code == ExitCode.RECIPE


@pytest.mark.parametrize("there", [True, False])
def test_a_ckpt_is_refused_with_how_to_convert_it(tmp_path, there):
    path = tmp_path / "model.ckpt"
    if there:
        path.write_bytes(b"\x80\x04")
    with pytest.raises(RefusedError) as caught:
        locate(str(path))
    assert caught.value.exit_code == ExitCode.REFUSED
    assert "Convert" in caught.value.hint


def test_a_folder_of_pickles_is_refused(tmp_path):
    (tmp_path / "model.ckpt").write_bytes(b"")
    with pytest.raises(RefusedError):
        locate(str(tmp_path))


def test_a_checkpoint_is_found_with_the_configuration_of_its_family(tmp_path):
    path = write_header(tmp_path / "model.safetensors", ORDINARY["sdxl"])
    source = locate(str(path))
    assert (source.kind, source.file) == ("local", path)
    assert read_index(source)["_class_name"] == "StableDiffusionXLPipeline"


def test_a_folder_with_a_checkpoint_names_the_file(tmp_path):
    write_header(tmp_path / "model.safetensors", ORDINARY["sdxl"])
    with pytest.raises(RecipeError) as caught:
        locate(str(tmp_path))
    assert str(tmp_path / "model.safetensors") in caught.value.hint


def test_a_missing_checkpoint_is_called_a_file(tmp_path):
    with pytest.raises(RecipeError, match="there is no file"):
        locate(str(tmp_path / "model.safetensors"))


def test_a_link_that_leads_nowhere_is_a_missing_file(tmp_path):
    (tmp_path / "model.safetensors").symlink_to(tmp_path / "gone")
    with pytest.raises(RecipeError, match="there is no file"):
        locate(str(tmp_path / "model.safetensors"))


def test_a_configuration_is_for_one_file_only(tiny_sdxl_folder):
    with pytest.raises(RecipeError, match=r"base_model\.config"):
        locate(str(tiny_sdxl_folder), overrides=Overrides(config=str(tiny_sdxl_folder)))


@pytest.mark.parametrize("named", ["nowhere", "empty"])
def test_a_vae_or_a_configuration_that_is_not_there_is_said(tmp_path, named):
    (tmp_path / "empty").mkdir()
    path = write_header(tmp_path / "model.safetensors", ORDINARY["sdxl"])
    for overrides in (
        Overrides(vae=str(tmp_path / named)),
        Overrides(config=str(tmp_path / named)),
    ):
        with pytest.raises(RecipeError, match=r"base_model\.(vae|config)"):
            locate(str(path), overrides=overrides)


def test_a_preview_vae_is_refused(tmp_path):
    path = write_header(tmp_path / "model.safetensors", ORDINARY["sdxl"])
    small = write_header(tmp_path / "taesd.safetensors", {"taesd_encoder.0.weight": [64, 3, 3, 3]})
    with pytest.raises(RecipeError, match="no VAE that encodes"):
        locate(str(path), overrides=Overrides(vae=str(small)))


def test_another_folder_says_what_it_lacks(tmp_path):
    with pytest.raises(RecipeError, match=r"model_index\.json"):
        locate(str(tmp_path))


def test_a_revision_of_a_folder_is_an_error(tiny_sdxl_folder):
    with pytest.raises(RecipeError, match="revision"):
        locate(str(tiny_sdxl_folder), revision="main")


def change_index(folder: Path, tmp_path: Path, **values: object) -> ModelSource:
    shutil.copytree(folder, tmp_path / "copy")
    path = tmp_path / "copy" / "model_index.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))
    return locate(str(tmp_path / "copy"))


@pytest.mark.parametrize(
    "values",
    [
        {"unet": ["my_unet", "MyUNet"]},
        {"_class_name": ["pipeline", "MyPipeline"]},
    ],
)
def test_code_that_comes_with_a_model_is_refused(tiny_sdxl_folder, tmp_path, values):
    source = change_index(tiny_sdxl_folder, tmp_path, **values)
    with pytest.raises(RefusedError, match="code that comes with the model"):
        read_index(source)


def test_an_unreadable_index_is_corrupt(tmp_path):
    (tmp_path / "model_index.json").write_text("{")
    with pytest.raises(CorruptError):
        read_index(locate(str(tmp_path)))


@pytest.mark.parametrize("text", ["{", "[]", "3"])
def test_a_models_own_settings_have_to_be_a_table(tmp_path, text):
    (tmp_path / "model_index.json").write_text("{}")
    (tmp_path / "loba.json").write_text(text)
    with pytest.raises(CorruptError, match=r"loba\.json"):
        locate(str(tmp_path)).settings()


def test_a_folder_that_holds_a_checkpoint_alone_leads_to_it(tmp_path):
    write_header(tmp_path / "model.safetensors", ORDINARY["sdxl"])
    with pytest.raises(RecipeError, match="not a diffusers folder") as found:
        locate(str(tmp_path))
    assert str(tmp_path / "model.safetensors") in found.value.hint
