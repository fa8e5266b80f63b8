"""Adapters of transformers: our two files in diffusers' own pipelines, and read back."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig
from safetensors.torch import load_file
from tiny_adapters import add_moved_adapter
from tiny_transformers import TINY, Tiny, linear_layers
from torch import Tensor, nn

from loba_tui.core.owned_files import OwnedFolder
from loba_tui.core.program.adapter_files.adapter import lora_layers, write_adapter
from loba_tui.core.program.adapter_files.comfy import other_file
from loba_tui.core.program.adapter_files.families import adapter_family
from loba_tui.core.program.adapter_files.file import WrittenFile, read_file, serialize
from loba_tui.core.program.adapter_files.formats import config_of, diffusers_file
from loba_tui.core.program.adapter_files.load import load_adapter
from loba_tui.core.program.adapter_files.read.read import read_adapter_file
from loba_tui.core.program.combine.merge import low_rank_of

NEAR = 1e-6
OF_NORM_OUT = "norm_out.linear"


def same(one: Tensor, other: Tensor) -> bool:
    """Say whether predictions are equal but for rounding."""
    return float((one - other).abs().max()) <= NEAR * max(1.0, float(other.abs().max()))


@dataclass(frozen=True)
class Made:
    """A tiny model with an adapter on every linear layer, and its files."""

    tiny: Tiny
    model: nn.Module
    files: dict[str, WrittenFile]

    @property
    def predicted(self) -> Tensor:
        return self.tiny.asked(self.model)


def make(tiny: Tiny, folder: Path, layers: list[str], **options: Any) -> Made:
    model = tiny.made()
    # A rank of its own for one layer, and an alpha that is no power of two of the rank.
    config = LoraConfig(
        **{"r": 4, "lora_alpha": 3.0, "rank_pattern": {f"^{layers[5]}$": 2}},
        **{"target_modules": layers, **options},
    )
    add_moved_adapter(model, config)
    return Made(tiny, model, write_adapter(model, OwnedFolder(folder)))


@pytest.fixture(scope="module", params=TINY)
def made(request: pytest.FixtureRequest, tmp_path_factory: Any) -> Made:
    tiny = TINY[request.param]
    layers = linear_layers(tiny.made())
    if tiny.name == "FLUX.2":  # whose norm_out diffusers' converter takes halves the wrong way
        layers.remove(OF_NORM_OUT)
    return make(tiny, tmp_path_factory.mktemp("adapter"), layers)


def test_both_files_load_in_the_familys_own_pipeline(made: Made) -> None:
    assert set(made.files) == {"diffusers", "comfy"}
    base = made.tiny.asked(made.tiny.made())
    assert float((made.predicted - base).abs().max()) > 0.1
    for file in made.files.values():
        pipe = made.tiny.pipe(made.tiny.made())
        pipe.load_lora_weights(str(file.path))
        assert same(made.tiny.asked(pipe.transformer), made.predicted), file.path.name


def test_both_files_are_put_on_a_container(made: Made) -> None:
    for file in made.files.values():
        container = made.tiny.container(made.tiny.made())
        read = load_adapter(container, file.path)
        assert read.notes() == []
        assert read.keys.family.name == made.tiny.name
        assert same(made.tiny.asked(container.denoiser), made.predicted), file.path.name


def test_what_is_read_is_written_again_to_the_byte(made: Made) -> None:
    family = adapter_family(made.model)
    for form, file in made.files.items():
        _, metadata = read_file(file.path)
        layers = low_rank_of(read_adapter_file(file.path))
        config = made.model.peft_config["default"].to_dict()
        if form == "comfy":
            again = serialize(*other_file(layers, {}, family))
        else:
            again = serialize(*diffusers_file(layers, config, {}, family))
        assert again == file.path.read_bytes(), form
        assert metadata["modelspec.architecture"].endswith("/lora")


def test_one_form_becomes_the_other_to_the_bit(made: Made) -> None:
    trained = lora_layers(made.model, "default", made.model.peft_config["default"].to_dict())
    other = low_rank_of(read_adapter_file(made.files["comfy"].path))
    own = load_file(made.files["diffusers"].path)
    assert other.keys() == trained.keys()
    config = {"peft_type": "LORA", **config_of(other), "use_rslora": False}
    tensors, _ = diffusers_file(other, config, {}, adapter_family(made.model))
    assert tensors.keys() == own.keys()
    assert all(torch.equal(tensors[key], own[key]) for key in own)
