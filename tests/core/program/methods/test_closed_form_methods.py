"""The methods that compute their adapter, against dense algebra on the model's own layers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from loba_tui.core.associate.containers.base import ModelContainer
from loba_tui.core.associate.model_cache import ModelCache
from loba_tui.core.errors import RecipeError
from loba_tui.core.plugins import SHIPPED
from loba_tui.core.program.closed_form.linear_edit import gram, least_heard
from loba_tui.core.program.closed_form.prompt_states import Pair, PromptStates
from loba_tui.core.program.closed_form.slider import slider_pairs
from loba_tui.core.program.closed_form.solution import Solution, Solver, SolverParts
from loba_tui.core.recipe.sections.method import Concept

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
    prompts[""] = container.encode_prompts([""])
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
    modules = container.text_projections()
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


@pytest.mark.parametrize("tokens", ["concept", "end", "prompt", "all"])
def test_no_update_has_more_rank_than_was_told_beforehand(
    container: ModelContainer, tokens: str
) -> None:
    for made in (
        solver("uce", container, RED, tokens=tokens, rece_rounds=2),
        solver("speed", container, RED, tokens=tokens, keep_empty=False),
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
    for name, module in container.text_projections().items():
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
        for name, module in container.text_projections().items():
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
        for tokens in ("concept", "end", "prompt", "all")
    }
    length = embeds[pair.prompt].embeds.shape[1]
    assert sizes == {"concept": 1, "end": 2, "prompt": 4, "all": length - 1}


def test_the_end_token_is_edited_towards_that_of_the_guide(container: ModelContainer) -> None:
    pair = Pair("a red circle", towards="a large blue circle")
    embeds = {p: container.encode_prompts([p]) for p in (pair.prompt, pair.towards)}
    edit = PromptStates(container, embeds, "end").edit([pair])
    torch.testing.assert_close(edit.states, words(container, pair.prompt, 2, 4))
    torch.testing.assert_close(edit.guides, words(container, pair.towards, 3, 5))


def answers(
    container: ModelContainer, solution: Solution, states: torch.Tensor
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield what each layer makes of states (N, D), before and after."""
    for name, module in container.text_projections().items():
        w, layer = module.weight.detach().double(), solution.layers[name]
        yield states @ w.T, states @ (w + layer.up.double() @ layer.down.double()).T


def all_words(container: ModelContainer) -> torch.Tensor:
    prompts = dict.fromkeys(p for concept in RED for p in concept.preserve)
    return torch.cat([words(container, p, 0, 1, 2, 3, 4) for p in prompts])


def test_speed_answers_retained_states_as_before_and_erased_ones_as_their_guides(
    container: ModelContainer,
) -> None:
    options = {"influence": 0.0, "keep_empty": False, "edit_weight": 1e8}
    solution = solver("speed", container, RED, **options).solve()
    for before, after in answers(container, solution, all_words(container)):
        assert float((after - before).norm() / before.norm()) <= 1e-6
    erased = torch.cat([words(container, concept.target, 2) for concept in RED])
    guides = torch.cat([words(container, str(concept.neutral), 2) for concept in RED])
    wanted = answers(container, solution, guides)
    for (before, after), (guide, _) in zip(
        answers(container, solution, erased), wanted, strict=True
    ):
        assert float((after - guide).norm() / (guide - before).norm()) <= 1e-4
    # Both concepts are one word in one place: one state, one rank.
    assert {layer.rank for layer in solution.layers.values()} == {1}
    assert solution.figures["retained_moved"] <= 1e-12
    assert solution.figures["unsolved"] <= 1e-4


def test_speed_has_no_more_ranks_than_concepts(container: ModelContainer) -> None:
    colours = ("red", "green", "pink", "yellow")
    concepts = [
        Concept(target=f"a {c} {s}", neutral=f"a blue {s}", preserve=(f"a cyan {s}",))
        for c in colours
        for s in ("circle", "square")
    ]
    solution = solver("speed", container, concepts, keep_empty=False).solve()
    assert {layer.rank for layer in solution.layers.values()} == {len(colours)}


def test_the_words_that_speed_retains_are_those_that_the_edit_would_move(
    container: ModelContainer,
) -> None:
    counts = [
        solver("speed", container, RED, keep_empty=False, influence=i).solve().figures["retained"]
        for i in (0.0, 1.0, 100.0)
    ]
    # All words and the start; some; the start alone.
    assert counts[0] == len(RED) * len(RED[0].preserve) * 4 + 1
    assert counts[0] > counts[1] > counts[2] == 1
    solution = solver("speed", container, RED, keep_empty=False, influence=100.0).solve()
    for before, after in answers(container, solution, words(container, "a red circle", 0)):
        assert float((after - before).norm() / before.norm()) <= 1e-6


def test_speed_holds_the_padding_of_what_it_preserves(container: ModelContainer) -> None:
    padding = words(container, "a green circle", *range(5, 20))
    moved = []
    for weight in (0.0, 10.0):
        made = solver("speed", container, RED, keep_empty=False, preserve_weight=weight).solve()
        moved.append(sum(float((b - a).norm()) for a, b in answers(container, made, padding)))
    assert moved[1] < 0.5 * moved[0]


def test_uce_holds_the_padding_of_what_it_preserves_where_it_is_told_to(
    container: ModelContainer,
) -> None:
    padding = words(container, "a green circle", *range(5, 20))
    plain, held = (
        sum(
            float((b - a).norm())
            for a, b in answers(
                container, solver("uce", container, RED, **options).solve(), padding
            )
        )
        for options in ({}, {"preserve_tokens": "all"})
    )
    assert held < 0.5 * plain
    same = solver("uce", container, RED, preserve_tokens="prompt").solve()
    usual = solver("uce", container, RED).solve()
    assert all(torch.equal(same.layers[n].up, usual.layers[n].up) for n in usual.layers)


def test_noise_around_retained_states_makes_an_edit_that_such_noise_moves_less(
    container: ModelContainer,
) -> None:
    layers = gram(module.weight.detach() for module in container.text_projections().values())
    noise = least_heard(layers, 4)
    moved = []
    for augment in (0.0, 3.0):
        made = solver("speed", container, RED, keep_empty=False, augment=augment).solve()
        moved.append(sum(float((b - a).norm()) for a, b in answers(container, made, noise)))
    assert moved[1] < 0.5 * moved[0]


def test_what_is_erased_cannot_be_preserved_too(container: ModelContainer) -> None:
    both = [Concept(target="a red circle", neutral="a blue circle", preserve=("a red square",))]
    with pytest.raises(RecipeError, match="edited state is a sum") as caught:
        solver("speed", container, both, keep_empty=False).solve()
    assert "influence" in str(caught.value.hint)


def test_the_empty_prompt_is_retained_where_the_model_reads_it(container: ModelContainer) -> None:
    reads_it = container.unconditional_prompt is not None
    empty = container.encode_prompts([""]).embeds[0].double()
    for keep_empty, is_kept in ((None, reads_it), (True, True), (False, False)):
        solution = solver("speed", container, RED, keep_empty=keep_empty).solve()
        for before, after in answers(container, solution, empty):
            share = float((after - before).norm() / before.norm())
            assert (share <= 1e-6) == is_kept


def test_the_neutral_prompt_is_what_an_instant_slider_edits() -> None:
    concept = SIZE[0].model_copy(update={"neutral": "a circle"})
    assert [pair.prompt for pair in slider_pairs([SIZE[0], concept])] == [
        "a red circle",
        "a circle",
    ]
