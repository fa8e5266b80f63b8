"""Names are checked against diffusers' own reader of kohya files, and against the layers and shapes
of the UNet of `generative-models`, enumerated here in the order in which that one builds them."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import pytest
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline, UNet2DConditionModel
from diffusers.utils import convert_unet_state_dict_to_peft

from loba_tui.core.adapter_keys.kohya_keys import (
    SDXL_LAYOUT,
    BlockLayout,
    from_kohya,
    to_kohya,
)
from loba_tui.core.associate.containers.families.sdxl import SDXLContainer
from loba_tui.core.associate.model_shapes import open_shapes
from loba_tui.models.shapes_xl_parts import make_unet

Shape = tuple[int, ...]


def sdxl_unet() -> UNet2DConditionModel:
    """The UNet of SD-XL 1.0 without its weights."""
    with torch.device("meta"):
        return UNet2DConditionModel(
            sample_size=128,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            block_out_channels=(320, 640, 1280),
            layers_per_block=2,
            transformer_layers_per_block=(1, 2, 10),
            attention_head_dim=(5, 10, 20),
            cross_attention_dim=2048,
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=256,
            projection_class_embeddings_input_dim=2816,
        )


@pytest.fixture(scope="module", params=["sdxl-1.0", "shapes-xl"])
def unet(request: pytest.FixtureRequest) -> UNet2DConditionModel:
    return sdxl_unet() if request.param == "sdxl-1.0" else make_unet()


def targets(unet: UNet2DConditionModel) -> list[str]:
    class Holder:
        pass

    holder = Holder()
    holder.unet = unet
    container = SDXLContainer.__new__(SDXLContainer)
    container.pipeline = holder
    return [name for group in container.adapter_targets().values() for name in group]


def test_every_target_comes_back_through_diffusers_own_reader(unet):
    names = targets(unet)
    layout = BlockLayout.of(unet.config)
    kohya = {}
    for number, name in enumerate(names):
        key = to_kohya(name, layout)
        kohya[f"{key}.lora_down.weight"] = torch.full((1, 1), float(number))
        kohya[f"{key}.lora_up.weight"] = torch.full((1, 1), float(number))
        kohya[f"{key}.alpha"] = torch.tensor(1.0)
    read, alphas = StableDiffusionXLPipeline.lora_state_dict(kohya, unet_config=unet.config)
    peft = convert_unet_state_dict_to_peft(
        {key.removeprefix("unet."): value for key, value in read.items()}
    )
    expected = {f"{name}.lora_{side}.weight": i for i, name in enumerate(names) for side in "AB"}
    assert {key: int(value) for key, value in peft.items()} == expected
    assert len(alphas) == len(names)


def test_names_are_unique_and_come_back(unet):
    layout = BlockLayout.of(unet.config)
    names = [*targets(unet), "conv_in", "conv_out", "time_embedding.linear_1"]
    keys = [to_kohya(name, layout) for name in names]
    assert len(set(keys)) == len(keys)
    assert [from_kohya(key, layout) for key in keys] == names


def generative_models_layers(
    depths: tuple[int, int, int], context: int
) -> Iterator[tuple[str, Shape]]:
    """Yield names and weight shapes of SD-XL's layers as its first implementation builds them."""

    def resnet(name: str, before: int, after: int) -> Iterator[tuple[str, Shape]]:
        yield f"{name}.in_layers.2", (after, before, 3, 3)
        yield f"{name}.emb_layers.1", (after, 1280)
        yield f"{name}.out_layers.3", (after, after, 3, 3)
        if before != after:
            yield f"{name}.skip_connection", (after, before, 1, 1)

    def transformer(name: str, width: int, depth: int) -> Iterator[tuple[str, Shape]]:
        yield f"{name}.proj_in", (width, width)
        yield f"{name}.proj_out", (width, width)
        for number in range(depth):
            block = f"{name}.transformer_blocks.{number}"
            for attention, source in (("attn1", width), ("attn2", context)):
                yield f"{block}.{attention}.to_q", (width, width)
                yield f"{block}.{attention}.to_k", (width, source)
                yield f"{block}.{attention}.to_v", (width, source)
                yield f"{block}.{attention}.to_out.0", (width, width)
            yield f"{block}.ff.net.0.proj", (8 * width, width)
            yield f"{block}.ff.net.2", (width, 4 * width)

    widths = (320, 640, 1280)
    yield "input_blocks.0.0", (320, 4, 3, 3)
    column, width, skips = 0, 320, [320]
    for level, (after, depth) in enumerate(zip(widths, depths, strict=True)):
        for _ in range(2):
            column += 1
            yield from resnet(f"input_blocks.{column}.0", width, after)
            yield from transformer(f"input_blocks.{column}.1", after, depth) if depth else ()
            width = after
            skips.append(width)
        if level < 2:
            column += 1
            yield f"input_blocks.{column}.0.op", (width, width, 3, 3)
            skips.append(width)
    yield from resnet("middle_block.0", width, width)
    yield from transformer("middle_block.1", width, depths[-1])
    yield from resnet("middle_block.2", width, width)
    column = -1
    for level in (2, 1, 0):
        for layer in range(3):
            column += 1
            yield from resnet(f"output_blocks.{column}.0", width + skips.pop(), widths[level])
            width = widths[level]
            if depths[level]:
                yield from transformer(f"output_blocks.{column}.1", width, depths[level])
            if level and layer == 2:
                yield f"output_blocks.{column}.2.conv", (width, width, 3, 3)
    yield "out.2", (4, 320, 3, 3)


