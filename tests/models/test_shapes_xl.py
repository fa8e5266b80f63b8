"""The committed model follows prompts, and its script can make it again."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionXLPipeline

import loba_tui.models
from loba_tui.models import shapes_world as world
from loba_tui.models.shapes_xl_parts import learn_merges, make_text_parts, make_vae
from loba_tui.models.train_shapes_xl import run
from loba_tui.models.training.autoencoder import encode, whiten
from loba_tui.models.training.steps import Budget, draw_images, to_unit

MODEL = Path(loba_tui.models.__file__).parent / "shapes-xl"
MIB = 2**20
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def pipeline() -> StableDiffusionXLPipeline:
    pipe = StableDiffusionXLPipeline.from_pretrained(MODEL)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def readings(
    pipe: StableDiffusionXLPipeline, prompts: list[str], *, seed: int = 0
) -> list[world.Reading]:
    images = pipe(
        prompts,
        num_inference_steps=20,
        guidance_scale=4.0,
        generator=[torch.Generator().manual_seed(seed + index) for index in range(len(prompts))],
        output_type="np",
    ).images
    assert images.shape[1:] == (world.SIZE, world.SIZE, 3)
    return [world.read(image) for image in images]


def test_weights_are_small_enough_for_a_repository() -> None:
    assert sum(path.stat().st_size for path in MODEL.rglob("*") if path.is_file()) < 12 * MIB
    assert not [*MODEL.rglob("*.bin"), *MODEL.rglob("*.pt"), *MODEL.rglob("*.pkl")]


def test_plain_from_pretrained_gives_one_dtype(pipeline: StableDiffusionXLPipeline) -> None:
    parts = (pipeline.unet, pipeline.vae, pipeline.text_encoder, pipeline.text_encoder_2)
    assert {parameter.dtype for part in parts for parameter in part.parameters()} == {torch.float32}
    assert pipeline.config.force_zeros_for_empty_prompt


def test_every_word_of_the_world_is_one_token(pipeline: StableDiffusionXLPipeline) -> None:
    for tokenizer in (pipeline.tokenizer, pipeline.tokenizer_2):
        for word in world.vocabulary():
            start, _, end = tokenizer(word).input_ids
            assert (start, end) == (tokenizer.bos_token_id, tokenizer.eos_token_id), word


def test_saved_tokenizer_is_the_one_that_was_trained(pipeline: StableDiffusionXLPipeline) -> None:
    text = make_text_parts()
    prompt = "a vivid purple cross on the grey background, unheardof"
    for name in ("tokenizer", "tokenizer_2"):
        ours, saved = getattr(text, name), getattr(pipeline, name)
        padded = {"padding": "max_length"}
        assert ours(prompt, **padded).input_ids == saved(prompt, **padded).input_ids


def test_images_show_what_full_prompts_say(pipeline: StableDiffusionXLPipeline) -> None:
    rng = np.random.default_rng(0)
    scenes = [world.random_scene(rng) for _ in range(40)]
    found = readings(
        pipeline, [f"a {s.size} {s.color} {s.shape} on a {s.background} background" for s in scenes]
    )
    for attribute, least in (("color", 0.9), ("background", 0.92), ("shape", 0.85)):
        right = [
            getattr(reading, attribute) == getattr(scene, attribute)
            for reading, scene in zip(found, scenes, strict=True)
        ]
        assert np.mean(right) >= least, attribute


@pytest.mark.parametrize(
    ("less", "more", "value"), [("small", "large", "area"), ("dark", "bright", "brightness")]
)
def test_words_order_images_of_one_seed(
    pipeline: StableDiffusionXLPipeline, less: str, more: str, value: str
) -> None:
    rest = [
        f"{color} {shape} on a white background"
        for color in ("red", "green", "blue")
        for shape in world.SHAPES
    ]
    low = readings(pipeline, [f"a {less} {text}" for text in rest], seed=100)
    high = readings(pipeline, [f"a {more} {text}" for text in rest], seed=100)
    ordered = [
        (getattr(a, value) or 0.0) < (getattr(b, value) or 0.0)
        for a, b in zip(low, high, strict=True)
    ]
    assert np.mean(ordered) >= 0.9


def test_short_prompts_give_what_they_name(pipeline: StableDiffusionXLPipeline) -> None:
    found = readings(pipeline, ["circle", "a large red shape", "blue"], seed=200)
    assert found[0].shape == "circle"
    assert (found[1].color, found[2].color) == ("red", "blue")


def test_empty_prompt_mostly_gives_some_shape(pipeline: StableDiffusionXLPipeline) -> None:
    found = readings(pipeline, [""] * 8, seed=300)
    assert sum(reading.shape is not None for reading in found) >= 6


def test_merges_make_every_word_one_symbol() -> None:
    words = ["green", "red", "grey", "great"]
    merged = {"".join(pair) for pair in learn_merges(words)}
    assert {f"{word}</w>" for word in words} <= merged


def test_whitening_keeps_the_pictures_and_whitens_the_latents() -> None:
    torch.manual_seed(0)
    vae = make_vae()
    images = to_unit(draw_images(64, seed=0, radius_range=(5.0, 13.0))[0])
    with torch.no_grad():
        before = vae.decode(vae.encode(images).latent_dist.mean).sample
        whiten(vae, images)
        after = vae.decode(vae.encode(images).latent_dist.mean).sample
    torch.testing.assert_close(after, before, atol=1e-3, rtol=1e-3)
    values = encode(vae, images).permute(1, 0, 2, 3).flatten(1)
    torch.testing.assert_close(values.mean(1), torch.zeros(4), atol=1e-3, rtol=0)
    torch.testing.assert_close(torch.cov(values), torch.eye(4), atol=1e-2, rtol=0)


def test_training_is_deterministic_and_resumes_by_stage(tmp_path: Path) -> None:
    budget = Budget(
        num_images=24, vae_steps=2, vae_batch=4, decoder_steps=2, unet_steps=2, unet_batch=4
    )
    for name in ("one", "two"):
        run(budget, tmp_path / name, tmp_path / f"{name}-work")

    def weights(folder: Path) -> dict[str, bytes]:
        files = sorted(folder.rglob("*.safetensors"))
        return {str(path.relative_to(folder)): path.read_bytes() for path in files}

    first = weights(tmp_path / "one")
    assert len(first) == 4
    assert first == weights(tmp_path / "two")
    StableDiffusionXLPipeline.from_pretrained(tmp_path / "one")

    run(replace(budget, seed=1), tmp_path / "one", tmp_path / "one-work", first_stage="unet")
    redone = weights(tmp_path / "one")
    vae = next(name for name in redone if name.startswith("vae"))
    unet = next(name for name in redone if name.startswith("unet"))
    assert redone[vae] == first[vae]
    assert redone[unet] != first[unet]
