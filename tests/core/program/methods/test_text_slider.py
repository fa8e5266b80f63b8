"""The text slider against the formula, written out by hand on the same model."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch
from method_parts import container_with_adapter, parts_for

from loba_tui.core.associate.containers.base import ModelContainer
from loba_tui.core.associate.embeds import PromptEmbeds
from loba_tui.core.associate.model_cache import ModelCache
from loba_tui.core.errors import RecipeError
from loba_tui.core.plugins import SHIPPED
from loba_tui.core.program import randomness
from loba_tui.core.program.closed_form.linear_edit import solve
from loba_tui.core.program.closed_form.prompt_states import PromptStates
from loba_tui.core.program.closed_form.slider import slider_pairs, start_from_instant
from loba_tui.core.program.method import MethodParts
from loba_tui.core.program.methods import text_slider
from loba_tui.core.program.methods.text_slider import TextSlider
from loba_tui.core.program.trajectories.base import Draw
from loba_tui.core.recipe.sections.method import Concept

CONCEPTS = [
    Concept(target="circle", positive="large circle", negative="small circle", guidance=2.0),
    Concept(
        target="square",
        positive="large square",
        negative="small square",
        neutral="shape",
        preserve=("red", "blue"),
    ),
]
PROMPTS = ["circle", "large circle", "small circle", "square", "large square", "small square"]
PROMPTS += ["shape", "red", "blue"]


@pytest.fixture(scope="module")
def container(tiny_sdxl_folder: Path) -> ModelContainer:
    return container_with_adapter(tiny_sdxl_folder)


@pytest.fixture
def make(container: ModelContainer) -> Any:
    with ExitStack() as lent:

        def build(concepts: list[Concept] = CONCEPTS, **options: Any) -> tuple[Any, MethodParts]:
            parts = lent.enter_context(parts_for(container, PROMPTS, concepts=concepts))
            text_slider = SHIPPED.load("methods", "text_slider")
            return text_slider(parts, rollout_steps=5, **options), parts

        yield build


def remember_draws(method: TextSlider) -> list[Draw]:
    """Return a list that the method's next draws are added to."""
    draws: list[Draw] = []
    trajectories = method._trajectories
    draw_one = trajectories.draw

    def draw(index: int, progress: float) -> Draw:
        draws.append(draw_one(index, progress))
        return draws[-1]

    trajectories.draw = draw  # type: ignore[method-assign]
    return draws


def by_hand(parts: MethodParts, draw: Draw, predict: Callable[..., torch.Tensor]) -> torch.Tensor:
    """Return the mean of MSE(ε_m(target), ε₀(neutral) + m·g·(ε₀(positive) − ε₀(negative)))."""
    losses = []
    for row, index in enumerate(draw.concepts):
        concept = parts.concepts[index]
        sign = (-1.0, 1.0)[draw.rows[row] % 2]

        def teacher(prompt: str | None, row: int = row) -> torch.Tensor:
            with parts.scale.base():
                return predict(draw, row, parts.embeds[str(prompt)])

        direction = teacher(concept.positive) - teacher(concept.negative)
        target = teacher(concept.neutral or concept.target) + sign * concept.guidance * direction
        with parts.scale(sign):
            student = predict(draw, row, parts.embeds[concept.target])
        losses.append(((student - target) ** 2).mean())
    return torch.stack(losses).mean()


@pytest.mark.parametrize("trajectories", ["rolling", "bank", "restart"])
def test_the_loss_is_the_formula(make: Any, trajectories: str) -> None:
    method, parts = make(trajectories=trajectories, preserve_weight=0.0)
    draws = remember_draws(method)

    @torch.no_grad()
    def predict(draw: Draw, row: int, embeds: PromptEmbeds) -> torch.Tensor:
        one = slice(row, row + 1)
        return parts.container.predict(draw.inputs[one], draw.timesteps[one], embeds)

    for index in range(3):
        loss = method.step(index, 0.0).loss.detach()
        torch.testing.assert_close(loss, by_hand(parts, draws[-1], predict), rtol=1e-4, atol=1e-6)


def test_gradients_reach_the_adapter_alone(make: Any, container: ModelContainer) -> None:
    method, _ = make()
    method.step(0, 0.0).loss.backward()
    with_gradient = {
        name for name, p in container.denoiser.named_parameters() if p.grad is not None
    }
    assert with_gradient
    assert all("lora_" in name for name in with_gradient)
    container.denoiser.zero_grad()


def test_preserve_holds_the_base_prediction_of_the_preserve_prompts(make: Any) -> None:
    # A share of 1 trains a preserve prompt in every row of a concept that has some.
    method, parts = make([CONCEPTS[1]], preserve_share=1.0, preserve_weight=0.5)
    draws = remember_draws(method)
    output = method.step(0, 0.0)
    draw = draws[0]
    losses = []
    for row in range(4):
        pick = randomness.integer(2, 0, "preserve", 0, row)
        embeds = parts.embeds[("red", "blue")[pick]]
        one = slice(row, row + 1)
        with torch.no_grad():
            with parts.scale.base():
                base = parts.container.predict(draw.inputs[one], draw.timesteps[one], embeds)
            with parts.scale((-1.0, 1.0)[row % 2]):
                ours = parts.container.predict(draw.inputs[one], draw.timesteps[one], embeds)
        losses.append(((ours - base) ** 2).mean())
    expected = torch.stack(losses).mean()
    torch.testing.assert_close(output.metrics["preserve_loss"], expected, rtol=1e-4, atol=1e-6)
    total = output.metrics["slider_loss"] + 0.5 * expected
    torch.testing.assert_close(output.loss.detach(), total, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "rows"),
    [
        # positive, negative, neutral and empty (the advance), and a student with its backward
        ({"preserve_weight": 0.0}, 4 * (4 + 2)),
        ({"preserve_weight": 1.0, "preserve_share": 0.5}, 4 * (4 + 2) + 2 * (1 + 2)),
    ],
)
def test_a_rolling_step_costs_six_rows_a_sample(
    make: Any, container: ModelContainer, options: dict[str, Any], rows: int
) -> None:
    concept = CONCEPTS[0].model_copy(update={"preserve": ("red",)})
    method, parts = make([concept], **options)
    method.state()  # the warm-up
    before, seen = parts.counter.rows, []
    hook = container.denoiser.register_forward_hook(
        lambda _module, args, _output: seen.append(args[0].shape[0] * (1 + torch.is_grad_enabled()))
    )
    method.step(0, 0.0)
    hook.remove()
    assert parts.counter.rows - before == sum(seen) == rows


