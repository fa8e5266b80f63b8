"""Layer factors over the modules of the embedded U-Net and of a transformer."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import nn

import loba_tui
from loba_tui.core.errors import RecipeError
from loba_tui.core.plugins import SHIPPED


def unet_modules() -> dict[str, nn.Module]:
    folder = Path(loba_tui.__file__).parent / "models" / "shapes-xl" / "unet"
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(folder))
    kinds = (nn.Linear, nn.Conv2d)
    return {name: module for name, module in unet.named_modules() if isinstance(module, kinds)}


MODULES = unet_modules()


def factors(name: str, names: list[str] | None = None, **options: Any) -> dict[str, float]:
    names = list(MODULES) if names is None else names
    probe = SimpleNamespace(param_groups=[{"name": name, "params": []} for name in names])
    return dict(zip(names, SHIPPED.load("layer", name)(probe, **options), strict=True))


def trained(name: str, **options: Any) -> set[str]:
    return {module for module, factor in factors(name, **options).items() if factor}


def test_attention_splits_into_self_and_cross_attention() -> None:
    cross, own = trained("cross_attention_only"), trained("self_attention_only")
    assert cross == {name for name in MODULES if ".attn2." in name}
    assert own == {name for name in MODULES if ".attn1." in name}
    assert cross | own == trained("attention_only")
    assert not cross & own


def test_conv_only_trains_exactly_the_convolutions() -> None:
    assert trained("conv_only") == {
        name for name, module in MODULES.items() if isinstance(module, nn.Conv2d)
    }


def test_style_blocks_are_b_loras() -> None:
    style, content = trained("style_blocks"), trained("style_blocks", train="content")
    assert style == {name for name in MODULES if name.startswith("up_blocks.0.attentions.1.")}
    assert content == {name for name in MODULES if name.startswith("up_blocks.0.attentions.0.")}
    assert trained("style_blocks", train="both") == style | content
    assert style
    assert content


def test_block_wise_decay_falls_from_the_middle_to_both_ends() -> None:
    found = factors("block_wise_decay", decay=0.5)
    blocks = {
        "mid_block.": 1.0,
        "down_blocks.2.": 0.5,
        "down_blocks.1.": 0.25,
        "down_blocks.0.": 0.125,
        "conv_in": 0.0625,
        "time_embedding": 0.03125,
        "up_blocks.0.": 0.5,
        "up_blocks.1.": 0.25,
        "up_blocks.2.": 0.125,
        "conv_out": 0.0625,
    }
    for prefix, expected in blocks.items():
        assert {f for name, f in found.items() if name.startswith(prefix)} == {expected}, prefix


@pytest.mark.parametrize(("full_at", "first", "last"), [("input", 1, 0.1), ("output", 0.1, 1)])
def test_block_wise_decay_from_one_end_to_the_other(
    full_at: str, first: float, last: float
) -> None:
    names = ["down_blocks.0.x", "up_blocks.1.x"]
    found = factors("block_wise_decay", names, decay=0.1, full_at=full_at)
    assert list(found.values()) == pytest.approx([first, last])


def test_block_wise_decay_of_a_transformer_centres_on_its_central_block() -> None:
    names = [f"transformer_blocks.{n}.attn.to_q" for n in (0, 1, 10)]
    names += [f"single_transformer_blocks.{n}.attn.to_q" for n in (0, 2)]
    found = factors("block_wise_decay", names, decay=0.5)
    assert list(found.values()) == [0.25, 0.5, 1.0, 0.5, 0.25], "block 10 comes after block 1"


def test_custom_takes_the_first_pattern_that_fits() -> None:
    patterns = {"up_blocks.*.attn2.*": 2.0, "up_blocks.*": 0.5}
    found = factors("custom", factors=patterns, otherwise=0.1)
    assert found["up_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"] == 2.0
    assert found["up_blocks.0.attentions.0.transformer_blocks.0.attn1.to_k"] == 0.5
    assert found["down_blocks.0.resnets.0.conv1"] == 0.1


def test_a_pattern_that_fits_nothing_is_an_error() -> None:
    with pytest.raises(RecipeError, match=r"upblocks.*fits none"):
        factors("custom", factors={"upblocks.*": 1.0})
