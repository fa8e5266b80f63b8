"""The contract of a family's container: it does what the family's own pipeline does.

The pipeline is drawn with, and what its transformer and its scheduler are given and give is noted.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from family_contract import (
    CASES,
    PREDICTS_ONCE,
    PROMPTS,
    SCALE,
    STEPS,
    Family,
    both,
    generator,
    noted,
    tokens,
)
from peft import LoraConfig
from tiny_families import RESOLUTION, TINY, save_tiny
from torch import Tensor, nn

from loba_tui.core.associate.caches.memory.block_offload import BlockOffload
from loba_tui.core.associate.containers.loading import load_pipeline
from loba_tui.core.associate.embeds import LatentMoments
from loba_tui.core.associate.model_cache import ModelCache
from loba_tui.core.associate.sources.locate import locate
from loba_tui.core.associate.sources.overrides import Overrides
from loba_tui.core.errors import RecipeError

CLOSE = {"rtol": 0.0, "atol": 1e-5}
GROUPS = ("self_attention", "cross_attention", "feed_forward", "modulation")


@pytest.fixture(scope="module", params=list(TINY))
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Family:
    folder: Path = tmp_path_factory.mktemp("models") / request.param
    save_tiny(request.param, folder)
    container = ModelCache("cpu", "float32").container(str(folder))
    return Family(request.param, CASES[request.param], container)


def test_the_container_is_told_by_the_pipeline(family: Family):
    assert family.name.startswith(family.container.family)
    assert family.container.prediction_type == "flow"
    assert family.container.dtype == torch.float32


def test_predictions_are_the_pipeline_s(family: Family, monkeypatch: pytest.MonkeyPatch):
    embeds = family.container.encode_prompts(PROMPTS)
    with noted(family, monkeypatch) as steps:
        family.draw(prompt=list(PROMPTS), **family.case.unguided)

    assert len(steps.latents) == STEPS
    for latents, timestep, expected in zip(
        steps.latents, steps.timesteps, steps.predictions, strict=True
    ):
        with torch.no_grad():
            found = family.container.predict(latents, timestep, embeds)
        assert found.std() > 0.01
        torch.testing.assert_close(found, expected, **CLOSE)


def test_rows_may_have_timesteps_of_their_own_and_neighbours_do_not_matter(family: Family):
    container, embeds = family.container, family.container.encode_prompts(PROMPTS)
    latents = torch.randn(2, *container.latent_shape(RESOLUTION), generator=generator())
    timesteps = torch.tensor([900.0, 250.0])
    with torch.no_grad():
        both = container.predict(latents, timesteps, embeds)
        for row in range(2):
            alone = container.predict(
                latents[row : row + 1],
                timesteps[row : row + 1],
                container.encode_prompts([PROMPTS[row]]),
            )
            torch.testing.assert_close(both[row : row + 1], alone, **CLOSE)
        one_prompt = container.predict(latents, timesteps, embeds[0])
    torch.testing.assert_close(one_prompt[:1], both[:1], **CLOSE)
    assert (one_prompt[1:] - both[1:]).abs().max() > 1e-3


def test_guidance_is_classifier_free_guidance(family: Family, monkeypatch: pytest.MonkeyPatch):
    if family.name in PREDICTS_ONCE:
        pytest.skip("predicts once")
    container = family.container
    embeds, empty = container.encode_prompts(PROMPTS), container.empty_embeds()
    with noted(family, monkeypatch) as steps:
        family.draw(**container.pipeline_inputs(embeds, both(empty), SCALE))

    latents, timestep = steps.latents[0], steps.timesteps[0]
    with torch.no_grad():
        prompted = container.predict(latents, timestep, embeds)
        unprompted = container.predict(latents, timestep, empty)
    expected = unprompted + SCALE * (prompted - unprompted)
    found = steps.predictions[0]
    if family.case.lengthens:
        expected, found = (each / each.norm() for each in (tokens(expected), tokens(found)))
        expected, found = (torch.nn.functional.normalize(e, dim=1) for e in (expected, found))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_drawing_from_embeddings_is_drawing_from_prompts(family: Family):
    expected = family.draw(prompt=list(PROMPTS), **family.case.guided)
    container = family.container
    embeds = container.encode_prompts(PROMPTS)
    inputs = container.pipeline_inputs(embeds, both(container.empty_embeds()), SCALE)

    torch.testing.assert_close(family.draw(**inputs), expected, **CLOSE)


def test_steps_are_laid_out_as_the_pipeline_does(family: Family):
    family.draw(prompt=list(PROMPTS), **family.case.unguided)
    own = family.pipeline.scheduler
    fresh = type(own).from_config(own.config)

    shape = family.container.latent_shape(RESOLUTION)
    family.container.lay_out_steps(fresh, STEPS, shape)

    assert torch.equal(fresh.sigmas, own.sigmas)
    assert torch.equal(fresh.timesteps, own.timesteps)


def test_images_are_coded_as_the_pipeline_does(family: Family, monkeypatch: pytest.MonkeyPatch):
    container = family.container
    images = torch.rand(2, 3, RESOLUTION, RESOLUTION, generator=generator())
    moments = container.encode_moments(images)
    assert moments.mean.shape == (2, *container.latent_shape(RESOLUTION)) == moments.std.shape
    assert torch.equal(container.encode(images), moments.mean)
    assert (moments.std > 0).all()

    embeds = container.encode_prompts(PROMPTS)
    inputs = container.pipeline_inputs(embeds, both(container.empty_embeds()), 1.0)
    expected = family.draw(**inputs)
    with noted(family, monkeypatch) as steps:
        family.draw(**inputs)
    sigmas = family.pipeline.scheduler.sigmas
    last = steps.latents[-1] + (sigmas[-1] - sigmas[-2]) * steps.predictions[-1]
    torch.testing.assert_close(container.decode(last), expected, **CLOSE)


def test_encoding_undoes_what_decoding_does_to_latents(
    family: Family, monkeypatch: pytest.MonkeyPatch
):
    """With a VAE that keeps what it is given, what is decoded and encoded is the same again."""
    container, kept = family.container, []

    def decoded(_: Any, latents: Tensor) -> Tensor:
        kept.append(latents)
        return torch.zeros(2, 3, RESOLUTION, RESOLUTION)

    def encoded(_: Any, vae: Any, pixels: Tensor) -> LatentMoments:
        return LatentMoments(kept[0], torch.ones_like(kept[0]))

    monkeypatch.setattr(type(container), "decode_own", decoded)
    monkeypatch.setattr(type(container), "_encoded", encoded)
    latents = torch.randn(2, *container.latent_shape(RESOLUTION), generator=generator())

    found = container.encode(container.decode(latents))

    torch.testing.assert_close(found, latents, **CLOSE)
    assert (kept[0] - latents).abs().max() > 0.01


def test_another_vae_of_the_family_s_class_is_taken(family: Family, tmp_path: Path):
    save_tiny(family.name, tmp_path / "own")
    vae = type(family.pipeline.vae).from_config(family.pipeline.vae.config)
    vae.save_pretrained(tmp_path / "other")
    source = locate(str(tmp_path / "own"), overrides=Overrides(vae=str(tmp_path / "other")))

    loaded = load_pipeline(source, dtype=torch.float32).vae

    assert type(loaded) is type(vae)
    for name, weight in vae.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], weight)


def test_a_model_that_lacks_the_family_s_vae_is_refused(family: Family, tmp_path: Path):
    save_tiny(family.name, tmp_path)
    index = json.loads((tmp_path / "model_index.json").read_text())
    index["vae"] = ["diffusers", "AutoencoderTiny"]
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(RecipeError, match="VAE class AutoencoderTiny"):
        load_pipeline(locate(str(tmp_path)), dtype=torch.float32)


def test_tokens_are_at_the_positions_of_their_states(family: Family):
    container = family.container
    one, other = container.tokenize(["a red circle", "a red square"])
    states = container.encode_prompts(["a red circle", "a red square"])
    first = next(i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)

    assert 0 < first < len(one) <= max(states.embeds.shape[1], container.most_tokens)
    assert container.truncated_tails(["a red circle"]) == {}
    long = "circle " * 600
    (tail,) = container.truncated_tails([long]).values()
    assert 0 < len(tail) < len(long)


def test_a_word_s_tokens_are_those_that_its_encoder_reads(family: Family):
    container = family.container
    for name in container.text_encoders:
        tokenizer = getattr(container.pipeline, name.replace("text_encoder", "tokenizer"))
        row = tokenizer(["a red circle"]).input_ids[0]
        word = container.word_tokens("red", name)
        assert word
        assert any(row[at : at + len(word)] == word for at in range(len(row)))


def test_without_encoders_the_empty_prompt_and_drawing_go_on(family: Family, tmp_path: Path):
    save_tiny(family.name, tmp_path / "again")
    container = ModelCache("cpu", "float32").container(str(tmp_path / "again"))
    embeds, empty = container.encode_prompts(PROMPTS), container.empty_embeds()
    container.memory = None
    container.release_text_encoders()

    assert all(getattr(container.pipeline, name) is None for name in container.text_encoders)
    assert container.empty_embeds() is empty
    drawn = Family(family.name, family.case, container).draw(
        **container.pipeline_inputs(embeds, both(empty), SCALE)
    )
    assert drawn.shape == (2, 3, RESOLUTION, RESOLUTION)


def test_zeros_are_of_the_shape_of_a_prompt(family: Family):
    container = family.container
    row, zeros = container.encode_prompts(PROMPTS[:1]), container.zero_embeds()
    assert zeros.embeds.shape[2] == row.embeds.shape[2]
    assert zeros.embeds.shape[1] >= row.embeds.shape[1]
    assert (zeros.pooled is None) == (row.pooled is None)
    assert zeros.pooled is None or zeros.pooled.shape == row.pooled.shape
    latents = torch.randn(1, *container.latent_shape(RESOLUTION), generator=generator())
    assert container.predict(latents, torch.tensor(500.0), zeros).isfinite().all()


def test_layers_that_read_the_prompt_are_given_what_is_said(family: Family):
    container = family.container
    embeds = container.encode_prompts(PROMPTS[:1])
    layers = container.text_projections()
    assert layers
    seen: dict[str, Tensor] = {}
    hooks = [
        layer.register_forward_pre_hook(lambda _, args, name=name: seen.update({name: args[0]}))
        for name, layer in layers.items()
    ]
    latents = torch.randn(1, *container.latent_shape(RESOLUTION), generator=generator())
    with torch.no_grad():
        container.predict(latents, torch.tensor(500.0), embeds)
    for hook in hooks:
        hook.remove()
    (states,) = embeds.rows()
    expected = container.projected_states(states)
    for given in seen.values():
        torch.testing.assert_close(given.reshape(-1, given.shape[-1])[: len(states)], expected)


def test_the_layers_of_the_blocks_that_are_read_are_in_one_group(family: Family):
    container, denoiser = family.container, family.container.denoiser
    groups = container.adapter_targets()
    grouped = [name for names in groups.values() for name in names]
    latents = torch.randn(2, *container.latent_shape(RESOLUTION), generator=generator())
    denoiser.requires_grad_(True)
    embeds = container.encode_prompts(PROMPTS)
    container.predict(latents, torch.tensor(400.0), embeds).square().mean().backward()
    read = {
        name.removesuffix(".weight")
        for name, weight in denoiser.named_parameters()
        if weight.grad is not None and weight.grad.any()
    }
    denoiser.zero_grad()
    denoiser.requires_grad_(False)
    blocks = {
        name
        for name, module in denoiser.named_modules()
        if (isinstance(module, nn.Linear) and "blocks." in f"{name}.") or name.startswith("layers.")
    }

    assert len(grouped) == len(set(grouped))
    assert {n for n in blocks if isinstance(denoiser.get_submodule(n), nn.Linear)} & read == {
        name for name in grouped if name in blocks
    }
    assert set(grouped) <= read
    for group in ("self_attention", "feed_forward", "modulation"):
        assert groups[group]


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_lora_of_every_group_trains(family: Family, checkpointing: bool, tmp_path: Path):
    save_tiny(family.name, tmp_path / "again")
    container = ModelCache("cpu", "float32").container(str(tmp_path / "again"))
    groups = container.adapter_targets()
    targets = [name for group in GROUPS for name in groups.get(group, [])]
    denoiser = container.denoiser
    torch.manual_seed(0)
    denoiser.add_adapter(LoraConfig(r=2, target_modules=targets))
    assert container.adapter_targets() == groups
    assert container.dtype == torch.float32
    denoiser.train()
    if checkpointing:
        denoiser.enable_gradient_checkpointing()
    adapter = [p for p in denoiser.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(adapter, lr=1e-2)
    embeds = container.encode_prompts(PROMPTS)
    latents = torch.randn(2, *container.latent_shape(RESOLUTION), generator=generator())
    losses = []
    for _ in range(3):
        found = container.predict(latents, torch.tensor([300.0, 800.0]), embeds)
        loss = (found - 1).square().mean()
        optimizer.zero_grad()
        loss.backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in adapter)
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] > losses[1] > losses[2]
    assert all(p.any() for n, p in denoiser.named_parameters() if "lora_B" in n)


def test_blocks_that_wait_in_main_memory_compute_the_same(family: Family, tmp_path: Path):
    save_tiny(family.name, tmp_path / "again")
    container = ModelCache("cpu", "float32").container(str(tmp_path / "again"))
    embeds = container.encode_prompts(PROMPTS)
    latents = torch.randn(2, *container.latent_shape(RESOLUTION), generator=generator())
    timesteps = torch.tensor([300.0, 800.0])
    with torch.no_grad():
        expected = container.predict(latents, timesteps, embeds)
        moved = BlockOffload(container.denoiser, torch.device("cpu"))
        found = container.predict(latents, timesteps, embeds)
    assert torch.equal(found, expected)
    assert moved.num_copies >= 2, "no blocks were found"


def test_sd3_goes_without_t5(tmp_path: Path):
    save_tiny("sd3", tmp_path)
    index = json.loads((tmp_path / "model_index.json").read_text())
    index |= {"text_encoder_3": [None, None], "tokenizer_3": [None, None]}
    (tmp_path / "model_index.json").write_text(json.dumps(index))

    container = ModelCache("cpu", "float32").container(str(tmp_path))

    embeds = container.encode_prompts(PROMPTS)
    assert container.text_encoders == ("text_encoder", "text_encoder_2")
    assert not embeds.embeds[:, container.pipeline.tokenizer.model_max_length :].any()
    assert embeds.embeds.shape[1:] == container.zero_embeds().embeds.shape[1:]
    (row,) = container.tokenize(["a red circle"])
    assert len(row) == container.pipeline.tokenizer.model_max_length == container.most_tokens
