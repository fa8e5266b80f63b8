"""What SD 1.x and 2.x have that SD-XL has not, and the other way round."""

import json
from pathlib import Path

import pytest
import torch

from loba_tui.core.associate.containers.families.sd import SDContainer
from loba_tui.core.associate.containers.loading import component_names, load_pipeline
from loba_tui.core.associate.embeds import Framing
from loba_tui.core.associate.pipeline_files import component_names as names_to_fetch
from loba_tui.core.associate.sources.locate import locate, read_index
from loba_tui.core.errors import RefusedError

UNUSED = {"safety_checker", "feature_extractor"}


def load(folder: Path, dtype: torch.dtype = torch.float32) -> SDContainer:
    return SDContainer(load_pipeline(locate(str(folder)), dtype=dtype))


def test_the_safety_checker_is_neither_fetched_nor_loaded(tiny_sd_folder, recwarn, caplog):
    index = json.loads((tiny_sd_folder / "model_index.json").read_text())
    assert index.keys() >= UNUSED
    assert not UNUSED & set(names_to_fetch(str(tiny_sd_folder / "model_index.json")))
    assert not UNUSED & set(component_names(locate(str(tiny_sd_folder))))
    pipeline = load(tiny_sd_folder).pipeline
    assert pipeline.safety_checker is None
    assert pipeline.feature_extractor is None
    assert not [r for r in caplog.records if "safety" in r.getMessage()]


def test_any_other_part_that_is_code_of_the_model_is_still_refused(tiny_sd_folder, tmp_path):
    index = json.loads((tiny_sd_folder / "model_index.json").read_text())
    (tmp_path / "model_index.json").write_text(
        json.dumps(index | {"unet": ["stable_diffusion", "Evil"]})
    )
    with pytest.raises(RefusedError, match="unet"):
        read_index(locate(str(tmp_path)))


def test_the_unconditional_prompt_is_the_empty_one(tiny_sd_folder):
    container = load(tiny_sd_folder)
    _, negative = container.pipeline.encode_prompt("a circle", "cpu", 1, True)
    assert torch.equal(container.empty_embeds().embeds, negative)
    assert container.unconditional_prompt == ""


def test_the_vae_stays_in_half_precision_as_the_pipeline_has_it(tiny_sd_folder):
    container = load(tiny_sd_folder, torch.bfloat16)
    assert container.pipeline.vae.config.force_upcast
    assert not container.decodes_in_float32


@torch.no_grad()
def test_what_it_is_told_of_sizes_does_not_matter(tiny_sd_folder):
    container = load(tiny_sd_folder)
    latents, embeds = torch.randn(1, 4, 8, 8), container.encode_prompts(["a circle"])
    small = Framing(torch.tensor([[8, 8]]), torch.tensor([[0, 0]]))
    whole = container.predict(latents, torch.tensor(500), embeds)
    assert torch.equal(container.predict(latents, torch.tensor(500), embeds, framing=small), whole)
