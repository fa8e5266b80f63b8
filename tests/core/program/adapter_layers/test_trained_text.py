"""Text encoders that are trained: their gradients, their strength, and what becomes of a run."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from program_runs import adapter_hashes, events, new_run, run_here, shape_slider, stop_after
from tiny_adapters import fresh

from loba_tui.core.associate.containers.base import ModelContainer
from loba_tui.core.associate.embeds import PromptEmbeds
from loba_tui.core.associate.model_cache import ModelCache
from loba_tui.core.errors import RecipeError
from loba_tui.core.plugins import SHIPPED
from loba_tui.core.program.adapter_files.read.read import read_adapter_file
from loba_tui.core.program.adapter_layers.text_encoders import attach_text_adapters
from loba_tui.core.program.adapter_layers.trained_text import TrainedText
from loba_tui.core.program.serving.requests import serve
from loba_tui.core.program.steering.components import Components
from loba_tui.core.program.training.checkpoint import CheckpointStore
from loba_tui.core.program.training.parameter_groups import parameter_groups
from loba_tui.core.recipe.load import dump_recipe, parse_recipe
from loba_tui.core.recipe.schema import AdapterSection, Recipe
from loba_tui.core.run.control import Command
from loba_tui.core.run.directory import RunDir
from loba_tui.core.run.launch import Request
from loba_tui.core.run.writer import NullWriter, RunWriter

PROMPTS = ["a red circle", "a square"]
TEXT = {"name": "lora", "rank": 2, "text_encoders": {"rank": 3, "alpha": 6, "lr": 0.01}}


@pytest.fixture
def container(tiny_sdxl_folder: Path) -> ModelContainer:
    made = fresh(tiny_sdxl_folder)
    for name in made.text_encoders:
        setattr(made.pipeline, name, copy.deepcopy(getattr(made.pipeline, name)))
    return made


@pytest.fixture
def text(container: ModelContainer) -> TrainedText:
    encoders = attach_text_adapters(AdapterSection(**TEXT), container, seed=0)
    return TrainedText(container, encoders)


def move(text: TrainedText, seed: int = 0) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in text.parameters().values():
        parameter.data += 0.2 * torch.randn(parameter.shape, generator=generator)


def test_at_strength_0_an_encoder_is_the_bases_bit_by_bit(
    container: ModelContainer,
) -> None:
    base = container.encode_prompts(PROMPTS)
    text = TrainedText(container, attach_text_adapters(AdapterSection(**TEXT), container, seed=0))
    move(text)
    at_0, at_1 = text.of_student(base, 0.0), text.of_student(base, 1.0)
    assert torch.equal(at_0.embeds, base.embeds)
    assert torch.equal(at_0.pooled, base.pooled)
    assert not torch.allclose(at_1.embeds, base.embeds)
    assert not torch.allclose(at_1.pooled, base.pooled)


def test_each_row_is_encoded_at_its_own_strength_in_its_place(text: TrainedText) -> None:
    move(text)
    nothing = text.container.zero_embeds().of(None)
    rows = text.container.encode_prompts([PROMPTS[0], PROMPTS[1], PROMPTS[0]])
    given = type(rows).cat([rows[:2], nothing, rows[2]])
    made = text.of_student(given, torch.tensor([1.0, -1.0, 1.0, -1.0]))
    for row, (prompt, strength) in {
        0: (PROMPTS[0], 1.0),
        1: (PROMPTS[1], -1.0),
        3: (PROMPTS[0], -1.0),
    }.items():
        alone = text.encode([prompt], strength)[0]
        torch.testing.assert_close(made.embeds[row], alone.embeds[0])
        torch.testing.assert_close(made.pooled[row], alone.pooled[0])
    assert torch.equal(made.embeds[2], nothing.embeds[0])


def test_gradients_reach_every_layer_of_both_encoders(text: TrainedText) -> None:
    move(text)
    rows = text.container.encode_prompts(PROMPTS)
    made = text.of_student(rows, torch.tensor([1.0, -2.0]))
    (made.embeds.square().mean() + made.pooled.square().mean()).backward()
    parameters = text.parameters()
    assert {name.partition(".")[0] for name in parameters} == {"text_encoder", "text_encoder_2"}
    without = {n for n, p in parameters.items() if p.grad is None or not p.grad.any()}
    # SD-XL reads the last state but one: the first encoder's last layer is asked for nothing.
    last = text.container.pipeline.text_encoder.config.num_hidden_layers - 1
    ours = f"text_encoder.encoder.layers.{last}."
    assert without == {n for n in parameters if n.replace(".text_model.", ".").startswith(ours)}


def test_rows_that_nobody_knows_the_prompts_of_are_refused(text: TrainedText) -> None:
    rows = replace(text.container.encode_prompts(PROMPTS), texts=())
    with pytest.raises(RecipeError, match="embeddings of no prompt"):
        text.of_student(rows, 1.0)


def test_trained_encoders_are_never_dropped(text: TrainedText) -> None:
    text.container.release_text_encoders()
    assert text.container.pipeline.text_encoder is text.encoders["text_encoder"]


def test_encoders_that_are_trained_are_neither_unloaded_nor_offloaded(text: TrainedText) -> None:
    cache = ModelCache("cpu")
    components = Components(cache, "model", text.container, NullWriter())
    for kind in ("unload", "offload"):
        with pytest.raises(RecipeError, match="training needs text_encoder_2 at every step"):
            components.obey(Command(kind, {"component": "text_encoder_2"}))


def text_slider(**sections: Any) -> Recipe:
    chosen = {
        "adapter": TEXT,
        "optimizer": {"name": "adamw", "lr": 0.004},
        "train": {"steps": 4, "batch_size": 2},
        "sample": {"prompts": ["a shape"], "scales": [-2, 0, 2], "steps": 2},
        "proof": {"enabled": False},
    }
    return shape_slider(2, **{**chosen, **sections})


def test_the_encoders_have_a_rate_of_their_own_and_no_layer_scheduler() -> None:
    recipe = text_slider()
    own = {"up_blocks.0.lora_A.weight": torch.nn.Parameter(torch.ones(2))}
    in_text = {"text_encoder.x.lora_A.weight": torch.nn.Parameter(torch.ones(2))}
    groups, factors, trained = parameter_groups(recipe, own, SHIPPED, in_text)
    assert list(trained) == [*own, *in_text]
    assert factors == [1.0, pytest.approx(0.01 / 0.004)]
    assert [len(group["params"]) for group in groups] == [1, 1]


@pytest.mark.slow
def test_a_run_trains_them_and_its_file_draws_what_it_drew(tmp_path: Path) -> None:
    recipe = text_slider(proof={"prompts": ["a shape"]})
    run_dir = run_here(recipe, new_run(recipe, tmp_path))
    file = read_adapter_file(run_dir.adapter)
    assert {layer.component for layer in file.layers} == {"unet", "text_encoder", "text_encoder_2"}
    assert not file.keys.unused
    (measured,) = events(run_dir, "measured")
    assert any("alignment" in line for line in measured["verdict"])

    again = RunDir.create(tmp_path, "again")
    request = Request(
        "sample", str(run_dir.adapter.path), None, str(again.path), recipe=dump_recipe(recipe)
    )
    with RunWriter.open(again) as writer:
        serve(request, writer, SHIPPED)
    drawn = events(again, "sampled")[0]["path"]
    theirs, ours = (
        np.asarray(Image.open(path).convert("RGB"), dtype=np.int16)
        for path in (run_dir.sample_strip(4).path, drawn)
    )
    assert theirs.shape == ours.shape
    assert np.abs(theirs - ours).max() <= 2


@pytest.mark.slow
def test_an_eraser_with_anchors_of_no_prompt_trains_them_too(tmp_path: Path) -> None:
    recipe = text_slider(train={"steps": 2, "batch_size": 2})
    concepts = [{"target": "a circle"}]
    method = {"name": "leco", "concepts": concepts, "rollout_steps": 2, "anchor_weight": 1.0}
    given = {**recipe.model_dump(mode="json", exclude_unset=True), "method": method}
    eraser = parse_recipe(given, plugins=SHIPPED)
    run_dir = run_here(eraser, new_run(eraser, tmp_path))
    assert read_adapter_file(run_dir.adapter).text_encoder_layers


@pytest.mark.slow
@pytest.mark.parametrize("ema", [None, {"decay": 0.5}])
def test_it_resumes_bit_by_bit(tmp_path: Path, ema: Any) -> None:
    recipe = text_slider(
        train={"steps": 4, "batch_size": 2, "ema": ema}, save={"every": 2, "keep": 9}
    )
    whole = run_here(recipe, new_run(recipe, tmp_path))
    broken = new_run(recipe, tmp_path)
    stop_after(2, recipe, broken)
    checkpoint, _ = CheckpointStore(broken.checkpoints).load_newest()
    assert checkpoint is not None
    assert checkpoint.step == 2
    assert any(name.startswith("text_encoder_2.") for name in checkpoint.tensors["adapter"])
    run_here(recipe, broken, resume=True)
    assert adapter_hashes(broken) == adapter_hashes(whole)


def held(steps: int = 4, **sections: Any) -> Recipe:
    """Return a slider that begins in text space, whose text encoders stay as they begin."""
    recipe = text_slider(train={"steps": steps, "batch_size": 2}, **sections)
    given = recipe.model_dump(mode="json", exclude_unset=True)
    given["method"] |= {"warm_start": "text_space", "text_strength": 0.4}
    given["adapter"]["text_encoders"] = {"lr": 0, "rank": 1, "alpha": 1, "layers": ["mlp"]}
    return parse_recipe(given, plugins=SHIPPED)


def in_text_of(run_dir: RunDir) -> dict[tuple[str, str], torch.Tensor]:
    layers = read_adapter_file(run_dir.adapter).layers
    return {
        (layer.component, layer.module): layer.weight.dense()
        for layer in layers
        if layer.component != "unet"
    }


@pytest.mark.slow
def test_text_encoders_that_are_held_stay_the_text_space_slider(tmp_path: Path) -> None:
    recipe = held(save={"every": 2})
    whole, broken = (new_run(recipe, tmp_path) for _ in range(2))
    run_here(recipe, whole)
    shorter = held(steps=1)
    begun = in_text_of(run_here(shorter, new_run(shorter, tmp_path)))
    kept = in_text_of(whole)
    assert {where for where, weight in begun.items() if weight.any()} == {
        ("text_encoder", "text_model.encoder.layers.0.mlp.fc2"),
        ("text_encoder_2", "text_model.encoder.layers.1.mlp.fc2"),
    }
    assert all(torch.equal(weight, begun[where]) for where, weight in kept.items())
    assert any(layer.weight.dense().any() for layer in read_adapter_file(whole.adapter).layers
               if layer.component == "unet")  # fmt: skip
    stop_after(2, recipe, broken)
    run_here(recipe, broken, resume=True)
    assert adapter_hashes(broken) == adapter_hashes(whole)


def test_held_encoders_are_asked_once_and_without_gradients(
    text: TrainedText, container: ModelContainer
) -> None:
    move(text)
    fixed = replace(text, is_held=True)
    rows = PromptEmbeds.cat([container.encode_prompts([prompt]) for prompt in PROMPTS])
    first = fixed.of_student(rows, torch.tensor([1.0, -1.0]))
    assert not first.embeds.requires_grad
    wanted = [fixed.encode([p], m)[0].embeds for p, m in zip(PROMPTS, (1.0, -1.0), strict=True)]
    assert torch.equal(first.embeds, torch.cat(wanted))
    move(text, seed=1)  # what is held is not looked at again
    assert torch.equal(fixed.of_student(rows, torch.tensor([1.0, -1.0])).embeds, first.embeds)


@pytest.mark.slow
def test_a_run_begins_with_the_text_encoders_of_a_file(tmp_path: Path) -> None:
    recipe = text_slider()
    first = run_here(recipe, new_run(recipe, tmp_path))
    begun_with = {"init_from": str(first.path), "text_encoders": {"rank": 3, "alpha": 6}}
    more = text_slider(adapter={**TEXT, **begun_with}, optimizer={"name": "adamw", "lr": 1e-12})
    # At next to no learning rate the second one ends where the first has ended.
    second = run_here(more, new_run(more, tmp_path))
    one, other = (read_adapter_file(each.adapter) for each in (first, second))
    assert {(a.component, a.module) for a in one.layers} == {
        (b.component, b.module) for b in other.layers
    }
    by_place = {(b.component, b.module): b.weight for b in other.layers}
    for layer in one.layers:
        same = by_place[layer.component, layer.module]
        torch.testing.assert_close(same.dense(), layer.weight.dense(), atol=1e-5, rtol=1e-4)
    (begun,) = events(second, "init_from")
    assert begun["fresh"] == 0
    assert begun["unused"] == 0


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({"adapter": {**TEXT, "name": "loha"}}, "loha has no place for the text encoders' LoRA"),
        ({"method": "uce"}, "computes its adapter and trains no text encoder"),
        ({"base_model": "sequential"}, "base_model.offload"),
        ({"adapter": {"text_encoders": {"layers": []}}}, "adapter.text_encoders.layers"),
        ({"adapter": {"text_encoders": {"lr": -1}}}, "adapter.text_encoders.lr"),
        ({"adapter": {"text_encoders": {"lr": 0}}}, "add method.warm_start: text_space"),
        ({"warm_start": "text_space"}, "text_space goes into the text encoders"),
        ({"adapter": {"text_encoders": {"rate": 1}}}, "adapter.text_encoders.rate"),
        ({"optimizer": {"name": "prodigy", "lr": 1.0}}, "prodigy has one learning rate"),
    ],
)
def test_what_they_cannot_be_trained_with_is_said(sections: dict[str, Any], said: str) -> None:
    recipe: dict[str, Any] = {
        "version": 1,
        "base_model": {"id": "builtin:shapes-xl"},
        "method": {"name": "text_slider", "concepts": [
            {"target": "a shape", "positive": "large", "negative": "small"}
        ]},
        "adapter": TEXT,
    }  # fmt: skip
    if "method" in sections:
        recipe["method"] = {"name": "uce", "concepts": [{"target": "a circle"}]}
    elif "warm_start" in sections:
        recipe["method"] |= sections
        recipe["adapter"] = {"name": "lora"}
    elif "base_model" in sections:
        recipe["base_model"]["offload"] = "model"
    else:
        recipe |= sections
    with pytest.raises(RecipeError, match=said):
        parse_recipe(recipe, plugins=SHIPPED)
