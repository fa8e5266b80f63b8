"""What the proof of an eraser says, on labels and figures that are known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from loba_tui.core.associate.embeds import PromptEmbeds
from loba_tui.core.associate.model_cache import ModelCache
from loba_tui.core.plugins import SHIPPED
from loba_tui.core.program.adapter_layers.strength import AdapterScale
from loba_tui.core.program.closed_form.solution import Solution, layer_updates
from loba_tui.core.program.closed_form.solved_run import attach_solution
from loba_tui.core.program.closed_form.state_update import StateUpdate
from loba_tui.core.program.evaluation.efficacy.eraser import EraserEfficacy, judge
from loba_tui.core.program.evaluation.efficacy.recipe import measure_efficacy
from loba_tui.core.program.evaluation.eraser_effect import measure_erasure
from loba_tui.core.program.evaluation.figures import measure_figures
from loba_tui.core.program.evaluation.proof import prove
from loba_tui.core.program.evaluation.report import Report, make_report
from loba_tui.core.program.evaluation.report_plot import report_png
from loba_tui.core.program.evaluation.verdict import OUTCOMES
from loba_tui.core.recipe.load import check_text, dump_recipe, parse_recipe, parse_text
from loba_tui.core.recipe.schema import Recipe
from loba_tui.core.run.directory import RunDir
from loba_tui.models.shapes_world import Scene, draw

SCALES = (0.0, 0.5, 1.0)


def labels(*rows: str) -> np.ndarray:
    """Return (num_samples, num_scales) of labels; "-" is what no label could be read off."""
    table = [[None if label == "-" else label for label in row.split()] for row in rows]
    return np.array(table, dtype=object)


def report_on(asking: np.ndarray, others: dict[str, np.ndarray], *, noisy: bool = False) -> Report:
    rng = np.random.default_rng(0)
    num = sum(len(values) for values in others.values()) or len(asking)
    scene = draw(Scene("circle", "red", "white", 8, 0.8, (16, 16)))
    images = np.repeat(np.repeat(scene[None, None], num, axis=0), len(SCALES), axis=1)
    if noisy:
        images[:, 1:] = rng.random(images[:, 1:].shape)
    erasure = measure_erasure(SCALES, asking, others, measure="shape_color", label="red")
    return make_report("eraser", measure_figures(SCALES, images, erasure=erasure))


GONE = labels("red red blue", "red blue -", "red red green", "red blue blue")
HALF = labels("red red blue", "red red red", "red red red", "red red blue")
STAYED = labels(*["red red red"] * 4)
ABSENT = labels("red red -", *["blue blue blue"] * 3)
KEPT = {"blue": labels(*["blue blue blue"] * 4), "green": labels(*["green green green"] * 4)}
HURT = {**KEPT, "green": labels(*["green green green"] * 3, "green green blue")}


@pytest.mark.parametrize(
    ("asking", "others", "outcome"),
    [
        (GONE, KEPT, "erased"),
        (GONE, {}, "erased"),
        (HALF, KEPT, "partly erased"),
        (STAYED, KEPT, "dead"),
        (GONE, HURT, "damaging"),
        (ABSENT, KEPT, "unmeasured"),
    ],
)
def test_erasers_are_told_apart(
    asking: np.ndarray, others: dict[str, np.ndarray], outcome: str
) -> None:
    report = report_on(asking, others)
    assert report.outcome == outcome, report.verdict
    assert outcome in OUTCOMES


def test_broken_images_of_other_things_come_before_what_a_measure_says_of_them() -> None:
    assert report_on(GONE, KEPT, noisy=True).outcome == "breaking"


def test_figures_and_sentences_are_those_of_the_labels() -> None:
    report = report_on(GONE, HURT)
    erasure = report.erasure
    assert erasure is not None
    assert erasure.share == (1.0, 0.5, 0.0)
    assert erasure.became == {"blue": 2, "nothing": 1, "green": 1}
    assert erasure.accuracy == (1.0, 1.0, 0.875)
    assert erasure.accuracy_by_label["green"] == (1.0, 1.0, 0.75)
    assert erasure.accuracy_lost == pytest.approx(0.125)
    assert report.num_samples == 12
    text = " ".join(report.verdict)
    assert "red in 100% of 4 samples that ask for it at 0, and in 0% at +1" in text
    assert "where it is blue in 2, nothing in 1, green in 1" in text
    assert "Of 8 samples that ask for something else 100% show it at 0, and 88% at +1" in text
    assert "Losing most: green to 75%" in text
    assert report.summary()["share"] == "1 0.5 0"


def test_the_page_is_drawn_with_the_same_bytes_every_time() -> None:
    report = report_on(GONE, KEPT)
    images = np.zeros((12, 3, 16, 16, 3))
    assert report_png(report, images) == report_png(report, images)


@pytest.mark.parametrize(
    ("figures", "verdict"),
    [
        ({"removal": 0.8, "alignment": 0.9, "relative_length": 0.9}, "working"),
        ({"removal": 0.1, "alignment": 0.9, "relative_length": 0.1}, "weak"),
        ({"removal": 0.0, "alignment": 0.5, "relative_length": 0.001}, "dead"),
        ({"removal": -0.8, "alignment": -0.9, "relative_length": 0.9}, "strengthened"),
        ({"removal": 1.0, "alignment": 0.2, "relative_length": 9.0}, "collapsed"),
        ({"removal": 0.1, "alignment": 0.05, "relative_length": 2.0}, "collapsed"),
    ],
)
def test_the_unet_alone_tells_erasers_apart(figures: dict[str, float], verdict: str) -> None:
    assert judge(**figures) == verdict


RECIPE = {
    "version": 1,
    "name": "tiny",
    "base_model": {"id": "builtin:shapes-xl"},
    "method": {
        "name": "uce",
        "concepts": [
            {"target": "a red circle", "neutral": "a blue circle", "preserve": ["a green square"]}
        ],
    },
    "sample": {"scales": [0, 0.5], "steps": 2},
    "proof": {
        "prompts": ["a red circle"],
        "seeds": [4, 5],
        "measure": {"name": "shape_color"},
        "erased": "red",
        "others": {"green": ["a green square"], "blue": ["a blue circle"]},
        "preserve": [{"name": "shape_background"}],
    },
}


def model_with(folder: Path, *, exact: bool):  # type: ignore[no-untyped-def]
    """Return a tiny model with an adapter that maps red to blue exactly, or that does nothing."""
    container = ModelCache("cpu", torch.float32).container(str(folder))
    prompts = ["a red circle", "a blue circle", "a green square"]
    encoded = {prompt: container.encode_prompts([prompt]) for prompt in prompts}
    # The pooled embedding is not read by cross-attention, so no such adapter can reach it.
    pooled = encoded[prompts[0]].pooled
    embeds = {prompt: PromptEmbeds(rows.embeds, pooled) for prompt, rows in encoded.items()}
    red, blue = (embeds[prompt].embeds[0].double() for prompt in prompts[:2])
    # All tokens at once, by a linear map of states that agrees with them on these two prompts.
    change = torch.linalg.lstsq(red, blue - red, driver="gelsd").solution.T
    u, s, vh = torch.linalg.svd(change)
    update = StateUpdate(u[:, : len(s)] * s * (1.0 if exact else 1e-6), vh)
    layers = layer_updates(update, container.text_projections())
    attach_solution(Solution(layers), container)
    return container, AdapterScale(container.denoiser), embeds


def test_the_proof_draws_strength_one_and_counts_all_prompts(
    tiny_sdxl_folder: Path, tmp_path: Path
) -> None:
    container, scale, embeds = model_with(tiny_sdxl_folder, exact=True)
    run_dir = RunDir(tmp_path)
    run_dir.prepare()
    report = prove(
        container, scale, Recipe.model_validate(RECIPE), embeds, run_dir, plugins=SHIPPED
    )
    assert report.scales == (0, 0.5, 1)
    erasure = report.erasure
    assert erasure is not None
    assert (erasure.num_asking, erasure.num_others) == (2, 4)
    assert erasure.accuracy_by_label.keys() == {"green", "blue"}
    assert report.details["num_images"] == 6 * 3
    assert [kept.num_judged + kept.num_undetermined for kept in report.preservation] == [4]
    assert (tmp_path / "adapter" / "report.png").is_file()
    assert (tmp_path / "samples" / "proof.png").is_file()


def test_removal_is_one_where_the_concept_is_read_as_its_guide(tiny_sdxl_folder: Path) -> None:
    for exact, expected, verdict in ((True, 1.0, "working"), (False, 0.0, "dead")):
        container, scale, embeds = model_with(tiny_sdxl_folder, exact=exact)
        recipe = Recipe.model_validate(RECIPE)
        found = measure_efficacy(container, scale, recipe, embeds, plugins=SHIPPED)
        assert isinstance(found, EraserEfficacy)
        assert found.removal == pytest.approx(expected, abs=1e-3)
        assert found.verdict == verdict
        assert found.leakage is not None


def test_a_recipe_with_others_comes_back_as_it_was_and_is_checked() -> None:
    recipe = parse_recipe(RECIPE, plugins=SHIPPED)
    assert parse_text(dump_recipe(recipe), "again", plugins=SHIPPED) == recipe
    assert recipe.other_prompts == ("a green square", "a blue circle")
    text = dump_recipe(recipe)
    for gone, message in (("  erased: red\n", "others needs erased"),):
        (problem,) = check_text(text.replace(gone, ""), "r.yaml", plugins=SHIPPED)
        assert message in problem.message
