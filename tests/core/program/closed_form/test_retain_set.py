"""What an edit has to leave alone."""

from __future__ import annotations

import pytest
import torch

from loba_tui.core.program.closed_form.linear_edit import Edit, solve
from loba_tui.core.program.closed_form.retain_set import RetainSet, most_moved, moved_share, room

AXES = torch.eye(4, dtype=torch.float64)


def test_room_is_what_the_kept_states_leave_of_the_worst_state() -> None:
    states = torch.stack([AXES[0], 3 * AXES[0] + 4 * AXES[1]])
    assert room(states, AXES[1:2]) == pytest.approx(0.6)
    assert room(states, AXES[:2]) == pytest.approx(0.0, abs=1e-12)


def test_the_states_that_a_free_edit_moves_most_are_those_like_the_edited_ones() -> None:
    edit = Edit(AXES[:1], AXES[1:2])
    candidates = torch.stack([AXES[0] + AXES[2], AXES[2], 0.1 * AXES[0] + AXES[3]])
    weights = {"edit_weight": 1.0, "identity_weight": 0.5}
    assert most_moved(candidates, edit, influence=1.0, **weights).tolist() == [True, False, False]
    assert most_moved(candidates, edit, influence=0.0, **weights).tolist() == [True, True, True]


def test_neighbours_are_as_much_noise_as_is_asked_for_where_layers_hear_least() -> None:
    found = RetainSet(3 * AXES[:1], AXES[1:2]).with_neighbours(torch.diag(torch.arange(4.0)), 0.5)
    torch.testing.assert_close(found.near, torch.stack([AXES[1], 1.5 * AXES[0]]))
    assert found.exact is not found.near
    assert torch.equal(found.exact, 3 * AXES[:1])


def test_what_moves_is_told_as_a_share() -> None:
    update = solve(Edit(AXES[:1], AXES[1:2]), identity_weight=1e-9)
    assert moved_share(update, AXES[:2]) == pytest.approx(2**-0.5)
