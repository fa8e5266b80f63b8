"""The embedded flow-matching model: its tokenizer, its training, and what is shipped."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import ZImagePipeline

import loba_tui.models
from loba_tui.models import shapes_world as world
from loba_tui.models.shapes_z_parts import (
    chat,
    make_text_encoder,
    make_tokenizer,
    make_transformer,
)
from loba_tui.models.train_shapes_z import load_vae, save_pipeline
from loba_tui.models.training.flow_denoiser import Budget, FlowTraining
from loba_tui.models.training.flow_network import Denoiser

FOLDER = Path(loba_tui.models.__file__).parent / "shapes-z"
SMALL = Budget(num_images=12, captions_per_image=2, steps=4, cooldown_steps=2, batch=3)


def test_every_word_of_the_world_is_one_token() -> None:
    tokenizer = make_tokenizer()
    words = [word for word in world.vocabulary() if word.isalpha()]
    for form in [*words, *(f" {word}" for word in words), *(word.capitalize() for word in words)]:
        assert len(tokenizer(form).input_ids) == 1, form
        assert tokenizer.decode(tokenizer(form).input_ids) == form


@torch.no_grad()
def test_the_denoiser_computes_what_the_pipelines_own_parts_do() -> None:
    torch.manual_seed(0)
    tokenizer, transformer = make_tokenizer(), make_transformer()
    text = make_text_encoder(tokenizer).eval()
    torch.nn.init.normal_(transformer.all_final_layer["2-1"].linear.weight, std=0.1)
    prompts = ["a small red circle on a blue background", "", "Large square"]
    batch = tokenizer(
        chat(tokenizer, prompts),
        padding="max_length",
        padding_side="right",
        max_length=32,
        return_tensors="pt",
    )
    noisy, times = torch.randn(3, 4, 8, 8), torch.rand(3)
    model = Denoiser(transformer, text)
    found, _ = model(noisy, times, batch.input_ids, batch.attention_mask.sum(1))
    states = text(**batch, output_hidden_states=True).hidden_states[-2]
    read = [row[mask.bool()] for row, mask in zip(states, batch.attention_mask, strict=True)]
    images = list(noisy.unsqueeze(2))
    own = torch.stack(transformer(images, times, read, return_dict=False)[0]).squeeze(2)
    torch.testing.assert_close(found, own, rtol=0, atol=1e-5)


def test_training_goes_on_after_an_interruption_with_the_same_bits(tmp_path: Path) -> None:
    vae = load_vae()
    folders = {name: tmp_path / name for name in ("whole", "parts")}
    for folder in folders.values():
        folder.mkdir()
    whole = FlowTraining(SMALL, vae, folders["whole"], compiles=False, kept_every=2).run()
    # Stopped behind step 3: what was kept is of step 2.
    stopped = FlowTraining(SMALL, vae, folders["parts"], compiles=False, kept_every=2)
    for _ in range(3):
        stopped._take_step()
        if stopped._step == 2:
            stopped._keep()
    parts = FlowTraining(SMALL, vae, folders["parts"], compiles=False, kept_every=2).run()
    assert all(torch.equal(parts[name], value) for name, value in whole.items())


def test_a_state_of_another_budget_is_not_gone_on_with(tmp_path: Path) -> None:
    FlowTraining(SMALL, load_vae(), tmp_path, compiles=False, kept_every=2).run()
    other = Budget(**{**vars(SMALL), "lr": 1e-4})
    with pytest.raises(SystemExit, match="another budget"):
        FlowTraining(other, load_vae(), tmp_path, compiles=False)


def test_what_is_saved_loads_as_a_pipeline(tmp_path: Path) -> None:
    model = Denoiser(make_transformer(), make_text_encoder(make_tokenizer()))
    save_pipeline(SMALL, model.state_dict(), tmp_path)
    pipeline = ZImagePipeline.from_pretrained(tmp_path)
    kept = pipeline.transformer.state_dict()["layers.0.attention.to_q.weight"]
    own = model.transformer.layers[0].attention.to_q.weight
    torch.testing.assert_close(kept, own, rtol=1e-3, atol=1e-4)


def test_the_shipped_model_is_small_and_follows_prompts() -> None:
    assert sum(path.stat().st_size for path in FOLDER.rglob("*")) < 12 * 2**20
    pipeline = ZImagePipeline.from_pretrained(FOLDER)
    pipeline.set_progress_bar_config(disable=True)
    prompts = [
        "a small red circle on a white background",
        "a large red circle on a white background",
        "a green square on a black background",
        "a blue triangle on a gray background",
    ]
    images = pipeline(
        list(prompts),
        num_inference_steps=12,
        guidance_scale=3.0,
        height=world.SIZE,
        width=world.SIZE,
        generator=[torch.Generator().manual_seed(seed) for seed in range(4)],
        output_type="np",
    ).images
    found = [world.read(image) for image in images]
    assert [each.color for each in found] == ["red", "red", "green", "blue"]
    assert [each.background for each in found] == ["white", "white", "black", "gray"]
    assert [each.shape for each in found] == ["circle", "circle", "square", "triangle"]
    assert found[0].area < found[1].area
