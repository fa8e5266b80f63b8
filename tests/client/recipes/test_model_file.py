from __future__ import annotations

from pathlib import Path

import pytest
from file_headers import ORDINARY, write_header
from typer.testing import CliRunner

from loba_tui.cli import app
from loba_tui.core.recipe.data_paths import portable, portable_model_id
from loba_tui.core.recipe.schema import Recipe

RECIPE = """
version: 1
base_model: {{id: {id}{more}}}
method: {{name: text_slider, concepts: [{{target: a, positive: b, negative: c}}]}}
"""


def validate(tmp_path: Path, model: Path, more: str = ""):
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE.format(id=model, more=more))
    return CliRunner().invoke(app, ["validate", str(path)])


def test_a_sound_checkpoint_is_valid(tmp_path):
    done = validate(tmp_path, write_header(tmp_path / "m.safetensors", ORDINARY["sdxl"]))
    assert done.exit_code == 0, done.output


@pytest.mark.parametrize(
    ("keys", "more", "code", "says"),
    [
        ({"lora_unet_x.lora_down.weight": [4, 4]}, "", 2, "is an adapter"),
        ({"double_blocks.0.img_attn.qkv.weight": [4, 4]}, "", 2, "is a FLUX model"),
        (ORDINARY["sd2"], "", 2, "base_model.prediction_type"),
        (ORDINARY["sd2"], ", prediction_type: epsilon", 0, ": valid"),
    ],
)
def test_a_file_is_told_from_its_header(tmp_path, keys, more, code, says):
    done = validate(tmp_path, write_header(tmp_path / "m.safetensors", keys), more)
    assert done.exit_code == code, done.output
    assert says in done.output


def test_a_pickle_is_refused(tmp_path):
    (tmp_path / "m.ckpt").write_bytes(b"\x80")
    assert validate(tmp_path, tmp_path / "m.ckpt").exit_code == 8


def test_prediction_type_is_one_of_three(tmp_path):
    done = validate(tmp_path, tmp_path / "m", ", prediction_type: sample")
    assert done.exit_code == 2
    assert "prediction_type" in done.output


def test_an_adapter_names_no_folder_of_the_model():
    recipe = Recipe.model_validate(
        {
            "version": 1,
            "base_model": {
                "id": "/home/me/private/xl.safetensors",
                "vae": "/home/me/private/vae",
                "config": "/home/me/private/config",
            },
            "method": {"name": "text_slider"},
        }
    )
    carried = portable(recipe).base_model
    assert (carried.id, carried.vae, carried.config) == ("xl.safetensors", "vae", "config")
    assert portable_model_id("owner/name:sub/x.safetensors") == "owner/name:sub/x.safetensors"
    assert portable_model_id("owner/name") == "owner/name"
