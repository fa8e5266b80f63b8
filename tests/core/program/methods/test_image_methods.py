"""The methods that train on images, against their formulas written out by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDPMScheduler
from method_parts import container_with_adapter, parts_for
from torch import Tensor

from loba_tui.core.associate.containers.base import ModelContainer
from loba_tui.core.associate.embeds import Framing
from loba_tui.core.plugins import SHIPPED
from loba_tui.core.program.data.training_data import DataBatch
from loba_tui.core.program.method import MethodParts
from loba_tui.core.program.objectives.timed_loss import TimedLoss

PROMPTS = ("a dot", "a cross")
NUM_ROWS = 3


class Fixed:
    """The same images at every step."""

    def __init__(self, *, paired: bool, masked: bool) -> None:
        source = torch.Generator().manual_seed(3)
        low = torch.randn(NUM_ROWS, 4, 8, 8, generator=source)
        high = low + 0.5 * torch.randn(NUM_ROWS, 4, 8, 8, generator=source)
        mask = torch.rand(NUM_ROWS, 1, 8, 8, generator=source)
        self.made = DataBatch(
            latents=(low, high) if paired else (low,),
            scales=((-2.0, -1.0, 1.0), (1.0, 2.0, 3.0)) if paired else ((0.0,) * NUM_ROWS,),
            prompts=("a dot", None, "a cross"),
            masks=mask if masked else None,
            weights=torch.tensor([1.0, 0.5, 1.0]),
            rows=(0, 1, 2),
            # Each row was cut out of another file, which is part of what the model says of it.
            framing=Framing(
                torch.tensor([[64, 96], [20, 40], [300, 32]]),
                torch.tensor([[0, 16], [3, 0], [100, 0]]),
            ),
        )

    def batch(self, index: int) -> DataBatch:
        return self.made


@pytest.fixture(scope="module")
def container(tiny_sdxl_folder: Path) -> ModelContainer:
    return container_with_adapter(tiny_sdxl_folder)


Make = Callable[..., tuple[Any, MethodParts]]


@pytest.fixture
def make(container: ModelContainer) -> Iterator[Make]:
    with ExitStack() as lent:

        def build(name: str, images: Fixed, **changes: Any) -> tuple[Any, MethodParts]:
            options = changes.pop("options", {})
            changes = {"batch_size": NUM_ROWS, "data": images, **changes}
            parts = lent.enter_context(parts_for(container, PROMPTS, **changes))
            return SHIPPED.load("methods", name)(parts, **options), parts

        yield build


def noise_of(parts: MethodParts, index: int) -> tuple[Tensor, Tensor]:
    """Return the step's noise and timesteps; how they are drawn is tested elsewhere."""
    batch = parts.images().batch(index)
    diffusion = parts.diffusion()
    noise, _ = diffusion.noise(batch.latents[0], index, batch.rows)
    return noise, diffusion.timesteps(index, 0.0, batch.rows)


def said(parts: MethodParts, noised: Tensor, t: Tensor, row: int, scale: float | None) -> Tensor:
    """Return what the model says of one row; None is the model without the adapter."""
    batch = parts.images().batch(0)
    assert batch.framing is not None
    prompts, one = parts.condition(batch.prompts)[row], slice(row, row + 1)
    framing = Framing(batch.framing.original_size[one], batch.framing.crop_top_left[one])
    context = parts.scale.base() if scale is None else parts.scale(scale)
    with torch.no_grad(), context:
        return parts.container.predict(noised[None], t[None], prompts, framing=framing)[0]


def square(difference: Tensor, mask: Tensor | None = None) -> Tensor:
    return (difference**2 * (1 if mask is None else mask)).mean()


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("index", [0, 5])
def test_fine_tuning_is_the_formula(make: Make, masked: bool, index: int) -> None:
    images = Fixed(paired=False, masked=masked)
    method, parts = make("lora_finetune", images, keep_outside=0.7)
    output = method.step(index, 0.0)
    noise, timesteps = noise_of(parts, index)
    oracle = DDPMScheduler.from_config(parts.container.scheduler_config)
    noised = oracle.add_noise(images.made.latents[0], noise, timesteps)
    rows = []
    for row in range(NUM_ROWS):
        student = said(parts, noised[row], timesteps[row], row, 1.0)
        mask = images.made.masks[row] if images.made.masks is not None else None
        loss = square(student - noise[row], mask)
        if mask is not None:
            base = said(parts, noised[row], timesteps[row], row, None)
            loss = loss + 0.7 * square(student - base, 1 - mask)
        rows.append(loss * images.made.weights[row])
    torch.testing.assert_close(output.loss.detach(), torch.stack(rows).mean(), rtol=1e-4, atol=1e-6)
    assert parts.counter.rows == NUM_ROWS * (3 if masked else 2)


