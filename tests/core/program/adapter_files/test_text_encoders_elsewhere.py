"""Our files' text-encoder parts in other tools: what each applies, against what was trained."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny_adapters import add_moved_adapter, fresh
from tool_readers import Place, text_encoders
from torch import Tensor

from loba_tui.core.owned_files import OwnedFolder
from loba_tui.core.plugins import SHIPPED
from loba_tui.core.program.adapter_files.adapter import write_adapter
from loba_tui.core.program.adapter_files.read.read import read_adapter_file
from loba_tui.core.program.adapter_layers.kinds import tuner_layers
from loba_tui.core.program.adapter_layers.text_encoders import attach_text_adapters, name_in_files
from loba_tui.core.recipe.schema import AdapterSection

ERROR = 1e-6
STRENGTHS = (1.0, -2.0, 0.5)
FAMILIES = ["sdxl", "sd1"]
KINDS = (("lora", "attention", "mlp"), ("dora", "attention", "mlp"), ("lora", "mlp"))


class Written:
    """An adapter of denoiser and text encoders, what was trained of these, and its files."""

    def __init__(self, model: Path, folder: Path, kind: str, layers: Sequence[str]) -> None:
        container = fresh(model)
        self.model, self.kind = model, kind
        self.is_xl = container.family == "sdxl"
        self.folder = folder
        for name in container.text_encoders:
            setattr(container.pipeline, name, copy.deepcopy(getattr(container.pipeline, name)))
        options: dict[str, Any] = {"rank": 2, "alpha": 3.0}
        config = SHIPPED.load("adapters", kind)(container.adapter_targets(), **options)
        add_moved_adapter(container.denoiser, config)
        own = {"rank": 3, "alpha": 5.0, "layers": layers}
        section = AdapterSection(name=kind, text_encoders=own, **options)
        encoders = attach_text_adapters(section, container, seed=0)
        generator = torch.Generator().manual_seed(1)
        self.truth: dict[Place, Tensor] = {}
        for component, encoder in encoders.items():
            for name, layer in tuner_layers(encoder, "default"):
                for part in (layer.lora_A, layer.lora_B):
                    weight = part["default"].weight.data
                    weight += 0.1 * torch.randn(weight.shape, generator=generator)
                change = layer.get_delta_weight("default").detach()
                self.truth[component, name_in_files(name)] = change
        self.num_layers = max(each.config.num_hidden_layers for each in encoders.values())
        write_adapter(container.denoiser, OwnedFolder(folder), encoders=encoders)

    def file(self, name: str) -> dict[str, Tensor]:
        return load_file(self.folder / name)

    def error(self, changes: Mapping[Place, Tensor], by: float) -> float:
        assert changes.keys() == self.truth.keys()
        return max(float((changes[k] - by * self.truth[k]).abs().max()) for k in changes)


@pytest.fixture(scope="module", params=[(f, *k) for f in FAMILIES for k in KINDS])
def written(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    tiny_sdxl_folder: Path,
    tiny_sd_folder: Path,
) -> Written:
    family, kind, *layers = request.param
    model = tiny_sdxl_folder if family == "sdxl" else tiny_sd_folder
    return Written(model, tmp_path_factory.mktemp(f"{family}-{kind}"), kind, layers)


@pytest.mark.parametrize("tool", ["sd-scripts", "ComfyUI", "A1111"])
def test_kohyas_file_does_in_other_tools_what_was_trained(written: Written, tool: str) -> None:
    file = written.file("adapter.kohya.safetensors")
    changes = text_encoders(tool, file, is_xl=written.is_xl, num_layers=written.num_layers)
    for strength in STRENGTHS:
        by_strength = {place: strength * change for place, change in changes.items()}
        assert written.error(by_strength, strength) <= ERROR
    used = {key.partition(".")[0] for key in file if key.startswith("lora_te")}
    assert len(used) == len(written.truth)


def test_comfyui_reads_our_own_files_text_encoders_too(written: Written) -> None:
    file = written.file("adapter.safetensors")
    changes = text_encoders("ComfyUI", file, is_xl=written.is_xl, num_layers=written.num_layers)
    assert written.error(changes, 1.0) <= ERROR


@torch.no_grad()
@pytest.mark.parametrize("name", ["adapter.safetensors", "adapter.kohya.safetensors"])
def test_diffusers_itself_loads_the_encoders(written: Written, name: str) -> None:
    if written.kind == "dora" and name == "adapter.kohya.safetensors":
        pytest.skip("diffusers reads no DoRA in kohya's keys")
    pipeline = fresh(written.model).pipeline
    for component in {component for component, _ in written.truth}:
        setattr(pipeline, component, copy.deepcopy(getattr(pipeline, component)))
    pipeline.load_lora_weights(str(written.folder), weight_name=name, adapter_name="one")
    changes = {
        (component, name_in_files(module)): layer.get_delta_weight("one")
        for component in {component for component, _ in written.truth}
        for module, layer in tuner_layers(getattr(pipeline, component), "one")
    }
    assert written.error(changes, 1.0) <= ERROR


def test_we_read_back_what_we_wrote(written: Written) -> None:
    for name in ("adapter.safetensors", "adapter.kohya.safetensors"):
        file = read_adapter_file(written.folder / name)
        assert not file.keys.unused
        changes = {
            (layer.component, layer.module): layer.weight.dense()
            for layer in file.layers
            if layer.component != "unet"
        }
        assert written.error(changes, 1.0) <= ERROR
