"""What SD-XL has beside what all Stable Diffusion models have."""

from pathlib import Path

import pytest
import torch

from loba_tui.core.associate.containers.families.sdxl import SDXLContainer
from loba_tui.core.associate.containers.loading import load_pipeline
from loba_tui.core.associate.embeds import Framing
from loba_tui.core.associate.sources.locate import locate


def load(folder: Path, dtype: torch.dtype = torch.float32) -> SDXLContainer:
    return SDXLContainer(load_pipeline(locate(str(folder)), dtype=dtype))


@pytest.mark.parametrize("zeros", [True, False])
def test_empty_embeds_are_the_pipelines_negative(tiny_sdxl_folder, zeros):
    container = load(tiny_sdxl_folder)
    container.pipeline.register_to_config(force_zeros_for_empty_prompt=zeros)
    _, expected, _, pooled = container.pipeline.encode_prompt("a circle")
    container.release_text_encoders()
    assert torch.equal(container.empty_embeds().embeds, expected)
    assert torch.equal(container.empty_embeds().pooled, pooled)


def test_half_precision_predicts_and_the_vae_decodes_in_float32_where_it_would_overflow(
    tiny_sdxl_folder,
):
    container = load(tiny_sdxl_folder, torch.bfloat16)
    container.pipeline.vae.register_to_config(force_upcast=True)
    seen = []
    handle = container.pipeline.vae.decoder.register_forward_pre_hook(
        lambda module, inputs: seen.append(inputs[0].dtype)
    )
    latents = torch.randn(1, 4, 8, 8)
    output = container.predict(latents, torch.tensor(5), container.encode_prompts(["a"]))
    container.decode(output.detach())
    handle.remove()
    assert output.dtype is torch.float32
    assert seen == [torch.float32]
    assert container.pipeline.vae.dtype is torch.bfloat16


def test_the_vae_is_cast_once_for_many_images(tiny_sdxl_folder, monkeypatch: pytest.MonkeyPatch):
    container = load(tiny_sdxl_folder, torch.bfloat16)
    vae = container.pipeline.vae
    vae.register_to_config(force_upcast=True)
    images = torch.rand(1, 3, 16, 16)
    alone = container.encode(images)
    casts, to = [], vae.to
    monkeypatch.setattr(vae, "to", lambda dtype: (casts.append(dtype), to(dtype=dtype))[1])
    with container.vae_held():
        assert all(torch.equal(container.encode(images), alone) for _ in range(3))
    assert casts == [torch.float32, torch.bfloat16]


def told(container: SDXLContainer, framing: Framing | None, rows: int = 2) -> torch.Tensor:
    """Return the time_ids that the UNet is called with."""
    seen = {}

    def unet(sample: torch.Tensor, *_: object, added_cond_kwargs: dict, **__: object) -> tuple:
        seen.update(added_cond_kwargs)
        return (sample,)

    latents = torch.zeros(rows, 4, 8, 16)
    embeds = container.empty_embeds()
    container.predict(latents, torch.tensor(5), embeds, framing=framing, denoiser=unet)
    return seen["time_ids"]


def test_the_unet_is_told_what_the_pipeline_would_tell_it(tiny_sdxl_folder):
    container = load(tiny_sdxl_folder)
    whole = container.pipeline._get_add_time_ids(
        (32, 64), (0, 0), (32, 64), torch.float32, text_encoder_projection_dim=64
    )
    assert told(container, None).tolist() == whole.tolist() * 2
    cut = Framing(torch.tensor([[1023, 771], [40, 80]]), torch.tensor([[0, 7], [3, 0]]))
    rows = [
        container.pipeline._get_add_time_ids(
            size, corner, (32, 64), torch.float32, text_encoder_projection_dim=64
        )
        for size, corner in (((1023, 771), (0, 7)), ((40, 80), (3, 0)))
    ]
    assert torch.equal(told(container, cut), torch.cat(rows))
    assert told(container, cut.repeat(2), rows=4)[2].tolist() == rows[0][0].tolist()


def test_sizes_are_not_rounded_to_what_half_precision_has(tiny_sdxl_folder):
    container = load(tiny_sdxl_folder, torch.bfloat16)
    framing = Framing(torch.tensor([[1023, 771]]), torch.tensor([[0, 0]]))
    assert told(container, framing, rows=1)[0, :2].tolist() == [1023, 771]


@torch.no_grad()
def test_another_size_is_another_prediction(tiny_sdxl_folder):
    container = load(tiny_sdxl_folder)
    latents, embeds = torch.randn(1, 4, 8, 8), container.encode_prompts(["a circle"])
    small = Framing(torch.tensor([[8, 8]]), torch.tensor([[0, 0]]))
    whole = container.predict(latents, torch.tensor(500), embeds)
    assert not torch.equal(
        container.predict(latents, torch.tensor(500), embeds, framing=small), whole
    )
