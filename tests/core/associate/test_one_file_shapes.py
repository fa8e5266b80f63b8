"""Checkpoints of one file in their true size: their headers against the shipped configurations."""

from __future__ import annotations

import pytest
import torch
from file_headers import write_header
from original_checkpoints import original_state

from loba_tui.core.associate.model_shapes import open_shapes
from loba_tui.core.associate.sources.overrides import Overrides
from loba_tui.core.associate.sources.shipped import SDXL
from loba_tui.core.errors import RecipeError

SD15, SD21 = "stable-diffusion-v1-5/stable-diffusion-v1-5", "stabilityai/stable-diffusion-2-1"


def shapes_of(model_id: str) -> dict[str, list[int]]:
    pipeline = open_shapes(model_id, None, torch.float16).container.pipeline
    state = original_state(pipeline, open_clip=model_id == SD21)
    return {key: list(value.shape) for key, value in state.items()}


@pytest.fixture(scope="module")
def sdxl() -> dict[str, list[int]]:
    return shapes_of(SDXL)


def test_the_names_of_sdxl_are_those_of_the_published_file(sdxl):
    """sd_xl_base_1.0.safetensors has 2,515 tensors; one of them counts the positions."""
    assert len(sdxl) == 2514
    assert sdxl["model.diffusion_model.output_blocks.8.0.in_layers.2.weight"] == [320, 640, 3, 3]
    assert sdxl["conditioner.embedders.1.model.text_projection"] == [1280, 1280]


def test_sdxl_is_planned_from_its_header(sdxl, tmp_path):
    path = write_header(tmp_path / "my_xl.safetensors", sdxl)
    found = open_shapes(str(path), None, torch.float16)
    assert (found.container.family, found.origin) == ("sdxl", "local")
    assert found.container.resolution == 1024
    assert found.container.prediction_type == "epsilon"


def test_markers_and_overrides_count_in_a_plan(sdxl, tmp_path):
    path = write_header(tmp_path / "v.safetensors", {**sdxl, "v_pred": [], "ztsnr": []})
    config = open_shapes(str(path), None, torch.float16).container.scheduler_config
    assert config["prediction_type"] == "v_prediction"
    assert config["rescale_betas_zero_snr"]
    overrides = Overrides(prediction_type="epsilon", zero_snr=False)
    config = open_shapes(str(path), None, torch.float16, overrides).container.scheduler_config
    assert config["prediction_type"] == "epsilon"
    assert not config["rescale_betas_zero_snr"]


def test_sd15_is_planned_from_its_header(tmp_path):
    path = write_header(tmp_path / "sd15.safetensors", shapes_of(SD15), dtype="F32")
    found = open_shapes(str(path), None, torch.float16).container
    assert (found.family, found.resolution) == ("sd", 512)


def test_sd2_has_to_be_told_what_it_predicts(tmp_path):
    shapes = shapes_of(SD21)
    # Its file holds one layer of the text encoder more, whose output nobody takes.
    last = "cond_stage_model.model.transformer.resblocks.22."
    shapes |= {k.replace(last, last.replace("22", "23")): v for k, v in shapes.items() if last in k}
    path = write_header(tmp_path / "sd21.safetensors", shapes)
    with pytest.raises(RecipeError, match="does not say what it predicts"):
        open_shapes(str(path), None, torch.float16)
    for kind, resolution in (("v_prediction", 768), ("epsilon", 512)):
        overrides = Overrides(prediction_type=kind)
        found = open_shapes(str(path), None, torch.float16, overrides).container
        assert (found.resolution, found.prediction_type) == (resolution, kind)


@pytest.mark.parametrize("kind", ["fewer blocks", "wider"])
def test_another_architecture_is_named_in_the_plan(sdxl, tmp_path, kind):
    """SSD-1B and the like have SD-XL's names, and fewer of them."""
    if kind == "wider":
        shapes = {**sdxl, "model.diffusion_model.out.0.weight": [640]}
    else:
        shapes = {k: v for k, v in sdxl.items() if ".transformer_blocks.9." not in k}
    path = write_header(tmp_path / "other.safetensors", shapes)
    with pytest.raises(RecipeError, match="its unet") as found:
        open_shapes(str(path), None, torch.float16)
    assert "base_model.config" in found.value.hint