@pytest.mark.parametrize("masked", [False, True])
def test_an_image_slider_names_the_same_noise_on_both_images(make: Make, masked: bool) -> None:
    images = Fixed(paired=True, masked=masked)
    method, parts = make("image_slider", images)
    output = method.step(2, 0.0)
    noise, timesteps = noise_of(parts, 2)
    oracle = DDPMScheduler.from_config(parts.container.scheduler_config)
    rows = []
    for latents, scales in zip(images.made.latents, images.made.scales, strict=True):
        noised = oracle.add_noise(latents, noise, timesteps)
        for row in range(NUM_ROWS):
            student = said(parts, noised[row], timesteps[row], row, scales[row])
            mask = images.made.masks[row] if images.made.masks is not None else None
            loss = square(student - noise[row], mask)
            if mask is not None:
                base = said(parts, noised[row], timesteps[row], row, None)
                loss = loss + square(student - base, 1 - mask)
            rows.append(loss * images.made.weights[row])
    torch.testing.assert_close(output.loss.detach(), torch.stack(rows).mean(), rtol=1e-4, atol=1e-6)


def test_the_common_part_of_a_pair_can_be_held_at_the_base(make: Make) -> None:
    images = Fixed(paired=True, masked=False)
    method, parts = make("image_slider", images, options={"direction_weight": 2.0})
    output = method.step(1, 0.0)
    noise, timesteps = noise_of(parts, 1)
    oracle = DDPMScheduler.from_config(parts.container.scheduler_config)
    rows = []
    for row in range(NUM_ROWS):
        mean, base = torch.zeros(4, 8, 8), torch.zeros(4, 8, 8)
        for latents, scales in zip(images.made.latents, images.made.scales, strict=True):
            noised = oracle.add_noise(latents, noise, timesteps)
            mean += said(parts, noised[row], timesteps[row], row, scales[row]) / 2
            base += said(parts, noised[row], timesteps[row], row, None) / 2
        rows.append(square(mean - base) * images.made.weights[row])
    expected = torch.stack(rows).mean()
    torch.testing.assert_close(output.metrics["common_loss"], expected, rtol=1e-4, atol=1e-6)
    total = output.metrics["pair_loss"] + 2 * expected
    torch.testing.assert_close(output.loss.detach(), total, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("index", [0, 1])
def test_addift_takes_turns_between_the_two_directions(
    make: Make, masked: bool, index: int
) -> None:
    images = Fixed(paired=True, masked=masked)
    method, parts = make("addift", images, options={"strength": 0.5})
    output = method.step(index, 0.0)
    noise, timesteps = noise_of(parts, index)
    oracle = DDPMScheduler.from_config(parts.container.scheduler_config)
    low, high = (oracle.add_noise(x, noise, timesteps) for x in images.made.latents)
    rows = []
    for row in range(NUM_ROWS):
        up = (row + index) % 2 == 0
        mine, other = (high, low) if up else (low, high)
        scale = images.made.scales[1 if up else 0][row]
        student = said(parts, mine[row], timesteps[row], row, 0.5 * scale)
        target = said(parts, other[row], timesteps[row], row, None)
        mask = images.made.masks[row] if images.made.masks is not None else None
        loss = square(student - target, mask)
        if mask is not None:
            own = said(parts, mine[row], timesteps[row], row, None)
            loss = loss + square(student - own, 1 - mask)
        rows.append(loss * images.made.weights[row])
    torch.testing.assert_close(output.loss.detach(), torch.stack(rows).mean(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["lora_finetune", "image_slider", "addift"])
def test_weightings_scheduled_losses_and_noise_changes_are_used(make: Make, name: str) -> None:
    images = Fixed(paired=name != "lora_finetune", masked=False)
    plain = float(make(name, images)[0].step(0, 0.0).loss.detach())
    changes: list[dict[str, Any]] = [
        {"weighting": SHIPPED.load("weightings", "min_snr")()},
        {"noise_changes": [SHIPPED.load("noising", "offset")(strength=0.5)]},
        {"loss": TimedLoss(SHIPPED.load("losses", "huber")(delta=0.2, schedule="exponential"))},
    ]
    for change in changes:
        assert float(make(name, images, **change)[0].step(0, 0.0).loss.detach()) != plain


@pytest.mark.parametrize("name", ["lora_finetune", "image_slider", "addift"])
def test_gradients_reach_the_adapter_alone(
    make: Make, container: ModelContainer, name: str
) -> None:
    method, _ = make(name, Fixed(paired=name != "lora_finetune", masked=True))
    container.denoiser.zero_grad()
    method.step(0, 0.0).loss.backward()
    touched = {n for n, p in container.denoiser.named_parameters() if p.grad is not None}
    assert touched
    assert all(".lora_" in each for each in touched)
