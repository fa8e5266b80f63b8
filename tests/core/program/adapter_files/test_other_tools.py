"""Our files in other tools: what each applies of them, against what was trained.

The tools are diffusers and LyCORIS themselves, and readings of ComfyUI's, A1111's and sd-scripts'
conventions that share nothing with the package, on UNets of true topology and small widths.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from ldm_topology import Topology, topology
from peft import PeftModel
from safetensors.torch import load_file
from tiny_adapters import add_moved_adapter
from tool_readers import Reading, a1111, comfyui, lycoris, sd_scripts
from torch import Tensor

from loba_tui.core.owned_files import OwnedFolder
from loba_tui.core.plugins import SHIPPED
from loba_tui.core.program.adapter_files.adapter import write_adapter
from loba_tui.core.program.adapter_files.file import Losses
from loba_tui.core.program.adapter_layers.kinds import (
    tuner_layers,
)

pytestmark = pytest.mark.slow

FAMILIES = ["sdxl", "sd1"]
STRENGTHS = (1.0, -2.0, 0.5)
ERROR = 1e-6
LINEAR = ["cross_attention", "self_attention", "feed_forward", "projection"]
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "lora": ("lora", {"alpha": 1.0, "layers": LINEAR}),
    "locon": ("locon", {"alpha": 3.0, "conv_rank": 2, "layers": [*LINEAR, "convolution"]}),
    "loha": ("loha", {"alpha": 3.0, "layers": [*LINEAR, "convolution"]}),
    "lokr": ("lokr", {"alpha": 3.0, "rank": 2, "layers": [*LINEAR, "convolution"]}),
    "dora": ("dora", {"alpha": 2.0, "layers": [*LINEAR, "convolution"]}),
    "oft": ("oft", {"layers": ["cross_attention", "self_attention"]}),
}
OF_KOHYAS_FILE = {
    "ComfyUI": (comfyui, ["lora", "locon", "loha", "lokr", "dora"]),
    "A1111": (a1111, ["lora", "locon", "loha", "lokr", "dora"]),
    "sd-scripts": (sd_scripts, ["lora", "locon", "dora"]),
    "LyCORIS": (lycoris, ["lora", "locon", "loha", "lokr", "dora"]),
}


@dataclass(frozen=True)
class Trained:
    """An adapter's files, and the change of each weight that was trained."""

    kind: str
    topology: Topology
    folder: Path
    truth: Mapping[str, Tensor]
    lost: Losses | None

    @property
    def kohya(self) -> dict[str, Tensor]:
        return load_file(self.folder / "adapter.kohya.safetensors")


@torch.no_grad()
def _change(layer: Any) -> Tensor:
    base = layer.get_base_layer().weight.clone()
    layer.merge(adapter_names=["default"])
    change = layer.get_base_layer().weight - base
    layer.unmerge()
    layer.get_base_layer().weight.copy_(base)
    return change


@pytest.fixture(scope="module", params=[f"{k}-{f}" for f in FAMILIES for k in KINDS])
def trained(request: pytest.FixtureRequest, tmp_path_factory: Any) -> Trained:
    kind, _, family = request.param.partition("-")
    made, (adapter, options) = topology(family), KINDS[kind]
    config = SHIPPED.load("adapters", adapter)(made.targets(), **options)
    add_moved_adapter(made.unet, config)
    truth = {
        name: layer.get_delta_weight("default").detach()
        if kind in ("lora", "locon", "loha", "lokr")
        else _change(layer)
        for name, layer in tuner_layers(made.unet, "default")
    }
    folder = tmp_path_factory.mktemp(request.param)
    written = write_adapter(made.unet, OwnedFolder(folder))
    lost = written["kohya"].lost if "kohya" in written else None
    return Trained(kind, topology(family), folder, truth, lost)


def largest_error(read: Mapping[str, Tensor], truth: Mapping[str, Tensor], by: float) -> float:
    assert read.keys() == truth.keys()
    return max(float((read[name] - by * truth[name]).abs().max()) for name in truth)


def share(read: Mapping[str, Tensor], truth: Mapping[str, Tensor], by: float) -> float:
    """Return the length of what is wrong over that of the whole change."""
    assert read.keys() == truth.keys()
    wrong = sum(float((read[name] - by * truth[name]).square().sum()) for name in truth)
    return (wrong / sum(float((by * change).square().sum()) for change in truth.values())) ** 0.5


@pytest.mark.parametrize("tool", OF_KOHYAS_FILE)
def test_kohyas_file_does_in_other_tools_what_was_trained(trained: Trained, tool: str) -> None:
    read, kinds = OF_KOHYAS_FILE[tool]
    if trained.kind not in kinds:
        pytest.skip(f"{tool} has no {trained.kind}")
    for strength in STRENGTHS:
        reading: Reading = read(trained.kohya, trained.topology, strength)
        assert reading.unused == set()
        if trained.lost is None:
            assert largest_error(reading.changes, trained.truth, strength) <= ERROR
        else:  # DoRA: the nearest LoRA, as far off as was said
            wrong = share(reading.changes, trained.truth, strength)
            assert wrong == pytest.approx(trained.lost.share, abs=1e-4)


def test_an_oft_has_no_file_for_kohyas_tools(trained: Trained) -> None:
    there = (trained.folder / "adapter.kohya.safetensors").exists()
    assert there == (trained.kind != "oft")


def test_our_own_file_does_in_diffusers_what_was_trained(trained: Trained) -> None:
    unet = topology(trained.topology.family).unet
    if trained.kind in ("lora", "locon", "dora"):
        pipeline = (
            StableDiffusionXLPipeline
            if trained.topology.family == "sdxl"
            else StableDiffusionPipeline
        )
        state, alphas, metadata = pipeline.lora_state_dict(
            str(trained.folder),
            weight_name="adapter.safetensors",
            unet_config=unet.config,
            return_lora_metadata=True,
        )
        pipeline.load_lora_into_unet(state, alphas, unet, "default", metadata=metadata)
    else:
        PeftModel.from_pretrained(unet, str(trained.folder / "peft"))
    for strength in STRENGTHS if trained.kind not in ("dora", "oft") else (1.0,):
        read = {}
        for name, layer in tuner_layers(unet, "default"):
            if trained.kind in ("dora", "oft"):
                read[name] = _change(layer)
            else:
                layer.set_scale("default", strength)
                read[name] = layer.get_delta_weight("default").detach()
        assert largest_error(read, trained.truth, strength) <= ERROR


def test_comfyui_has_part_of_our_own_file_at_the_right_strength(trained: Trained) -> None:
    """It has no names for PEFT's attention layers; docs/adapters.md says to give it the other."""
    if trained.kind in ("dora", "oft"):
        pytest.skip("it has no form that ComfyUI reads")
    file = load_file(trained.folder / "adapter.safetensors")
    reading = comfyui(file, trained.topology, 1.0)
    attention = {name for name in trained.truth if ".to_" in name}
    assert reading.changes.keys() == trained.truth.keys() - attention
    known = {name: trained.truth[name] for name in reading.changes}
    assert largest_error(reading.changes, known, 1.0) <= ERROR


def test_a1111_and_sd_scripts_use_nothing_of_our_own_file(trained: Trained) -> None:
    file = load_file(trained.folder / "adapter.safetensors")
    for read in (a1111, sd_scripts):
        assert read(file, trained.topology, 1.0).changes == {}
