"""How much changes inside a region and outside, on images made for it."""

from __future__ import annotations

import numpy as np
import pytest

from loba_tui.core.program.evaluation.figures import measure_figures
from loba_tui.core.program.evaluation.region import inside_of, measure_region
from loba_tui.core.program.evaluation.report import make_report

SCALES = (-1.0, 0.0, 2.0)


def images(inside: float, outside: float) -> np.ndarray:
    """Return two samples that change by so much per unit of scale in the lower half and above."""
    made = np.full((2, 3, 8, 8, 3), 0.5)
    for index, scale in enumerate(SCALES):
        made[:, index, 4:] += inside * scale
        made[:, index, :4] -= outside * scale
    return made


def test_the_ratio_is_that_of_mean_absolute_changes() -> None:
    found = measure_region((0, 0.5, 1, 1), SCALES, images(0.2, 0.02))
    assert found.inside == pytest.approx((0.2, 0.0, 0.4))
    assert found.outside == pytest.approx((0.02, 0.0, 0.04))
    assert found.scale == 2.0
    assert found.ratio == pytest.approx(10)


def test_nothing_outside_has_no_ratio_and_an_odd_region_is_refused() -> None:
    assert measure_region((0, 0.5, 1, 1), SCALES, images(0.2, 0.0)).ratio is None
    for box in ((0, 0, 1, 1), (0.5, 0.5, 0.5, 0.9)):
        with pytest.raises(ValueError, match="pixels"):
            measure_region(box, SCALES, images(0.1, 0.1))


def test_a_box_holds_the_pixels_whose_middle_lies_in_it() -> None:
    inside = inside_of((0.25, 0.5, 0.75, 1), 4, 4)
    assert inside.sum() == 4
    assert inside[2:, 1:3].all()


def test_the_report_says_it() -> None:
    made = images(0.2, 0.02)
    region = measure_region((0, 0.5, 1, 1), SCALES, made)
    report = make_report("x", measure_figures(SCALES, made, region=region))
    assert "Inside the region images change 10.0 times as much as outside, at +2." in report.verdict
    assert '"ratio": 10' in report.to_json()
