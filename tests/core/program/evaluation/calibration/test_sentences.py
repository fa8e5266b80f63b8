"""The words of a calibration, from searches on known curves."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from loba_tui.core.program.evaluation.calibration.calibrate import Calibration, described
from loba_tui.core.program.evaluation.calibration.search import Search, Seen
from loba_tui.core.recipe.sections.calibrate import CalibrateSection

LOOKS: Any = SimpleNamespace(
    recipe=SimpleNamespace(proof=SimpleNamespace(measure=SimpleNamespace(name="shape_area"))),
    grid=SimpleNamespace(prompts=("a", "b"), seeds=(7000,)),
    num_images=14,
    num_unet_rows=560,
)


def calibration(effect: Callable[[float], float], end: float, **section: Any) -> Calibration:
    asked = CalibrateSection(**section)
    wanted = math.log(asked.ratio) if asked.ratio else asked.difference
    found = Search(
        lambda scales: [Seen(effect(s), abs(s) <= end) for s in scales], wanted, least=0.03
    )
    return described(asked, found.run(), LOOKS)


def test_scales_are_those_of_the_calibrated_adapter() -> None:
    found = calibration(lambda s: 0.1 * s, 4, at=2, ratio=math.exp(0.3))
    assert found.outcome == "reached"
    assert found.factor == pytest.approx(1.5, rel=0.02)
    assert found.above == pytest.approx(1 / found.below) == pytest.approx(math.exp(0.3), rel=0.02)
    assert found.range[1] == pytest.approx(4 / 1.5, rel=0.02)
    assert found.scale_above == pytest.approx(2, rel=0.02)
    assert found.scale_below == -found.scale_above
    assert found.balance == pytest.approx(1)
    told = " ".join(found.sentences())
    assert "1.35× at ±2" in told
    assert "from −2.67 to +2.67 (14 images, 560 UNet rows)" in told
    assert found.summary()["asked"] == f"ratio {math.exp(0.3):g}"


def test_uneven_sides_are_told() -> None:
    found = calibration(lambda s: 0.3 * s if s > 0 else 0.1 * s, 4, difference=0.2)
    assert found.balance == pytest.approx(1 / 3)
    assert "Evenness of its two sides there: 0.33." in found.sentences()


def test_one_side_that_does_nothing_is_told() -> None:
    found = calibration(lambda s: max(0.0, 0.3 * s), 4, difference=0.2)
    assert found.below is None
    assert any("One side of 0 does not work" in each for each in found.sentences())


def test_an_effect_out_of_reach_makes_the_scale_the_end_of_the_range() -> None:
    found = calibration(lambda s: 0.1 * s, 3, difference=0.9)
    assert (found.outcome, found.factor, found.range) == ("short", 3.0, (-1.0, 1.0))
    assert found.above == pytest.approx(0.3)
    assert "+0.9 is not reached before" in found.sentences()[0]


def test_saturation_makes_the_scale_the_end_of_the_range() -> None:
    found = calibration(lambda s: 5.0 * s, 4, at=3, saturation=True)
    assert (found.outcome, found.range) == ("reached", (-3.0, 3.0))
    assert found.factor == pytest.approx(4 / 3)


@pytest.mark.parametrize("asked", [{"ratio": 1.5}, {"saturation": True}])
def test_what_does_nothing_is_left_and_that_is_told(asked: dict[str, Any]) -> None:
    found = calibration(lambda s: 0.0, 4, **asked)
    assert (found.outcome, found.factor) == ("left", 1.0)
    (told,) = found.sentences()
    assert told.startswith("Not calibrated")
    assert "left as it was" in told
