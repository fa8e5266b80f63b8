"""What an edit costs, concept by concept and prompt by prompt."""

from __future__ import annotations

import csv
import io

import pytest
import torch

from loba_tui.core.program.closed_form.linear_edit import Edit
from loba_tui.core.program.closed_form.measure_costs import measure_costs
from loba_tui.core.program.evaluation.costs.concept_costs import ConceptCosts
from loba_tui.core.program.evaluation.costs.files import costs_csv, costs_png

AXES = torch.eye(6, dtype=torch.float64)


def costs() -> ConceptCosts:
    """Of a concept whose change is done to 90 %, and of one of two states that is done wholly."""
    edit = Edit(AXES[:3], AXES[3:6] - AXES[:3], (0, 1, 1))
    reads = AXES[:3] * torch.tensor([[0.9], [1.0], [1.0]], dtype=torch.float64)
    return measure_costs(
        edit,
        reads,
        concepts=[("=red", "blue"), ("green", "nothing")],
        preserved={"still": AXES[4:6], "near": torch.stack([AXES[5], 0.1 * AXES[0] + AXES[5]])},
        watched={"mixed": AXES[:1] + AXES[1:2]},
    )


def test_each_concept_is_told_apart() -> None:
    red, green = costs().concepts
    root = 2**0.5
    assert (red.undone, green.undone) == pytest.approx((0.1, 0.0))
    assert red.moves == pytest.approx((0.0, 0.09 * root / (1 + 1.01) ** 0.5, 0.9), abs=1e-12)
    assert green.moves == pytest.approx((0.0, 0.0, 1.0), abs=1e-12)
    assert costs().dearest(red) == (pytest.approx(0.9), "mixed")


def test_each_prompt_is_told_what_moves_it() -> None:
    still, near, mixed = costs().prompts
    assert (still.is_preserved, near.is_preserved, mixed.is_preserved) == (True, True, False)
    assert still.moved == pytest.approx(0.0, abs=1e-12)
    assert near.most_by == "=red"
    assert mixed.most_by == "green"
    assert mixed.moved == pytest.approx((0.81 * 2 + 2) ** 0.5 / 2**0.5)


def test_the_sentences_name_the_worst() -> None:
    undone, preserved, watched = costs().sentences()
    assert undone == "Of 2 concepts 1 keep more than 5% of what they were: =red 10%."
    assert preserved.startswith(
        "2 preserved prompts move by 4.5% in the mean, at most near by 9.0%"
    )
    assert watched.endswith("through green.")
    assert costs().figures() == {
        "most_undone": pytest.approx(0.1),
        "most_preserved_moved": pytest.approx(0.0898, abs=1e-4),
        "most_watched_moved": pytest.approx(1.345, abs=1e-3),
    }


def test_the_table_opens_in_a_spreadsheet_and_the_picture_is_the_same_twice() -> None:
    rows = list(csv.DictReader(io.StringIO(costs_csv(costs()))))
    assert [row["name"] for row in rows] == ["green", "'=red", "near", "still", "mixed"]
    assert rows[1]["undone"] == "0.1"
    assert costs_png(costs()) == costs_png(costs())


def test_without_other_prompts_there_is_a_table_and_a_picture_too() -> None:
    edit = Edit(AXES[:1], AXES[1:2], (0,))
    alone = measure_costs(edit, AXES[:1], concepts=[("a", "b")], preserved={}, watched={})
    assert alone.sentences() == ("Of the change of 1 concept at most 0.0% is undone.",)
    assert costs_png(alone).startswith(b"\x89PNG")
