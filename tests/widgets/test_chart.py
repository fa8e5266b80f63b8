"""A chart's dots: nothing recorded is hidden, and every size can be drawn."""

import math

import pytest

from loba_tui.widgets.chart import ChartData, Curve, draw, legend, shortened

NAN = math.nan


def lines(data: ChartData, width: int = 40, height: int = 10) -> list[str]:
    return ["".join(text for text, _ in row) for row in draw(data, width, height)]


def flat(value: float, num: int = 62) -> list[float]:
    return [value] * num


def test_a_spike_reaches_the_top_and_its_value_is_the_label() -> None:
    greatest = flat(1.0)
    greatest[30] = 9.0
    shown = lines(ChartData("loss", curves=(Curve(flat(1.0), greatest),)))
    assert shown[1].strip().startswith("9┤")
    assert shown[1][9 + 15] not in " ┊"
    assert shown[8].strip().startswith("1┤")


def test_what_is_not_finite_is_a_sign_in_its_column() -> None:
    least = flat(1.0)
    least[20] = NAN
    bad = flat(0.0)
    bad[20] = 3.0
    shown = lines(ChartData("loss", curves=(Curve(least, least, (), bad),)))
    assert shown[1][9 + 10] == "✗"


def test_a_logarithmic_axis_marks_what_is_not_positive() -> None:
    least = [10.0 ** (x / 10) for x in range(62)]
    least[8] = -1.0
    shown = lines(ChartData("loss", curves=(Curve(least, least),), is_log=True))
    assert shown[8][9 + 4] == "v"
    middle = [line for line in shown if "┤" in line][1]
    assert float(middle.split("┤")[0]) == pytest.approx(math.sqrt(least[0] * least[-1]), rel=0.01)


def test_a_line_between_sparse_points_has_no_gap() -> None:
    values = [NAN] * 62
    values[0], values[60] = 0.0, 10.0
    shown = lines(ChartData("x", curves=(Curve(values, values),)))
    columns = list(zip(*(line[9:] for line in shown[1:9]), strict=False))
    assert all(any(cell not in " ┊" for cell in column) for column in columns[:31])


def test_events_are_marks_with_letters() -> None:
    shown = lines(ChartData("x", curves=(Curve(flat(1.0), flat(1.0)),), marks={12: "s"}))
    assert shown[-1][9 + 12] == "s"
    assert shown[1][9 + 12] == "┊"


def test_no_values_are_said_to_be_none() -> None:
    assert "nothing to draw yet" in "\n".join(lines(ChartData("x")))
    nothing = Curve(flat(NAN), flat(NAN), (), flat(1.0))
    assert "no finite value" in "\n".join(lines(ChartData("x", curves=(nothing,), is_bad=True)))


@pytest.mark.parametrize("width", [1, 2, 9, 13, 14, 300])
@pytest.mark.parametrize("height", [1, 2, 3, 4, 100])
def test_every_size_can_be_drawn(width: int, height: int) -> None:
    values = [math.inf, -math.inf, NAN, 0.0, 1e300, -1e-300, 5e-324] * 9
    curve = Curve(values, values, values, flat(1.0, 63))
    for is_log in (False, True):
        shown = draw(ChartData("x" * 99, "y" * 99, (curve, curve), is_log=is_log), width, height)
        assert len(shown) <= height


def test_curves_are_told_apart_without_colour() -> None:
    signs = [text for text, tone in legend(["a", "b", "c"]) if tone]
    assert len(set(signs)) == 3
    assert shortened("size-slider-20261122-182338-b772", 16) == "size-slider…b772"
