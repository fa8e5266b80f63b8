from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch import Tensor

from loba_tui.core.associate.embeds import PromptEmbeds
from loba_tui.core.associate.model_cache import ModelCache
from loba_tui.core.plugins import SHIPPED
from loba_tui.core.program.adapter_layers.strength import AdapterScale
from loba_tui.core.program.evaluation.efficacy.probe import EfficacyProbe, ProbePrompts
from loba_tui.core.program.evaluation.efficacy.slider import judge, slider_efficacy
from loba_tui.core.program.trajectories.held_out import HeldOut, roll_out

get_adapter = SHIPPED.load("adapters", "lora")

TARGET, POSITIVE, NEGATIVE, PRESERVED = torch.eye(4)
DIRECTION = POSITIVE - NEGATIVE


class LinearModel:
    """A model that predicts its prompt's vector, and an adapter that adds a known change."""

    def __init__(self, up: Tensor, down: Tensor, leak: float = 0.0) -> None:
        self._up, self._down, self._leak = up, down, leak
        self._multiplier = 0.0

    @contextmanager
    def __call__(self, multiplier: float) -> Iterator[None]:
        self._multiplier = multiplier
        yield
        self._multiplier = 0.0

    def base(self):
        return self(0.0)

    def predict(self, latents, timesteps, embeds, **_) -> Tensor:
        m = self._multiplier
        change = m * self._up if m > 0 else -m * self._down
        share = torch.where(embeds.embeds[:, :, 3] == 1, self._leak, 1.0)
        return (embeds.embeds[:, 0] + share * change).view(-1, 4, 1, 1)


def figures_of(model: LinearModel, *, preserve=None, multiplier=1.0):
    def rows(vector):
        return PromptEmbeds(vector.view(1, 1, 4))

    held_out = HeldOut(torch.zeros(6, 4, 1, 1), torch.arange(6), [0] * 6, 0)
    prompts = ProbePrompts(
        rows(TARGET), rows(POSITIVE), rows(NEGATIVE), preserve and rows(PRESERVED)
    )
    return slider_efficacy(EfficacyProbe(model, model, held_out, prompts, batch_size=4), multiplier)


@pytest.mark.parametrize("multiplier", [0.5, 1.0, 3.0])
def test_figures_of_a_perfect_slider_are_exact_whatever_the_multiplier(multiplier):
    figures = figures_of(LinearModel(0.7 * DIRECTION, -0.7 * DIRECTION), multiplier=multiplier)
    assert figures.alignment_up == pytest.approx(1)
    assert figures.alignment_down == pytest.approx(1)
    assert figures.strength_up == pytest.approx(0.7)
    assert figures.strength_down == pytest.approx(0.7)
    assert figures.relative_length == pytest.approx(0.7)
    assert figures.symmetry_cosine == pytest.approx(1)
    assert figures.symmetry_length == pytest.approx(1)
    assert figures.leakage is None
    assert figures.verdict == "working"


def test_leakage_is_the_preserved_prompts_share_of_the_change():
    figures = figures_of(LinearModel(DIRECTION, -DIRECTION, leak=0.25), preserve=True)
    assert figures.leakage == pytest.approx(0.25)


def test_what_is_sideways_adds_length_but_no_strength():
    figures = figures_of(LinearModel(DIRECTION + TARGET, -DIRECTION + TARGET))
    assert figures.strength_up == pytest.approx(1)
    assert figures.relative_length == pytest.approx((3 / 2) ** 0.5)
    assert figures.alignment_up == pytest.approx((2 / 3) ** 0.5)
    assert figures.symmetry_cosine == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("up", "down", "verdict"),
    [
        (0 * DIRECTION, 0 * DIRECTION, "dead"),
        (0.05 * DIRECTION, -0.05 * DIRECTION, "weak"),
        (0.5 * DIRECTION, -0.5 * DIRECTION, "working"),
        (0.5 * DIRECTION, 0 * DIRECTION, "weak"),
        (0.5 * DIRECTION, 0.5 * DIRECTION, "collapsed"),
        (0.5 * TARGET, 0.5 * TARGET, "collapsed"),
        (8 * DIRECTION, -8 * DIRECTION, "collapsed"),
        (-0.5 * DIRECTION, 0.5 * DIRECTION, "reversed"),
        (DIRECTION * float("nan"), -DIRECTION, "collapsed"),
    ],
)
def test_verdicts(up, down, verdict):
    assert figures_of(LinearModel(up, down)).verdict == verdict


