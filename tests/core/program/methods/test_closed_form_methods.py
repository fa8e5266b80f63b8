"""The methods that compute their adapter, against dense algebra on the model's own layers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from loba_tui.core.associate.containers.base import ModelContainer
from loba_tui.core.associate.model_cache import ModelCache
from loba_tui.core.errors import RecipeError
from loba_tui.core.plugins import SHIPPED
from loba_tui.core.program.closed_form.prompt_states import Pair, PromptStates, text_projections
from loba_tui.core.program.closed_form.slider import slider_pairs
from loba_tui.core.program.closed_form.solution import Solver, SolverParts
from loba_tui.core.recipe.schema import Concept

RED = [
    Concept(
        target=f"a red {shape}",
        neutral=f"a blue {shape}",
        preserve=(f"a green {shape}", f"a pink {shape}"),
    )
    for shape in ("circle", "square")
]
MEDIUM = [
    Concept(target="a medium circle", positive="a large circle", negative="a small circle"),
]
SIZE = [
    Concept(
        target=f"a {color} circle",
        positive=f"a large {color} circle",
        negative=f"a small {color} circle",
        guidance=0.7,
    )
    for color in ("red", "blue")
]


@pytest.fixture(scope="module")
def container(tiny_folder: Path) -> ModelContainer:
    container = ModelCache("cpu", torch.float32).container(str(tiny_folder))
    container.denoiser.requires_grad_(False)
    return container


def parts_of(container: ModelContainer, concepts: Sequence[Concept]) -> SolverParts:
    prompts = {
        prompt: container.encode_prompts([prompt])
        for concept in concepts
        for prompt in (
            *(concept.target, concept.positive, concept.negative, concept.neutral),
            *concept.preserve,
        )
        if prompt is not None
    }
    return SolverParts(container, list(concepts), prompts, seed=0)


def solver(
    name: str, container: ModelContainer, concepts: Sequence[Concept], **options: Any
) -> Solver:
    made: Solver = SHIPPED.load("methods", name)(parts_of(container, concepts), **options)
    return made


def words(container: ModelContainer, prompt: str, *positions: int) -> torch.Tensor:
    """Return the hidden states (N, D) of a prompt at these positions."""
    return container.encode_prompts([prompt]).embeds[0, list(positions)].double()


def test_uce_is_the_dense_closed_form_in_every_layer_that_reads_the_prompt(
    container: ModelContainer,
) -> None:
    solution = solver("uce", container, RED).solve()
    c = torch.cat([words(container, concept.target, 2) for concept in RED])
    g = torch.cat([words(container, str(concept.neutral), 2) for concept in RED])
    # Start token once, then every word and the end token.
    kept = [words(container, "a green circle", 0)]
    kept += [words(container, p, 1, 2, 3, 4) for concept in RED for p in concept.preserve]
    r = torch.cat(kept)
    m2 = 0.5 * torch.eye(c.shape[1]).double() + c.T @ c + r.T @ r
    modules = text_projections(container)
    assert solution.layers.keys() == modules.keys()
    assert len(modules) == 2 * sum(
        name.endswith("attn2") for name, _ in container.denoiser.named_modules()
    )
    for name, module in modules.items():
        w = module.weight.detach().double()
        m1 = 0.5 * w + (w @ g.T) @ c + (w @ r.T) @ r
        expected = m1 @ torch.linalg.inv(m2) - w
        layer = solution.layers[name]
        error = torch.linalg.norm(layer.up.double() @ layer.down.double() - expected)
        assert float(error / torch.linalg.norm(expected)) <= 1e-5


def test_one_word_is_one_rank_because_its_state_depends_on_what_came_before_alone(
    container: ModelContainer,
) -> None:
    made = solver("uce", container, RED)
    assert {layer.rank for layer in made.solve().layers.values()} == {1}
    assert set(made.most_ranks().values()) == {1}


@pytest.mark.parametrize("tokens", ["concept", "prompt", "all"])
def test_no_update_has_more_rank_than_was_told_beforehand(
    container: ModelContainer, tokens: str
) -> None:
    for made in (
        solver("uce", container, RED, tokens=tokens, rece_rounds=2),
        solver("instant_slider", container, MEDIUM, tokens=tokens),
        solver("instant_slider", container, MEDIUM, tokens=tokens, rank=1),
    ):
        most = made.most_ranks()
        ranks = {name: layer.rank for name, layer in made.solve().layers.items()}
        assert ranks.keys() == most.keys()
        assert all(0 < rank <= most[name] for name, rank in ranks.items())


def test_guidance_says_how_far_the_concept_is_taken_towards_the_guide(
    container: ModelContainer,
) -> None:
    half = [RED[0].model_copy(update={"guidance": 0.5, "preserve": ()})]
    solution = solver("uce", container, half, identity_weight=1e-6).solve()
    c, g = words(container, "a red circle", 2), words(container, "a blue circle", 2)
    for name, module in text_projections(container).items():
        w, layer = module.weight.detach().double(), solution.layers[name]
        edited = w + layer.up.double() @ layer.down.double()
        torch.testing.assert_close(
            edited @ c.T, w @ (c + g).T / 2, rtol=1e-3, atol=1e-4 * float(w.abs().max())
        )


def test_rece_finds_what_revives_the_concept_and_edits_that_too(container: ModelContainer) -> None:
    plain = solver("uce", container, RED).solve()
    hardened = solver("uce", container, RED, rece_rounds=2).solve()
    assert hardened.figures["states"] == 3 * plain.figures["states"]
    assert max(la.rank for la in hardened.layers.values()) > max(
        la.rank for la in plain.layers.values()
    )


def test_the_instant_slider_moves_neutral_prompts_between_negative_and_positive(
    container: ModelContainer,
) -> None:
    solution = solver("instant_slider", container, SIZE, identity_weight=1e-6).solve()
    for concept in SIZE:
        # The words that come after "large" and "small", and the end token, have read them.
        own = words(container, concept.target, 2, 3, 4)
        up = words(container, str(concept.positive), 3, 4, 5)
        down = words(container, str(concept.negative), 3, 4, 5)
        for name, module in text_projections(container).items():
            w, layer = module.weight.detach().double(), solution.layers[name]
            moved = own @ (layer.up.double() @ layer.down.double()).T
            wanted = 0.7 * (up - down) @ w.T
            assert float((moved - wanted).norm() / wanted.norm()) < 1e-3


def test_a_concept_without_a_difference_is_the_recipes_error(container: ModelContainer) -> None:
    same = [Concept(target="a circle", neutral="a circle")]
    with pytest.raises(RecipeError, match="none of the prompts' tokens"):
        solver("uce", container, same).solve()


def test_padding_counts_only_where_it_is_asked_for(container: ModelContainer) -> None:
    pair = Pair("a red circle", towards="a blue circle")
    embeds = {p: container.encode_prompts([p]) for p in (pair.prompt, pair.towards)}
    sizes = {
        tokens: len(PromptStates(container, embeds, tokens).edit([pair]).states)  # type: ignore[arg-type]
        for tokens in ("concept", "prompt", "all")
    }
    length = embeds[pair.prompt].embeds.shape[1]
    assert sizes == {"concept": 1, "prompt": 4, "all": length - 1}


def test_the_neutral_prompt_is_what_an_instant_slider_edits() -> None:
    concept = SIZE[0].model_copy(update={"neutral": "a circle"})
    assert [pair.prompt for pair in slider_pairs([SIZE[0], concept])] == [
        "a red circle",
        "a circle",
    ]