def test_a_bank_step_costs_the_student_alone(make: Any, container: ModelContainer) -> None:
    concept = CONCEPTS[0].model_copy(update={"preserve": ("red",)})
    options = {"preserve_share": 0.5, "bank_images": 3, "bank_samples": 8}
    method, parts = make([concept], trajectories="bank", **options)
    seen = []
    hook = container.denoiser.register_forward_hook(
        lambda _module, args, _output: seen.append(args[0].shape[0] * (1 + torch.is_grad_enabled()))
    )
    method.step(0, 0.0)
    # 3 rollouts of 5 guided steps; 3 roles of 8 samples, and a preserve prompt of every other one
    assert parts.counter.rows == sum(seen) == 3 * 5 * 2 + 8 * 3 + 4 + (4 + 2) * 2
    method.step(1, 0.0)
    hook.remove()
    assert parts.counter.rows == sum(seen) == 3 * 5 * 2 + 8 * 3 + 4 + 2 * (4 + 2) * 2


def test_a_banks_preserve_weight_can_be_raised_from_zero(make: Any) -> None:
    concept = CONCEPTS[0].model_copy(update={"preserve": ("red", "blue")})
    options = {"preserve_share": 1.0, "bank_images": 3, "bank_samples": 8, "trajectories": "bank"}
    changed, _ = make([concept], preserve_weight=0.0, **options)
    assert "preserve_loss" not in changed.step(0, 0.0).metrics
    changed.change_preserve_weight(0.5)
    given, _ = make([concept], preserve_weight=0.5, **options)
    given.step(0, 0.0)
    one, other = changed.step(1, 0.0), given.step(1, 0.0)
    assert torch.equal(one.loss, other.loss)
    assert float(one.metrics["preserve_loss"]) > 0


def test_a_bank_with_the_adapter_on_is_the_recipes_error(make: Any) -> None:
    with pytest.raises(RecipeError, match="rollout_scale"):
        make(trajectories="bank", rollout_scale=1.0)


def test_rescaling_keeps_the_norm_of_the_neutral_prediction(make: Any) -> None:
    strong = [CONCEPTS[0].model_copy(update={"guidance": 5000.0})]
    plain, _ = make(strong, preserve_weight=0.0)
    rescaled, _ = make(strong, preserve_weight=0.0, rescale_target=True)
    assert float(rescaled.step(0, 0.0).loss.detach()) < 0.2 * float(
        plain.step(0, 0.0).loss.detach()
    )


def test_a_warm_start_is_the_instant_slider_cut_to_the_adapters_rank(
    make: Any, container: ModelContainer
) -> None:
    method, parts = make(warm_start="instant")
    denoiser = container.denoiser
    kept = {n: p.detach().clone() for n, p in denoiser.named_parameters() if ".lora_" in n}
    method.start_warm()
    edit = PromptStates(container, parts.embeds, "prompt").edit(slider_pairs(CONCEPTS))
    update = solve(edit, identity_weight=0.05)
    projections = container.text_projections()
    assert len(projections) > 2
    for name, layer in projections.items():
        up, down = update.of_layer(layer.weight, 4)
        module = denoiser.get_submodule(name)
        torch.testing.assert_close(module.get_delta_weight("default"), up @ down)
    for name, parameter in denoiser.named_parameters():
        reads_the_prompt = any(name.startswith(f"{module}.") for module in projections)
        if ".lora_" in name and not reads_the_prompt:
            assert torch.equal(parameter, kept[name])
    with torch.no_grad():
        for name, parameter in denoiser.named_parameters():
            if name in kept:
                parameter.copy_(kept[name])


def test_a_warm_start_without_cross_attention_is_the_recipes_error(tiny_sdxl_folder: Path) -> None:
    container = ModelCache("cpu", torch.float32).container(str(tiny_sdxl_folder))
    layers = SHIPPED.load("adapters", "lora")(
        container.adapter_targets(), layers=["self_attention"]
    )
    container.denoiser.add_adapter(layers)
    embeds = {prompt: container.encode_prompts([prompt]) for prompt in PROMPTS}
    with pytest.raises(RecipeError, match="no layer that reads the prompt"):
        start_from_instant(container, embeds, CONCEPTS)


def test_an_empty_neutral_prompt_is_not_the_target() -> None:
    empty = Concept(target="a", positive="b", negative="c", neutral="")
    left_out = Concept(target="a", positive="b", negative="c")
    assert [pair.prompt for pair in slider_pairs([empty, left_out])] == ["", "a"]
    assert [text_slider._roles(each)["neutral"] for each in (empty, left_out)] == ["", "a"]
