import json

import numpy as np
import pytest

from loba_tui.core.program.evaluation.efficacy.slider import SliderEfficacy
from loba_tui.core.program.evaluation.figures import measure_figures
from loba_tui.core.program.evaluation.preservation import measure_preservation
from loba_tui.core.program.evaluation.report import make_report
from loba_tui.core.program.evaluation.report_plot import report_png
from loba_tui.core.program.evaluation.slider_effect import Measurement
from loba_tui.core.program.evaluation.verdict import OUTCOMES
from loba_tui.models.shapes_world import Scene, draw, read

SCALES = (-3, -2, -1, 0, 1, 2, 3)
LOOKS = [
    ("circle", "red", "white"),
    ("square", "green", "black"),
    ("triangle", "yellow", "blue"),
    ("cross", "cyan", "gray"),
    ("circle", "purple", "green"),
]


def drawn_slider(kind):
    """Return (num_samples, num_scales, H, W, 3) scenes as a slider of this kind would draw them."""
    rng = np.random.default_rng(0)
    images = []
    for look in LOOKS * 2:
        radius = rng.uniform(6.5, 8.5)
        center = tuple(16 + rng.uniform(-2, 2, size=2))
        images.append([_drawn(kind, look, radius, center, scale, rng) for scale in SCALES])
    return np.array(images)


def _drawn(kind, look, radius, center, scale, rng):
    shape, color, background = look
    pull = {"dead": 0, "reversed": -0.15, "weak": 0.01}.get(kind, 0.15) * scale
    if kind == "one-sided":
        pull = max(pull, 0)
    if kind == "entangled" and scale and rng.random() < 0.4:
        color = "orange"
    noise = 0.002 if kind in ("dead", "one-sided") else 0
    radius = radius * np.exp(pull + noise * rng.standard_normal() * (scale != 0))
    image = draw(Scene(shape, color, background, radius, 0.85, center))
    if kind == "breaking":
        image = 0.5 + (image - 0.5) * (1 + abs(scale))
        image = image + 0.12 * abs(scale) * rng.standard_normal(image.shape)
    return np.clip(image, 0, 1)


def table(images, of):
    return np.array([[of(read(image)) for image in sample] for sample in images], dtype=object)


def report_on(kind, **kwargs):
    images = drawn_slider(kind)
    area = table(images, lambda reading: np.nan if reading.shape is None else reading.area)
    figures = measure_figures(
        SCALES,
        images,
        measured=Measurement("shape_area", area.astype(float), "pixels"),
        labels={
            "shape_color": table(images, lambda reading: reading.color),
            "shape_background": table(images, lambda reading: reading.background),
        },
        **kwargs,
    )
    return make_report(kind, figures)


@pytest.mark.parametrize(
    "kind", ["working", "weak", "dead", "one-sided", "breaking", "entangled", "reversed"]
)
def test_drawn_sliders_are_told_apart(kind):
    report = report_on(kind)
    assert report.outcome == kind, report.verdict
    assert report.outcome in OUTCOMES


def test_perfect_slider_has_the_figures_it_was_drawn_with():
    report = report_on("working")
    assert report.effect.rho.worst == pytest.approx(1)
    assert report.effect.above.ratio == pytest.approx(np.exp(4 * 0.15), rel=0.05)
    assert report.effect.below.ratio == pytest.approx(np.exp(-4 * 0.15), rel=0.05)
    assert report.effect.balance == pytest.approx(1, abs=0.1)
    assert report.clean_range == (-3, 3)
    assert [kept.least_within_2 for kept in report.preservation] == [1, 1]


def test_clean_range_is_contiguous_around_zero():
    images = np.repeat(drawn_slider("dead")[:, 3:4], 7, axis=1)
    labels = np.full(images.shape[:2], "same", dtype=object)
    labels[:2, 5] = "other"  # 20 % at +2: what is clean beyond it does not count
    report = make_report("run", measure_figures(SCALES, images, labels={"label": labels}))
    assert report.clean_range == (-3, 1)


def test_lost_label_is_changed_and_unreadable_base_is_left_out():
    values = np.array([["a", "a", None], [None, None, "b"], ["a", "a", "a"]], dtype=object)
    kept = measure_preservation("label", values, (-1, 0, 1))
    assert kept.share_unchanged == (1, 1, 0.5)
    assert (kept.num_judged, kept.num_undetermined) == (2, 1)


def test_numeric_label_may_move_by_a_tenth():
    values = np.array([[1.05, 1.0, 1.2], [0.85, 1.0, 1.0]], dtype=object)
    assert measure_preservation("label", values, (-1, 0, 1)).share_unchanged == (0.5, 1, 0.5)


def test_without_a_measure_the_unet_alone_decides():
    images = drawn_slider("working")
    efficacy = SliderEfficacy(0.9, 0.9, 0.5, 0.5, 0.6, 0.9, 1, None, "working", 8, 40)
    figures = measure_figures(SCALES, images, efficacy=efficacy)
    assert make_report("run", figures).outcome == "working"
    alone = make_report("run", measure_figures(SCALES, images))
    assert alone.outcome == "unmeasured"
    assert alone.images.change[0] > alone.images.change[2] > alone.images.change[3] == 0


def test_json_is_versioned_and_holds_no_nan():
    images = drawn_slider("working")
    nothing = Measurement("shape_area", np.full(images.shape[:2], np.nan), "pixels")
    text = make_report("run", measure_figures(SCALES, images, measured=nothing)).to_json()
    content = json.loads(text, parse_constant=lambda name: pytest.fail(name))
    assert content["version"] == 1
    assert content["effect"]["unit"] == "pixels"
    assert content["effect"]["mean"] == [None] * 7
    assert content["outcome"] == "dead"


def test_summary_is_short_text():
    summary = report_on("working").summary()
    assert summary["outcome"] == "working"
    assert summary["clean_range"] == "-3 3"
    assert all(isinstance(value, str) and len(value) < 200 for value in summary.values())


@pytest.mark.parametrize("kind", ["working", "breaking"])
def test_page_is_drawn_with_the_same_bytes_every_time(kind, tmp_path):
    from PIL import Image

    report, images = report_on(kind), drawn_slider(kind)
    measured = Measurement("shape_area", np.ones(images.shape[:2]))
    paths = [tmp_path / "a.png", tmp_path / "b.png"]
    for path in paths:
        path.write_bytes(report_png(report, images, measured=measured))
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert Image.open(paths[0]).size == (1200, 800)


def test_page_survives_foreign_text_and_a_missing_measure():
    import dataclasses

    report = make_report("x", measure_figures((-1.0, 0.0, 2.5), drawn_slider("dead")[:1, :3]))
    hostile = dataclasses.replace(
        report, name="$\\frac{1}{ \x1b[31m" + "w" * 90, verdict=("$x_{$ " * 60,)
    )
    assert len(report_png(hostile, drawn_slider("dead")[:1, :3])) > 1000
