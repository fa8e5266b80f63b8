"""Text-space sliders: what biases and a LoRA of text encoders do, against the direction itself."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from program_runs import events, new_run, run_here
from safetensors.torch import load_file
from tiny_adapters import fresh

from loba_tui.core.associate.containers.base import ModelContainer
from loba_tui.core.associate.embeds import PromptEmbeds
from loba_tui.core.errors import RecipeError
from loba_tui.core.owned_files import OwnedFolder
from loba_tui.core.plugins import SHIPPED
from loba_tui.core.program.adapter_files.read.read import read_adapter_file
from loba_tui.core.program.adapter_files.text_encoders import TextAdapters
from loba_tui.core.program.adapter_layers.added import host_named
from loba_tui.core.program.closed_form import text_direction
from loba_tui.core.program.closed_form.solution import SolverParts
from loba_tui.core.program.closed_form.solved_text import BIAS_NAME, SolvedText
from loba_tui.core.program.closed_form.text_direction import Direction
from loba_tui.core.recipe.load import parse_recipe
from loba_tui.core.recipe.sections.method import Concept

CONCEPTS = [
    Concept(target=f"a {c} circle", positive=f"a large {c} circle", negative=f"a small {c} circle")
    for c in ("red", "green", "blue")
]
OTHERS = ["a yellow cross on a gray background", "a square", ""]


def solver_of(container: ModelContainer, **options: Any) -> Any:
    named = [p for c in CONCEPTS for p in (c.target, c.positive, c.negative) if p is not None]
    embeds = {prompt: container.encode_prompts([prompt]) for prompt in named}
    parts = SolverParts(container, CONCEPTS, embeds, 0)
    return SHIPPED.load("methods", "text_space_slider")(parts, **options)


def length(difference: PromptEmbeds, other: PromptEmbeds) -> tuple[float, float]:
    """Return the largest difference of states, and that of pooled states."""
    states = float((difference.embeds - other.embeds).abs().max())
    if difference.pooled is None or other.pooled is None:
        return states, 0.0
    return states, float((difference.pooled - other.pooled).abs().max())


@pytest.fixture(params=["sdxl", "sd1"])
def container(
    request: pytest.FixtureRequest, tiny_sdxl_folder: Path, tiny_sd_folder: Path
) -> ModelContainer:
    return fresh(tiny_sdxl_folder if request.param == "sdxl" else tiny_sd_folder)


def written(container: ModelContainer, folder: Path) -> tuple[Direction, SolvedText, float]:
    solver = solver_of(container)
    solution = solver.solve()
    text = SolvedText(container, solution.text)
    folder.mkdir(exist_ok=True)
    text.write(OwnedFolder(folder), {})
    return solver.direction(), text, solution.figures["lora_error"]


@torch.no_grad()
def test_biases_are_the_direction_itself_for_every_prompt(
    container: ModelContainer, tmp_path: Path
) -> None:
    direction, _, _ = written(container, tmp_path)
    file = read_adapter_file(tmp_path / BIAS_NAME)
    assert not file.keys.unused
    for strength in (1.0, -2.5):
        moved = TextAdapters(container, [(file, 1.0)]).encode(OTHERS, strength)
        for prompt, row in zip(OTHERS, moved, strict=True):
            wanted = direction.moved(container.encode_prompts([prompt]), strength)
            assert length(row, wanted)[0] <= 1e-5


@torch.no_grad()
def test_the_lora_is_as_far_from_it_as_is_said(container: ModelContainer, tmp_path: Path) -> None:
    direction, text, said = written(container, tmp_path)
    assert said < 0.5
    prompts = [prompt for concept in CONCEPTS for prompt in (concept.target, concept.positive)]
    wrong = whole = 0.0
    for prompt, row in zip(prompts, text.encode([str(p) for p in prompts], 1.0), strict=True):
        base = container.encode_prompts([str(prompt)])
        wrong += float((row.embeds - direction.moved(base, 1.0).embeds).double().square().sum())
        whole += float(direction.states.square().sum()) * row.embeds.shape[1]
    # Half of what the figure is of are the same prompts with other words in them.
    assert (wrong / whole) ** 0.5 <= 1.5 * said + 1e-4


@torch.no_grad()
@pytest.mark.parametrize("name", ["adapter.safetensors", "adapter.kohya.safetensors"])
def test_diffusers_loads_the_lora_and_encodes_as_we_do(
    container: ModelContainer, tmp_path: Path, name: str
) -> None:
    _, text, _ = written(container, tmp_path)
    (ours,) = text.encode(OTHERS[:1], 1.0)
    for component in container.text_encoders:
        encoder = copy.deepcopy(getattr(container.pipeline, component))
        setattr(container.pipeline, component, encoder)
    container.pipeline.load_lora_weights(str(tmp_path), weight_name=name)
    states, pooled = length(container.encode_prompts(OTHERS[:1]), ours)
    assert states <= 1e-5
    assert pooled <= 1e-5


@torch.no_grad()
def test_the_mean_pooled_state_moves_as_the_direction_has_it(
    tiny_sdxl_folder: Path, tmp_path: Path
) -> None:
    container = fresh(tiny_sdxl_folder)
    direction, _, _ = written(container, tmp_path)
    assert direction.pooled is not None
    prompts = [p for c in CONCEPTS for p in (c.target, c.positive, c.negative) if p is not None]
    base = container.encode_prompts(prompts).pooled
    for name in (BIAS_NAME, "adapter.safetensors"):
        adapters = TextAdapters(container, [(read_adapter_file(tmp_path / name), 1.0)])
        up, down = (
            torch.cat([row.pooled for row in adapters.encode(prompts, s)]) for s in (1.0, -1.0)
        )
        half = ((up - down) / 2).double().mean(0)
        share = float((half - direction.pooled).norm() / direction.pooled.norm())
        assert share <= 0.15
        assert not torch.allclose(up, base)


@torch.no_grad()
def test_a_row_behind_a_norm_answers_every_input_alike(tiny_sdxl_folder: Path) -> None:
    container = fresh(tiny_sdxl_folder)
    container.pipeline.text_encoder_2 = copy.deepcopy(container.pipeline.text_encoder_2)
    norm = host_named(container.pipeline.text_encoder_2, "text_model.final_layer_norm")
    norm.weight.uniform_(0.5, 2)  # as training leaves it
    norm.bias.uniform_(0.1, 0.5)
    update = solver_of(container).solve().text.lora["text_encoder_2"]["text_projection"]
    inputs = norm(5 * torch.randn(50, norm.normalized_shape[0]))
    answers = inputs @ update.down[0]
    torch.testing.assert_close(answers, torch.ones_like(answers), rtol=1e-3, atol=1e-3)


def test_a_fitted_row_answers_with_1_in_the_mean_and_nearest_where_most_weight_is() -> None:
    inputs = torch.randn(300, 20, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    heavy = torch.arange(300) < 15
    weights = torch.where(heavy, 0.9 / 15, 0.1 / 285).double()
    answers = inputs @ text_direction._fitted_row(inputs, weights)
    assert float(weights @ answers) == pytest.approx(1)
    wrong = (answers - 1).square()
    assert float(wrong[heavy].mean()) < 0.2 * float(wrong[~heavy].mean())


def test_start_words_end_and_padding_have_their_shares_of_a_fit(tiny_sdxl_folder: Path) -> None:
    tokenizer = fresh(tiny_sdxl_folder).pipeline.tokenizer
    draw = torch.Generator().manual_seed(0)
    ids = torch.full((3, 16), tokenizer.pad_token_id)
    rows = text_direction._of_random_words(ids, tokenizer, draw)
    assert bool((rows[:, 0] == tokenizer.bos_token_id).all())
    ends = text_direction._ends(rows, tokenizer)[:, 0].tolist()
    assert {2, 13} <= set(ends)
    weights = text_direction._weights(rows, tokenizer).view(rows.shape)
    words = sum(float(row[1:end].sum()) for row, end in zip(weights, ends, strict=True))
    padding = sum(float(row[end + 1 :].sum()) for row, end in zip(weights, ends, strict=True))
    found = [float(weights[:, 0].sum()), words, padding, float(weights.sum())]
    assert found == pytest.approx([0.1, 0.5, 0.2, 1.0])


@pytest.mark.parametrize("align", ["tokens", "padded", "end", "mean"])
@pytest.mark.parametrize("aggregate", ["mean", "principal"])
def test_each_way_to_find_a_direction_gives_one(
    tiny_sdxl_folder: Path, align: str, aggregate: str
) -> None:
    solver = solver_of(fresh(tiny_sdxl_folder), align=align, aggregate=aggregate)
    one, half = solver.direction(), None
    half = solver_of(
        fresh(tiny_sdxl_folder), align=align, aggregate=aggregate, strength=0.25
    ).direction()
    assert float(one.states.norm()) > 0
    torch.testing.assert_close(2 * half.states, one.states)


def test_no_share_for_the_pooled_state_leaves_it_out(tiny_sdxl_folder: Path) -> None:
    direction = solver_of(fresh(tiny_sdxl_folder), pooled=0.0).direction()
    assert direction.pooled is not None
    assert not direction.pooled.any()


def recipe_of(**concept: str) -> Any:
    return parse_recipe(
        {
            "version": 1,
            "base_model": {"id": "builtin:shapes-xl", "device": "cpu"},
            "method": {"name": "text_space_slider", "concepts": [concept]},
            "sample": {"prompts": ["a shape"], "scales": [-1, 0, 1], "steps": 2},
            "proof": {"prompts": ["a circle"]},
        },
        plugins=SHIPPED,
    )


@pytest.mark.slow
def test_a_run_writes_three_files_and_proves_them(tmp_path: Path) -> None:
    recipe = recipe_of(target="a shape", positive="a large shape", negative="a small shape")
    run_dir = run_here(recipe, new_run(recipe, tmp_path))
    names = {path.name for path in run_dir.adapter_dir.path.glob("*.safetensors")}
    assert names == {"adapter.safetensors", "adapter.kohya.safetensors", BIAS_NAME}
    assert (run_dir.adapter_dir.path / BIAS_NAME).stat().st_size <= 16 * 1024
    kohya = load_file(run_dir.adapter_kohya.path)
    assert {key.split("_text_")[0] for key in kohya} == {"lora_te1", "lora_te2"}
    (measured,) = events(run_dir, "measured")
    assert any("alignment" in line for line in measured["verdict"])
    again = run_here(recipe, new_run(recipe, tmp_path))
    assert again.adapter.path.read_bytes() == run_dir.adapter.path.read_bytes()


@pytest.mark.slow
def test_prompts_that_say_the_same_are_refused(tmp_path: Path) -> None:
    # What differs stands behind the last token that is read.
    words = "a shape" + " on a gray background" * 12
    recipe = recipe_of(target="a shape", positive=f"{words} large", negative=f"{words} small")
    with pytest.raises(RecipeError, match="say the same"):
        run_here(recipe, new_run(recipe, tmp_path))
