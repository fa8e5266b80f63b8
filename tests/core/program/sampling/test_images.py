from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from peft import get_peft_model_state_dict

from loba_tui.core.associate.containers.families.sdxl import SDXLContainer
from loba_tui.core.associate.embeds import PromptEmbeds
from loba_tui.core.associate.model_cache import ModelCache
from loba_tui.core.plugins import SHIPPED
from loba_tui.core.program.adapter_layers.strength import AdapterScale
from loba_tui.core.program.adapters.locon import get_adapter
from loba_tui.core.program.sampling.images import sample_scales
from loba_tui.core.recipe.schema import SampleSection
from loba_tui.core.recipe.sections.method import Choice

PROMPTS = ("a red circle", "a large blue square on a white background")
SCALES = (-2.0, 0.0, 1.5)
SEEDS = (7, 8)
SETTINGS = SampleSection(steps=3, guidance_scale=4.0, batch_size=5)


@pytest.fixture(scope="module")
def container(tiny_sdxl_folder: Path) -> SDXLContainer:
    container = ModelCache("cpu", torch.float32).container(str(tiny_sdxl_folder))
    torch.manual_seed(1)
    config = get_adapter(container.adapter_targets(), layers=("cross_attention", "convolution"))
    config.init_lora_weights = False  # a fresh LoRA has B = 0 and would change nothing
    container.denoiser.add_adapter(config)
    return container


@pytest.fixture(scope="module")
def embeds(container: SDXLContainer) -> PromptEmbeds:
    return container.encode_prompts(PROMPTS)


@pytest.fixture
def scale(container: SDXLContainer) -> Iterator[AdapterScale]:
    scale = AdapterScale(container.denoiser)
    yield scale
    scale.remove()


@pytest.fixture(scope="module")
def plain_pipeline(
    container: SDXLContainer, tiny_sdxl_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> StableDiffusionXLPipeline:
    """What a user has: the saved adapter, loaded by diffusers into a pipeline of its own."""
    folder = tmp_path_factory.mktemp("adapter")
    StableDiffusionXLPipeline.save_lora_weights(
        folder,
        unet_lora_layers=get_peft_model_state_dict(container.denoiser),
        unet_lora_adapter_metadata=container.denoiser.peft_config["default"].to_dict(),
    )
    pipeline = StableDiffusionXLPipeline.from_pretrained(tiny_sdxl_folder)
    pipeline.load_lora_weights(folder, adapter_name="slider")
    pipeline.scheduler = SHIPPED.load("noise", "euler")(pipeline.scheduler.config)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def draw(container, scale, embeds, **changes):
    arguments = {"scales": SCALES, "seeds": SEEDS, "settings": SETTINGS} | changes
    return sample_scales(container, scale, embeds, plugins=SHIPPED, **arguments)


@pytest.mark.parametrize("guidance_scale", [4.0, 1.0])
def test_every_image_is_what_the_plain_pipeline_draws(
    container, scale, embeds, plain_pipeline, guidance_scale
):
    settings = SETTINGS.model_copy(update={"guidance_scale": guidance_scale})
    images = draw(container, scale, embeds, settings=settings)
    assert images.shape == (2, 2, 3, 32, 32, 3)
    for p, s, k in np.ndindex(2, 2, 3):
        plain_pipeline.set_adapters("slider", SCALES[k])
        alone = plain_pipeline(
            PROMPTS[p],
            num_inference_steps=3,
            guidance_scale=guidance_scale,
            generator=torch.Generator().manual_seed(SEEDS[s]),
            output_type="np",
        ).images[0]
        np.testing.assert_allclose(images[p, s, k], alone, atol=2e-4)
    assert np.abs(images[:, :, 0] - images[:, :, 2]).max() > 1e-2


def test_negative_prompt_is_used(container, scale, embeds, plain_pipeline):
    images = draw(
        container, scale, embeds[0], negative=embeds[1], scales=(0.0, 1.0), seeds=(7,)
    )  # fmt: skip
    plain_pipeline.set_adapters("slider", 1.0)
    alone = plain_pipeline(
        PROMPTS[0],
        negative_prompt=PROMPTS[1],
        num_inference_steps=3,
        guidance_scale=4.0,
        generator=torch.Generator().manual_seed(7),
        output_type="np",
    ).images[0]
    np.testing.assert_allclose(images[0, 0, 1], alone, atol=2e-4)


@pytest.mark.parametrize("sampler", ["euler", "euler_ancestral", "ddim"])
def test_an_image_does_not_depend_on_its_batch(container, scale, embeds, sampler):
    settings = SampleSection(steps=3, batch_size=5, noise={"name": sampler})
    alone = settings.model_copy(update={"batch_size": 1})
    together = draw(container, scale, embeds, settings=settings)
    np.testing.assert_allclose(together, draw(container, scale, embeds, settings=alone), atol=2e-4)


def test_pipeline_is_given_back_as_it_was(container, scale, embeds):
    pipeline = container.pipeline
    scheduler = pipeline.scheduler
    container.denoiser.train()
    pipeline.set_progress_bar_config(disable=True, leave=False)
    draw(container, scale, embeds[0], seeds=(1,))
    assert pipeline.scheduler is scheduler
    assert container.denoiser.training
    assert pipeline._progress_bar_config == {"disable": True, "leave": False}
    container.denoiser.eval()


def test_progress_counts_images(container, scale, embeds):
    told = []
    draw(container, scale, embeds, progress=lambda done, total: told.append((done, total)))
    assert told == [(5, 12), (10, 12), (12, 12)]


def test_works_without_text_encoders(container, scale, embeds):
    pipeline = container.pipeline
    before = draw(container, scale, embeds[0], seeds=(1,))
    held = pipeline.text_encoder, pipeline.text_encoder_2
    container.release_text_encoders()
    try:
        after = draw(container, scale, embeds[0], seeds=(1,))
    finally:
        pipeline.register_modules(text_encoder=held[0], text_encoder_2=held[1])
    assert np.array_equal(before, after)


@pytest.mark.parametrize("noise", [n for n in SHIPPED.names("noise") if n != "flow_match_euler"])
def test_every_diffusion_scheduler_samples(
    noise: str, container: SDXLContainer, embeds: PromptEmbeds, scale: AdapterScale
) -> None:
    settings = SampleSection(steps=3, noise=Choice(name=noise))
    images = sample_scales(
        container,
        scale,
        embeds.select([0]),
        scales=[0.0],
        seeds=[7],
        settings=settings,
        plugins=SHIPPED,
    )
    assert np.isfinite(images).all()
    assert images.std() > 0
