"""What every family's container promises, against the family's own pipeline."""

import copy
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.tuners_utils import BaseTunerLayer

from loba_tui.core.associate.containers.base import ModelContainer
from loba_tui.core.associate.containers.loading import load_pipeline
from loba_tui.core.associate.containers.registry import make_container
from loba_tui.core.associate.embeds import PromptEmbeds
from loba_tui.core.associate.sources.locate import locate
from loba_tui.core.errors import RecipeError

PROMPTS = ["a red circle", "a small blue square on a white background", ""]


def load(folder: Path, dtype: torch.dtype = torch.float32) -> ModelContainer:
    return make_container(load_pipeline(locate(str(folder)), dtype=dtype), str(folder))


@pytest.fixture(scope="module", params=["sdxl", "sd"])
def folder(request: pytest.FixtureRequest) -> Path:
    return request.getfixturevalue(f"tiny_{request.param}_folder")


@pytest.fixture(scope="module")
def container(folder: Path) -> ModelContainer:
    return load(folder)


def conditions(embeds: PromptEmbeds, prefix: str = "") -> dict[str, torch.Tensor]:
    """Return embeddings as a pipeline's arguments."""
    named = {f"{prefix}prompt_embeds": embeds.embeds}
    if embeds.pooled is not None:
        named[f"{prefix}pooled_prompt_embeds"] = embeds.pooled
    return named


@pytest.fixture
def latents(container: ModelContainer) -> torch.Tensor:
    return torch.randn(3, *container.latent_shape(), generator=torch.Generator().manual_seed(0))


def test_prompts_are_encoded_as_the_pipeline_encodes_them(container):
    expected, _, *pooled = container.pipeline.encode_prompt(
        PROMPTS, device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=False
    )
    embeds = container.encode_prompts(PROMPTS)
    assert torch.equal(embeds.embeds, expected)
    assert (embeds.pooled is None) == (not pooled)
    if pooled:
        assert torch.equal(embeds.pooled, pooled[0])


def test_more_prompts_than_one_batch_come_back_in_order(container):
    prompts = [
        f"{size} {color} circle" for size in ("small", "large") for color in "abcdefghij"
    ] * 4
    embeds = container.encode_prompts(prompts)
    assert len(embeds) == len(prompts)
    last = container.encode_prompts(prompts[-1:])
    torch.testing.assert_close(embeds.embeds[-1:], last.embeds)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("adapted", [False, True])
def test_a_prompt_has_the_bits_that_it_has_alone(folder, dtype, adapted):
    container = load(folder, dtype)
    if adapted:
        for name in container.text_encoders:
            config = LoraConfig(target_modules=["fc1", "out_proj"], init_lora_weights=False)
            inject_adapter_in_model(config, getattr(container.pipeline, name))
    prompts = [f"a {color} circle" for color in "abcdefghijklmnopqrstuvwxyz"] * 2
    rows = container.encode_alone(prompts)
    assert len(rows) == len(prompts)
    for row, prompt in list(zip(rows, prompts, strict=True))[::7]:
        alone = container.encode_prompts([prompt])
        assert row.texts == (prompt,)
        assert torch.equal(row.embeds, alone.embeds)
        assert alone.pooled is None or torch.equal(row.pooled, alone.pooled)


@torch.no_grad()
def test_mixed_timesteps_in_one_batch_equal_row_by_row(container, latents):
    timesteps = torch.tensor([1, 480, 999])
    embeds = container.encode_prompts(PROMPTS)
    together = container.predict(latents, timesteps, embeds)
    rows = [
        container.predict(latents[i : i + 1], timesteps[i], embeds[i]) for i in range(len(latents))
    ]
    torch.testing.assert_close(together, torch.cat(rows), atol=2e-6, rtol=1e-5)


@torch.no_grad()
def test_one_row_of_embeds_stands_for_all(container, latents):
    one = container.encode_prompts(PROMPTS[:1])
    shared = container.predict(latents, torch.tensor(10), one)
    each = container.predict(latents, torch.tensor([10] * 3), one.select([0, 0, 0]))
    torch.testing.assert_close(shared, each)


@torch.no_grad()
def test_a_denoising_loop_of_predictions_equals_the_pipeline(container):
    """The oracle for time_ids, pooled embeds and guidance: the pipeline's own sampling."""
    embeds = container.encode_prompts(PROMPTS[:2])
    noise = torch.randn(2, *container.latent_shape(), generator=torch.Generator().manual_seed(1))
    expected = container.pipeline(
        prompt=PROMPTS[:2],
        latents=noise.clone(),
        num_inference_steps=3,
        guidance_scale=4.0,
        output_type="latent",
    ).images
    scheduler = copy.deepcopy(container.pipeline.scheduler)
    scheduler.set_timesteps(3)
    latents = noise * scheduler.init_noise_sigma
    both = PromptEmbeds.cat([container.empty_embeds().expand(2), embeds])
    for timestep in scheduler.timesteps:
        inputs = scheduler.scale_model_input(torch.cat([latents] * 2), timestep)
        empty, conditional = container.predict(inputs, timestep, both).chunk(2)
        guided = empty + 4.0 * (conditional - empty)
        latents = scheduler.step(guided, timestep, latents).prev_sample
    torch.testing.assert_close(latents, expected, atol=1e-4, rtol=1e-4)