def test_cost_is_five_rows_a_sample_and_two_more_with_something_to_preserve():
    model = LinearModel(DIRECTION, -DIRECTION)
    assert figures_of(model).num_unet_rows == 5 * 6
    assert figures_of(model, preserve=True).num_unet_rows == 7 * 6


def test_judge_lets_the_weaker_side_decide():
    good = {
        "alignment_up": 0.9, "alignment_down": 0.9, "strength_up": 0.5, "strength_down": 0.5,
        "relative_length": 0.6, "symmetry_cosine": 0.9, "symmetry_length": 1.0,
    }  # fmt: skip
    assert judge(**good) == "working"
    assert judge(**good | {"strength_down": 0.05}) == "weak"
    assert judge(**good | {"alignment_up": 0.1}) == "collapsed"


@pytest.fixture(scope="module")
def container(tiny_sdxl_folder: Path):
    container = ModelCache("cpu", torch.float32).container(str(tiny_sdxl_folder))
    container.denoiser.add_adapter(get_adapter(container.adapter_targets(), rank=2, alpha=2))
    return container


def ddim(container):
    return lambda: SHIPPED.load("noise", "ddim")(container.scheduler_config)


def test_rollout_is_that_of_the_pipeline_and_labels_are_its_timesteps(container):
    prompts = container.encode_prompts(["a red circle", "a square"])
    held_out = roll_out(
        container, AdapterScale(container.denoiser), prompts, make_scheduler=ddim(container),
        seed=3, num_steps=4, keep=(0, 1, 3),
    )  # fmt: skip
    assert held_out.rows == [0, 1] * 3
    assert held_out.num_unet_rows == 2 * 2 * 3

    pipeline, empty = container.pipeline, container.empty_embeds().expand(2)
    seen = {}
    pipeline.scheduler = ddim(container)()
    pipeline.set_progress_bar_config(disable=True)
    pipeline(
        prompt_embeds=prompts.embeds, pooled_prompt_embeds=prompts.pooled,
        negative_prompt_embeds=empty.embeds, negative_pooled_prompt_embeds=empty.pooled,
        latents=held_out.inputs[:2].clone(), num_inference_steps=4, guidance_scale=3.0,
        output_type="latent",
        callback_on_step_end=lambda pipe, step, t, kept: seen.update({step: (t, kept["latents"])})
        or kept,
    )  # fmt: skip
    # After step k the pipeline holds what the denoiser sees at position k + 1.
    torch.testing.assert_close(held_out.inputs[2:4], seen[0][1], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(held_out.inputs[4:6], seen[2][1], rtol=1e-4, atol=1e-4)
    assert held_out.timesteps.tolist() == [int(seen[k][0]) for k in (0, 0, 1, 1, 3, 3)]


def test_fresh_adapter_is_dead_and_the_adapter_does_not_touch_the_rollout(container):
    prompts = container.encode_prompts(["a circle"])
    scale = AdapterScale(container.denoiser)
    arguments = {"make_scheduler": ddim(container), "seed": 3, "num_steps": 3, "keep": (1, 2)}
    fresh = roll_out(container, scale, prompts, **arguments)
    large, small = (container.encode_prompts([f"a {size} circle"]) for size in ("large", "small"))
    probe = EfficacyProbe(container, scale, fresh, ProbePrompts(prompts, large, small))
    figures = slider_efficacy(probe)
    assert figures.verdict == "dead"
    assert figures.relative_length == 0
    for name, parameter in container.denoiser.named_parameters():
        if "lora_B" in name:
            torch.nn.init.ones_(parameter)
    assert torch.equal(roll_out(container, scale, prompts, **arguments).inputs, fresh.inputs)
