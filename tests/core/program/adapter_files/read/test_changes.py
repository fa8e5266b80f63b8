"""LyCORIS makes layers of every kind, and says what each does; what is read here does the same."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from lycoris.modules.boft import ButterflyOFTModule
from lycoris.modules.diag_oft import DiagOFTModule
from lycoris.modules.full import FullModule
from lycoris.modules.glora import GLoRAModule
from lycoris.modules.ia3 import IA3Module
from lycoris.modules.locon import LoConModule
from lycoris.modules.loha import LohaModule
from lycoris.modules.lokr import LokrModule
from lycoris.modules.norms import NormModule
from safetensors.torch import save_file
from torch import nn

from loba_tui.core.program.adapter_files.read.read import read_adapter_file

LINEAR = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k"
CONVOLUTION = "lora_unet_mid_block_resnets_0_conv1"
NORM = "lora_unet_mid_block_attentions_0_norm"

KINDS = {
    "lora": (LoConModule, {"lora_dim": 4, "alpha": 3}),
    "rank-stabilised": (LoConModule, {"lora_dim": 4, "alpha": 3, "rs_lora": True}),
    "tucker": (LoConModule, {"lora_dim": 4, "alpha": 3, "use_tucker": True}),
    "dora": (LoConModule, {"lora_dim": 4, "alpha": 3, "weight_decompose": True}),
    "dora over inputs": (
        LoConModule,
        {"lora_dim": 4, "alpha": 3, "weight_decompose": True, "wd_on_out": False},
    ),
    "loha": (LohaModule, {"lora_dim": 3, "alpha": 1}),
    "loha tucker": (LohaModule, {"lora_dim": 3, "alpha": 1, "use_tucker": True}),
    "loha dora": (LohaModule, {"lora_dim": 3, "alpha": 1, "weight_decompose": True}),
    "lokr": (LokrModule, {"lora_dim": 2, "alpha": 1, "factor": 4}),
    "lokr both": (LokrModule, {"lora_dim": 1, "alpha": 3, "factor": 4, "decompose_both": True}),
    "lokr whole": (LokrModule, {"lora_dim": 10000, "alpha": 1, "factor": 8}),
    "lokr tucker": (LokrModule, {"lora_dim": 2, "alpha": 1, "factor": 4, "use_tucker": True}),
    "lokr unbalanced": (
        LokrModule,
        {"lora_dim": 2, "alpha": 1, "factor": 4, "unbalanced_factorization": True},
    ),
    "lokr dora": (LokrModule, {"lora_dim": 2, "alpha": 1, "weight_decompose": True}),
    "full": (FullModule, {}),
    "oft": (DiagOFTModule, {"lora_dim": 8}),
    "oft constrained": (DiagOFTModule, {"lora_dim": 8, "constraint": 1e-3}),
    "oft rescaled": (DiagOFTModule, {"lora_dim": 8, "rescaled": True}),
    "boft": (ButterflyOFTModule, {"lora_dim": 8}),
    "boft rescaled": (ButterflyOFTModule, {"lora_dim": 8, "rescaled": True}),
    "ia3": (IA3Module, {}),
    "ia3 of inputs": (IA3Module, {"train_on_input": True}),
    "glora": (GLoRAModule, {"lora_dim": 3, "alpha": 2}),
}


@torch.no_grad()
def made(kind: str, base: nn.Module, name: str) -> dict[str, torch.Tensor]:
    """Put a LyCORIS module of a kind on a layer, and return its file's content."""
    make, options = KINDS[kind]
    module = make(name, base, 1.0, **options)
    generator = torch.Generator().manual_seed(7)
    for key, parameter in module.named_parameters():
        if "dora_scale" in key or "rescale" in key:
            parameter.mul_(1 + 0.2 * torch.rand(parameter.shape, generator=generator))
        elif "org" not in key:
            parameter.normal_(0, 0.2, generator=generator)
    module.apply_to()
    return {f"{name}.{key}": value.clone() for key, value in module.state_dict().items()}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layer", ["linear", "convolution"])
@torch.no_grad()
def test_every_kind_of_lycoris_does_what_lycoris_does(kind, layer, tmp_path: Path):
    torch.manual_seed(3)
    if layer == "linear":
        base, name, x = nn.Linear(24, 32), LINEAR, torch.randn(5, 24)
    else:
        base, name, x = nn.Conv2d(24, 32, 3), CONVOLUTION, torch.randn(2, 24, 5, 5)
    before, weight = base(x), base.weight.detach().clone()
    state = made(kind, base, name)
    save_file(state, tmp_path / "f.safetensors")

    file = read_adapter_file(tmp_path / "f.safetensors")

    (read,) = file.layers
    delta = read.weight.delta(weight)
    operation = nn.functional.linear if layer == "linear" else nn.functional.conv2d
    added = operation(x, delta, read.bias)
    torch.testing.assert_close(added, base(x) - before, rtol=1e-5, atol=1e-5)
    assert float(delta.abs().max()) > 1e-3
    assert not file.keys.unused
    assert (read.bias is not None) == (kind == "full")


@torch.no_grad()
def test_a_norm_of_lycoris_is_read(tmp_path: Path):
    base = nn.GroupNorm(4, 32)
    module = NormModule(NORM, base, 1.0)
    for parameter in module.parameters():
        parameter.normal_(0, 0.1)
    state = {f"{NORM}.{key}": value for key, value in module.state_dict().items()}
    save_file(state, tmp_path / "f.safetensors")

    (read,) = read_adapter_file(tmp_path / "f.safetensors").layers

    assert read.keys.kind.name == "norm difference"
    assert torch.equal(read.weight.delta(base.weight), module.w_norm)
    assert torch.equal(read.bias, module.b_norm)