def test_the_pipeline_samples_from_embeds_after_the_encoders_are_gone(folder):
    container = load(folder)
    embeds = container.encode_prompts(PROMPTS[:2])
    empty = container.empty_embeds().expand(2)

    def sample(**prompts: object):
        generator = [torch.Generator().manual_seed(seed) for seed in (1, 2)]
        return container.pipeline(
            **prompts, generator=generator, num_inference_steps=2, output_type="pt"
        ).images

    before = sample(prompt=PROMPTS[:2])
    container.release_text_encoders()
    assert container.pipeline.text_encoder is None
    after = sample(
        **conditions(embeds),
        **conditions(empty, "negative_"),
    )
    torch.testing.assert_close(after, before)
    with pytest.raises(RuntimeError, match="released"):
        container.encode_prompts(["late"])


def test_a_wrapped_denoiser_is_called_instead(container, latents):
    class Wrapped(torch.nn.Module):
        def forward(self, sample, timestep, **_: object):
            return (sample * 2,)

    embeds = container.encode_prompts(PROMPTS)
    output = container.predict(latents, torch.tensor(1), embeds, denoiser=Wrapped())
    assert torch.equal(output, latents * 2)


def test_targets_cover_every_layer_of_the_blocks_once(container):
    groups = container.adapter_targets()
    names = [name for group in groups.values() for name in group]
    inside = [
        name
        for name, module in container.denoiser.named_modules()
        if isinstance(module, torch.nn.Linear | torch.nn.Conv2d)
        and name.startswith(("down_blocks", "mid_block", "up_blocks"))
    ]
    assert sorted(names) == sorted(inside)
    assert all(".attn2." in name for name in groups["cross_attention"])
    assert all(groups.values())


def test_targets_are_the_same_with_an_adapter_on_them(folder):
    container = load(folder)
    before = container.adapter_targets()
    wanted = before["cross_attention"] + before["convolution"]
    container.denoiser.add_adapter(LoraConfig(r=2, target_modules=wanted))
    assert container.adapter_targets() == before
    wrapped = [n for n, m in container.denoiser.named_modules() if isinstance(m, BaseTunerLayer)]
    assert sorted(wrapped) == sorted(wanted)


def test_latent_shapes_follow_the_resolution_in_pixels(container):
    side, multiple = container.resolution, container.pixel_multiple
    assert container.latent_shape() == (4, side // 4, side // 4)
    assert container.latent_shape(2 * side) == (4, side // 2, side // 2)
    with pytest.raises(RecipeError, match=f"multiple of {multiple}"):
        container.latent_shape(multiple + 8)


@torch.no_grad()
def test_decode_and_encode_equal_the_vae(container):
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    latents = container.encode(images)
    vae = container.pipeline.vae
    expected = vae.encode(images * 2 - 1).latent_dist.mode() * vae.config.scaling_factor
    torch.testing.assert_close(latents, expected)
    decoded = container.decode(latents)
    reference = vae.decode(latents / vae.config.scaling_factor).sample
    torch.testing.assert_close(decoded, (reference / 2 + 0.5).clamp(0, 1))


def test_every_component_takes_the_dtype(folder):
    container = load(folder, torch.bfloat16)
    for name in ("unet", "vae", *container.text_encoders):
        component = getattr(container.pipeline, name)
        assert {p.dtype for p in component.parameters()} == {torch.bfloat16}, name


def test_another_family_is_named_as_not_supported():
    class OtherPipeline:
        pass

    with pytest.raises(RecipeError, match="OtherPipeline") as caught:
        make_container(OtherPipeline(), "me/other")
    assert StableDiffusionPipeline.__name__ in caught.value.hint
    assert StableDiffusionXLPipeline.__name__ in caught.value.hint


def test_empty_embeds_that_were_kept_need_no_encoder(folder):
    container = load(folder)
    row = container.zero_embeds()
    assert row.embeds.shape == container.encode_prompts([""]).embeds.shape
    container.pipeline.register_modules(**dict.fromkeys(container.text_encoders))
    container.adopt_empty(row)
    assert container.empty_embeds() is row


def test_embeds_select_repeat_and_join():
    embeds = PromptEmbeds(torch.arange(6.0).view(3, 2, 1), torch.arange(3.0).view(3, 1))
    joined = PromptEmbeds.cat([embeds[2], embeds.select([0, 0])])
    assert joined.pooled.flatten().tolist() == [2, 0, 0]
    assert joined.embeds[:, 0, 0].tolist() == [4, 0, 0]
    assert embeds.to(dtype=torch.float16).embeds.dtype is torch.float16
    assert len(embeds[1:]) == 2