def test_every_layer_of_the_first_implementation_has_its_counterpart_of_the_same_shape():
    unet = sdxl_unet()
    ours = {
        to_kohya(name): tuple(unet.get_submodule(name).weight.shape)
        for name in [*targets(unet), "conv_in", "conv_out"]
    }
    theirs = {
        "lora_unet_" + name.replace(".", "_"): shape
        for name, shape in generative_models_layers((0, 2, 10), 2048)
    }
    assert ours == theirs


@pytest.mark.parametrize(
    ("module", "key"),
    [
        (
            "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_k",
            "lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k",
        ),
        (
            "mid_block.attentions.0.transformer_blocks.9.ff.net.0.proj",
            "lora_unet_middle_block_1_transformer_blocks_9_ff_net_0_proj",
        ),
        (
            "up_blocks.1.attentions.2.transformer_blocks.1.attn1.to_out.0",
            "lora_unet_output_blocks_5_1_transformer_blocks_1_attn1_to_out_0",
        ),
        ("down_blocks.0.downsamplers.0.conv", "lora_unet_input_blocks_3_0_op"),
        ("up_blocks.0.upsamplers.0.conv", "lora_unet_output_blocks_2_2_conv"),
        ("mid_block.resnets.1.conv_shortcut", "lora_unet_middle_block_2_skip_connection"),
        ("down_blocks.1.attentions.0.norm", "lora_unet_input_blocks_4_1_norm"),
        ("down_blocks.0.resnets.0.norm1", "lora_unet_input_blocks_1_0_in_layers_0"),
        ("conv_norm_out", "lora_unet_out_0"),
    ],
)
def test_well_known_names(module, key):
    assert to_kohya(module) == key
    assert from_kohya(key) == module


def test_the_default_layout_is_that_of_sdxl(unet):
    assert BlockLayout.of(unet.config) == SDXL_LAYOUT


@pytest.mark.parametrize(
    "name",
    [
        "text_model.encoder",
        "down_blocks.0.motion_modules.0.proj_in",
        "class_embedding",
    ],
)
def test_what_has_no_counterpart_is_a_key_error(name):
    with pytest.raises(KeyError):
        to_kohya(name)


@pytest.mark.parametrize(
    "name",
    [
        "lora_te1_text_model_encoder_layers_0_mlp_fc1",
        "lora_unet_side_blocks_0_attentions_0_proj_in",
        "lora_unet_middle_block_3_proj_in",
    ],
)
def test_foreign_keys_are_key_errors(name):
    with pytest.raises(KeyError):
        from_kohya(name)


@pytest.mark.parametrize(
    ("module", "key"),
    [
        (
            "down_blocks.0.attentions.1.transformer_blocks.0.attn2.to_k",
            "lora_unet_down_blocks_0_attentions_1_transformer_blocks_0_attn2_to_k",
        ),
        (
            "mid_block.attentions.0.transformer_blocks.0.attn1.to_out.0",
            "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_out_0",
        ),
        (
            "up_blocks.3.attentions.2.transformer_blocks.0.ff.net.0.proj",
            "lora_unet_up_blocks_3_attentions_2_transformer_blocks_0_ff_net_0_proj",
        ),
        ("up_blocks.1.resnets.0.conv_shortcut", "lora_unet_up_blocks_1_resnets_0_conv_shortcut"),
        ("down_blocks.2.downsamplers.0.conv", "lora_unet_down_blocks_2_downsamplers_0_conv"),
    ],
)
def test_sd_1_has_the_names_that_diffusers_has(module, key):
    assert to_kohya(module, None) == key
    assert from_kohya(key) == module


def test_every_layer_of_sd_1_comes_back_and_diffusers_reads_its_name():
    unet = open_shapes("stable-diffusion-v1-5/stable-diffusion-v1-5", None, torch.float32)
    names = [*targets(unet.container.denoiser), "conv_in", "conv_out", "time_embedding.linear_1"]
    keys = [to_kohya(name, None) for name in names]
    assert len(set(keys)) == len(keys)
    assert [from_kohya(key) for key in keys] == names

    kohya = {f"{key}.lora_down.weight": torch.zeros(1, 1) for key in keys}
    kohya |= {f"{key}.lora_up.weight": torch.zeros(1, 1) for key in keys}
    read, _ = StableDiffusionPipeline.lora_state_dict(kohya)
    plain = {key.removeprefix("unet.") for key in convert_unet_state_dict_to_peft(read)}
    wanted = {
        f"{name}.lora_{side}.weight" for name in targets(unet.container.denoiser) for side in "AB"
    }
    assert wanted <= plain


def test_columns_of_neighbouring_blocks_do_not_overlap():
    columns = [
        int(to_kohya(f"down_blocks.{block}.resnets.{layer}.conv1").split("_")[4])
        for block in range(3)
        for layer in range(2)
    ]
    assert all(later > earlier for earlier, later in pairwise(columns))
