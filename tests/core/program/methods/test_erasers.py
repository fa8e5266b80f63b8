"""The trained erasers against their formulas, written out by hand on the same model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch
from method_parts import container_with_adapter, parts_for

from loba_tui.core.associate.containers.base import ModelContainer
from loba_tui.core.associate.embeds import PromptEmbeds
from loba_tui.core.errors import RecipeError
from loba_tui.core.plugins import SHIPPED
from loba_tui.core.program.method import MethodParts
from loba_tui.core.program.objectives.concepts import ConceptMethod
from loba_tui.core.program.objectives.spm_anchors import random_anchor
from loba_tui.core.program.trajectories.base import Draw
from loba_tui.core.recipe.sections.method import Concept

PROMPTS = ["red", "red circle", "circle", "blue", "green", "square"]
EMPTY = None
PLAIN = [Concept(target="red circle")]


@pytest.fixture(scope="module")
def container(tiny_sdxl_folder: Path) -> ModelContainer:
    return container_with_adapter(tiny_sdxl_folder)


@pytest.fixture
def make(container: ModelContainer) -> Iterator[Any]:
    with ExitStack() as lent:

        def build(
            name: str, concepts: list[Concept], **options: Any
        ) -> tuple[ConceptMethod, MethodParts]:
            parts = lent.enter_context(parts_for(container, PROMPTS, concepts=concepts))
            options = {"rollout_steps": 4, "preserve_weight": 0.0, **options}
            return SHIPPED.load("methods", name)(parts, **options), parts

        yield build


def next_draw(method: ConceptMethod) -> Draw:
    """Return what the next step will train on; drawing takes nothing away."""
    return method._trajectories.draw(0, 0.0)


@torch.no_grad()
def predict(parts: MethodParts, draw: Draw, prompt: str | None, strength: float) -> torch.Tensor:
    embeds = parts.empty if prompt is None else parts.embeds[prompt]
    with parts.scale(strength) if strength else parts.scale.base():
        return parts.container.predict(draw.inputs, draw.timesteps, embeds)


def mse(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return ((a - b) ** 2).mean()


@pytest.mark.parametrize(
    ("name", "options", "concept", "weights"),
    [
        # weights of the base's predictions that make up the target
        ("leco", {}, PLAIN[0], {None: 1.0}),
        ("leco", {"action": "enhance"}, PLAIN[0], {"red circle": 2.0, None: -1.0}),
        (
            "leco",
            {},
            Concept(target="red circle", neutral="circle", positive="red", guidance=0.7),
            {"circle": 1.0, "red": -0.7, None: 0.7},
        ),
        (
            "leco",
            {},
            Concept(target="red circle", negative="square", guidance=2.0),
            {"red circle": -1.0, "square": 2.0},
        ),
        ("leco", {"action": "swap"}, Concept(target="red circle", neutral="blue"), {"blue": 1.0}),
        (
            "leco",
            {"action": "swap"},
            Concept(target="red circle", neutral="blue", guidance=0.25),
            {"red circle": 0.75, "blue": 0.25},
        ),
        # with c_f = c_e and eta = 1 the concept is taught the unconditional prediction
        ("esd", {}, PLAIN[0], {None: 1.0}),
        ("esd", {}, Concept(target="red circle", guidance=3.0), {"red circle": -2.0, None: 3.0}),
    ],
)
@pytest.mark.parametrize("trajectories", ["rolling", "bank", "restart"])
def test_the_loss_is_the_formula(
    make: Any,
    trajectories: str,
    name: str,
    options: dict[str, Any],
    concept: Concept,
    weights: dict[str | None, float],
) -> None:
    method, parts = make(name, [concept], trajectories=trajectories, **options)
    draw = next_draw(method)
    target = sum(w * predict(parts, draw, prompt, 0) for prompt, w in weights.items())
    expected = mse(predict(parts, draw, "red circle", 1.0), target)
    torch.testing.assert_close(method.step(0, 0.0).loss.detach(), expected, rtol=1e-4, atol=1e-6)


def test_esd_trains_the_prompt_that_it_erases_from(make: Any) -> None:
    concept = Concept(target="red", neutral="circle", guidance=2.0)
    method, parts = make("esd", [concept])
    draw = next_draw(method)
    target = predict(parts, draw, "circle", 0)
    target = target - 2.0 * (predict(parts, draw, "red", 0) - predict(parts, draw, EMPTY, 0))
    expected = mse(predict(parts, draw, "circle", 1.0), target)
    torch.testing.assert_close(method.step(0, 0.0).loss.detach(), expected, rtol=1e-4, atol=1e-6)


def test_several_concepts_are_taught_their_own_targets(make: Any) -> None:
    concepts = [
        Concept(target="red circle", neutral="blue"),
        Concept(target="square", neutral="green", guidance=0.5),
    ]
    method, parts = make("leco", concepts, action="swap")
    draw = next_draw(method)
    assert set(draw.concepts) == {0, 1}
    losses = []
    for row, number in enumerate(draw.concepts):
        concept = concepts[number]
        own = predict(parts, draw, concept.target, 0)[row]
        other = predict(parts, draw, concept.neutral, 0)[row]
        target = own + concept.guidance * (other - own)
        losses.append(mse(predict(parts, draw, concept.target, 1.0)[row], target))
    torch.testing.assert_close(
        method.step(0, 0.0).loss.detach(), torch.stack(losses).mean(), rtol=1e-4, atol=1e-6
    )


@pytest.mark.parametrize("trajectories", ["rolling", "bank"])
def test_preserve_prompts_and_anchors_keep_the_base_prediction(
    make: Any, trajectories: str
) -> None:
    concept = PLAIN[0].model_copy(update={"preserve": ("green",)})
    method, parts = make(
        "leco", [concept], trajectories=trajectories, preserve_weight=0.5, preserve_share=1.0,
        anchor_weight=10.0, anchor_share=0.5,
    )  # fmt: skip
    draw = next_draw(method)
    output = method.step(0, 0.0)
    kept = mse(predict(parts, draw, "green", 1.0), predict(parts, draw, "green", 0))
    rows, anchors = method._held[1].pick(draw, 0)
    assert len(rows) == 2
    inputs, times = draw.inputs[rows], draw.timesteps[rows]
    with torch.no_grad():
        with parts.scale(1.0):
            ours = parts.container.predict(inputs, times, PromptEmbeds.cat(anchors))
        with parts.scale.base():
            base = parts.container.predict(inputs, times, PromptEmbeds.cat(anchors))
    erase = mse(predict(parts, draw, "red circle", 1.0), predict(parts, draw, EMPTY, 0))
    found = output.metrics
    for name, expected in (("erase", erase), ("preserve", kept), ("anchor", mse(ours, base))):
        torch.testing.assert_close(found[f"{name}_loss"], expected, rtol=1e-4, atol=1e-6)
    total = erase + 0.5 * kept + 10.0 * mse(ours, base)
    torch.testing.assert_close(output.loss.detach(), total, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "options", "rows"),
    [
        # target and empty, which move the latents on too, and a student with its backward
        ("esd", {}, 4 * (2 + 2)),
        ("leco", {}, 4 * (2 + 2)),
        ("leco", {"preserve_weight": 1.0, "preserve_share": 0.5}, 4 * (2 + 2) + 2 * 3),
        ("leco", {"trajectories": "bank"}, 4 * 2),
    ],
)
def test_each_prompt_of_a_row_is_asked_for_once(
    make: Any, name: str, options: dict[str, Any], rows: int
) -> None:
    concept = PLAIN[0].model_copy(update={"preserve": ("green",)})
    method, parts = make(name, [concept], **options)
    method.step(0, 0.0)  # fills the pool or the bank
    before = parts.counter.rows
    method.step(1, 0.0)
    assert parts.counter.rows - before == rows


def test_training_goes_from_the_concept_to_the_unconditional_prediction(make: Any) -> None:
    method, parts = make("esd", PLAIN, trajectories="restart")
    trained = {
        name: p for name, p in parts.container.denoiser.named_parameters() if ".lora_" in name
    }
    kept = {name: p.detach().clone() for name, p in trained.items()}
    for name, parameter in trained.items():
        parameter.requires_grad_(True)
        if ".lora_B." in name:
            parameter.data.zero_()
    draw = next_draw(method)  # the same at every step of this index
    optimizer = torch.optim.Adam(trained.values(), lr=1e-3)
    losses = []
    for _ in range(8):
        loss = method.step(0, 0.0).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    change = predict(parts, draw, "red circle", 1.0) - predict(parts, draw, "red circle", 0)
    wanted = predict(parts, draw, EMPTY, 0) - predict(parts, draw, "red circle", 0)
    assert losses[-1] < losses[0]
    assert float((change * wanted).sum()) > 0
    for name, parameter in trained.items():
        parameter.data.copy_(kept[name])
        parameter.requires_grad_(False)


def test_a_swap_without_a_goal_is_the_recipes_error(make: Any) -> None:
    with pytest.raises(RecipeError, match="swap needs a neutral prompt"):
        make("leco", PLAIN, action="swap")


def test_anchors_are_as_long_as_the_prompt_and_repeat(container: ModelContainer) -> None:
    target = container.encode_prompts(["red circle"])
    anchor = random_anchor(target, 3, 0, 1)
    assert torch.equal(anchor.embeds, random_anchor(target, 3, 0, 1).embeds)
    assert not torch.equal(anchor.embeds, random_anchor(target, 3, 0, 2).embeds)
    assert anchor.pooled is not None
    assert target.pooled is not None
    for own, like in ((anchor.embeds, target.embeds), (anchor.pooled, target.pooled)):
        assert own.shape == like.shape
        assert 0.79 < float(own.norm() / like.norm()) < 1.21
