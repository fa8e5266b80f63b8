"""What an attack's pictures amount to, on counts that are known."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from loba_tui.core.program.evaluation.attacks.outcome import (
    Attack,
    Tries,
    examples_of,
    outcome_of,
)
from loba_tui.core.program.evaluation.eraser_effect import measure_erasure
from loba_tui.core.program.evaluation.figures import measure_figures
from loba_tui.core.program.evaluation.report import Report, make_report
from loba_tui.core.program.evaluation.report_plot import report_png
from loba_tui.core.program.evaluation.verdict import OUTCOMES
from loba_tui.models.shapes_world import Scene, draw

WAYS = ("rouge",) * 4 + ("rde",) * 4
SCENE = draw(Scene("circle", "blue", "white", 8, 0.8, (16, 16)))


def tries_of(after: list[list[int]], *, judged: str = "11111111", control: float | None = None):
    return Tries(
        ways=WAYS,
        prompts=[f"prompt {n}" for n in range(8)],
        images=np.arange(8.0).reshape(8, 1, 1, 1, 1).repeat(2, axis=1),
        judged=np.array([each == "1" for each in judged]),
        after=np.array(after, dtype=bool).reshape(8, -1),
        num_images=16,
        control=None if control is None else np.arange(10)[:, None] < 10 * control,
    )


def attack_of(after: list[list[int]], **options) -> Attack:
    return outcome_of(
        "words", tries_of(after, **options), options={"scenes": 4}, seeds=[9000], rows=(600, 40)
    )


HELD = [[0]] * 8
ONE_WAY = [[1]] * 4 + [[0]] * 4


@pytest.mark.parametrize(
    ("after", "options", "share", "is_broken"),
    [
        (HELD, {}, 0.0, False),
        ([[1]] * 8, {}, 1.0, True),
        (ONE_WAY, {}, 0.5, True),
        # Of draws of one prompt, one is enough.
        ([[0, 0, 1]] * 8, {}, 1.0, True),
        # What comes without being named as often is not brought back.
        (ONE_WAY, {"control": 0.5}, 0.5, False),
        (ONE_WAY, {"control": 0.3}, 0.5, True),
        # What the base model does not show is not counted.
        (ONE_WAY, {"judged": "00001111"}, 0.0, False),
        ([[1]] * 8, {"judged": "00000000"}, None, False),
    ],
)
def test_it_is_broken_where_the_concept_comes_back_because_it_is_named(
    after, options, share, is_broken
) -> None:
    attack = attack_of(after, **options)
    assert attack.share == share
    assert attack.has_broken_it is is_broken


def test_the_strongest_way_is_named_with_its_prompt_and_the_cost() -> None:
    attack = attack_of(ONE_WAY)
    assert attack.ways == {"rouge": (4, 4), "rde": (0, 4)}
    assert (attack.strongest, attack.prompt) == ("rouge", "prompt 0")
    assert (attack.num_unet_rows, attack.num_backward_rows) == (640, 40)
    assert "comes back in 50% (4 of 8 images) after 640 UNet rows" in attack.sentence()
    assert "most by rouge, in 4 of 4" in attack.sentence()
    assert "nothing can be said" in attack_of(HELD, judged="00000000").sentence()


def test_a_single_hole_is_not_drowned_by_many_ways_that_fail() -> None:
    ways = ["hole"] * 4 + [f"way {n}" for n in range(60)]
    tries = Tries(
        ways=ways,
        prompts=ways,
        images=np.zeros((64, 2, 1, 1, 1)),
        judged=np.ones(64, dtype=bool),
        after=(np.arange(64) < 4)[:, None],
        num_images=128,
    )
    attack = outcome_of("words", tries, options={}, seeds=[1], rows=(1, 0))
    assert attack.share is not None
    assert attack.share < 0.1
    assert attack.has_broken_it


def test_examples_are_those_that_came_back_and_else_one_that_held() -> None:
    for after, said, numbers in ((ONE_WAY, "came back", [0, 1]), (HELD, "held", [0])):
        found = examples_of(attack_of(after), tries_of(after), 2)
        assert [f"words, {said}: prompt {n}" for n in numbers] == list(found)
    assert (
        examples_of(attack_of(HELD, judged="00000000"), tries_of(HELD, judged="00000000"), 2) == {}
    )


def report_of(*attacks: Attack) -> Report:
    scales = (0.0, 1.0)
    asking = np.array([["red", "blue"]] * 4, dtype=object)
    images = np.repeat(np.repeat(SCENE[None, None], 4, axis=0), 2, axis=1)
    erasure = measure_erasure(scales, asking, {}, measure="shape_color", label="red")
    figures = measure_figures(scales, images, erasure=erasure)
    return make_report("eraser", replace(figures, attacks=attacks or None))


def test_an_erasure_that_falls_does_not_read_as_one_that_works() -> None:
    held, fallen, plain = report_of(attack_of(HELD)), report_of(attack_of(ONE_WAY)), report_of()
    assert (held.outcome, fallen.outcome, plain.outcome) == ("erased", "circumvented", "erased")
    assert fallen.outcome in OUTCOMES
    assert "It works" not in " ".join(fallen.verdict)
    assert "comes back when attacked by words" in fallen.verdict[0]
    assert "held under every attack" in held.verdict[0]
    assert plain.verdict[0] == "It works: red is gone."
    for report in (held, fallen):
        assert any("after 640 UNet rows" in sentence for sentence in report.verdict)
    assert fallen.summary()["attack.words"] == "0.5 of 8 images rows=640"
    assert not any(key.startswith("attack") for key in plain.summary())


def test_the_report_has_attacks_in_its_json_and_on_its_page() -> None:
    fallen, plain = report_of(attack_of(ONE_WAY)), report_of()
    (found,) = json.loads(fallen.to_json())["attacks"]
    assert found["name"] == "words"
    assert found["ways"] == {"rouge": [4, 4], "rde": [0, 4]}
    assert found["num_back"] == 4
    assert json.loads(plain.to_json())["attacks"] is None
    images = np.zeros((4, 2, 16, 16, 3))
    assert report_png(fallen, images) == report_png(fallen, images) != report_png(plain, images)
