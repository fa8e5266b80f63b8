"""The closed forms against dense algebra."""

from __future__ import annotations

import pytest
import torch

from loba_tui.core.program.closed_form.linear_edit import (
    Edit,
    StateUpdate,
    condensed,
    gram,
    least_heard,
    outside,
    revived,
    row_space,
    solve,
)

WIDTH, OUT = 24, 16


def rows(seed: int, num: int, width: int = WIDTH) -> torch.Tensor:
    return torch.randn(num, width, generator=torch.Generator().manual_seed(seed))


def dense(
    weight: torch.Tensor, edit: Edit, kept: torch.Tensor, e: float, p: float, lam: float
) -> torch.Tensor:
    """Return W' = M₁ M₂⁻¹ as Unified Concept Editing writes it."""
    c, g, r = edit.states.double(), (edit.states + edit.changes).double(), kept.double()
    w = weight.double()
    m1 = lam * w + e * (w @ g.T) @ c + p * (w @ r.T) @ r
    m2 = lam * torch.eye(w.shape[1]).double() + e * c.T @ c + p * r.T @ r
    return m1 @ torch.linalg.inv(m2)


# Fewer states than dimensions (as with SD-XL) and more: two ways to the same solution.
@pytest.mark.parametrize(("num_edited", "num_kept"), [(3, 5), (40, 60), (1, 0)])
@pytest.mark.parametrize(("e", "p", "lam"), [(1.0, 1.0, 0.5), (2.0, 0.3, 0.05)])
def test_the_update_is_the_dense_closed_form(
    num_edited: int, num_kept: int, e: float, p: float, lam: float
) -> None:
    edit = Edit(rows(0, num_edited), rows(1, num_edited))
    kept, weight = rows(2, num_kept), rows(3, OUT)
    update = solve(edit, kept, edit_weight=e, preserve_weight=p, identity_weight=lam)
    up, down = update.of_layer(weight)
    assert up.dtype == down.dtype == torch.float32
    assert update.rank <= min(num_edited, WIDTH)
    expected = dense(weight, edit, kept, e, p, lam) - weight.double()
    error = torch.linalg.norm(up.double() @ down.double() - expected)
    assert float(error / torch.linalg.norm(expected)) <= 1e-5


def test_the_update_minimises_what_it_says_it_does() -> None:
    edit, kept, weight = Edit(rows(0, 4), rows(1, 4)), rows(2, 6), rows(3, OUT).double()
    up, down = solve(edit, kept, edit_weight=2.0, preserve_weight=0.7).of_layer(weight)
    edited = (weight + up.double() @ down.double()).requires_grad_(True)
    c, d, r = edit.states.double(), edit.changes.double(), kept.double()
    loss = 2.0 * ((edited @ c.T - weight @ (c + d).T) ** 2).sum()
    loss = loss + 0.7 * ((edited @ r.T - weight @ r.T) ** 2).sum()
    loss = loss + 0.5 * ((edited - weight) ** 2).sum()
    (gradient,) = torch.autograd.grad(loss, edited)
    assert float(gradient.abs().max()) < 1e-4 * float(weight.abs().max())


# Both ways to the solution, and kept states that are sums of each other.
@pytest.mark.parametrize(("num_edited", "num_near"), [(3, 5), (10, 40)])
def test_kept_states_do_not_move_and_the_rest_is_the_least_squares_that_leaves_them(
    num_edited: int, num_near: int
) -> None:
    edit, near = Edit(rows(0, num_edited), rows(1, num_edited)), rows(2, num_near)
    kept = rows(4, 6, 4).double() @ rows(5, 4).double()
    update = solve(edit, near, kept=kept, edit_weight=2.0, preserve_weight=0.7)
    moved = update.left @ update.right
    assert float((moved @ kept.T).norm() / (moved.norm() * kept.norm())) < 1e-12
    moved.requires_grad_(True)
    loss = 2.0 * ((moved @ edit.states.double().T - edit.changes.double().T) ** 2).sum()
    loss = loss + 0.7 * ((moved @ near.double().T) ** 2).sum() + 0.5 * (moved**2).sum()
    (gradient,) = torch.autograd.grad(loss, moved)
    # The gradient of what is free; along the kept states the constraint holds it.
    assert float(outside(gradient, row_space(kept)).norm()) < 1e-9 * float(gradient.norm())


def test_where_nothing_is_left_to_read_nothing_is_edited() -> None:
    assert solve(Edit(rows(0, 2), rows(1, 2)), kept=rows(2, WIDTH)).rank == 0


def test_condensed_rows_stand_for_many_in_every_solution() -> None:
    parts = [rows(seed, 30) for seed in range(10)]
    few, many = condensed(parts), torch.cat(parts).double()
    assert len(few) < 5 * WIDTH < len(many)
    torch.testing.assert_close(few.T @ few, many.T @ many)
    assert torch.equal(condensed(parts[:2]), torch.cat(parts[:2]).double())
    edit = Edit(rows(11, 3), rows(12, 3))
    one, other = solve(edit, few), solve(edit, many)
    torch.testing.assert_close(one.left @ one.right, other.left @ other.right)


def test_the_row_space_leaves_rounding_out() -> None:
    states = rows(0, 5, 3) @ rows(1, 3)
    span = row_space(states)
    assert span.shape == (3, WIDTH)
    torch.testing.assert_close(span @ span.T, torch.eye(3).double())
    assert float(outside(states.double(), span).norm()) == 0
    whole = states.double() + rows(2, 5)
    torch.testing.assert_close(outside(whole, span) @ span.T, torch.zeros(5, 3).double())
    assert row_space(torch.zeros(2, WIDTH)).shape == (0, WIDTH)


def test_the_least_heard_directions_are_those_that_layers_answer_least() -> None:
    heard = rows(0, 4)
    quiet = least_heard(gram([heard, 2 * heard]), WIDTH - 4)
    torch.testing.assert_close(quiet @ quiet.T, torch.eye(WIDTH - 4).double())
    assert float((heard.double() @ quiet.T).norm()) < 1e-6


def test_states_that_are_alike_take_one_rank() -> None:
    states, changes = rows(0, 1).repeat(8, 1), rows(1, 1).repeat(8, 1)
    assert solve(Edit(states, changes)).rank == 1


def test_no_change_is_no_update() -> None:
    assert solve(Edit(rows(0, 3), torch.zeros(3, WIDTH))).rank == 0


def test_a_cut_update_is_the_best_of_its_rank() -> None:
    update = solve(Edit(rows(0, 12), rows(1, 12)), rows(2, 8))
    weight = rows(3, OUT)
    up, down = update.of_layer(weight)
    up_cut, down_cut = update.of_layer(weight, 3)
    assert (up_cut.shape, down_cut.shape) == ((OUT, 3), (3, WIDTH))
    values = torch.linalg.svdvals((up @ down).double())
    lost = torch.linalg.norm((up @ down - up_cut @ down_cut).double())
    torch.testing.assert_close(lost, values[3:].norm(), rtol=1e-4, atol=1e-5)


def test_the_same_input_gives_the_same_bits() -> None:
    edit, weight = Edit(rows(0, 30), rows(1, 30)), rows(3, OUT)
    one, other = (solve(edit, rows(2, 9)).of_layer(weight) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_what_is_undone_is_counted() -> None:
    edit = Edit(rows(0, 3), rows(1, 3))
    nothing = StateUpdate(torch.zeros(WIDTH, 0).double(), torch.zeros(0, WIDTH).double())
    assert edit.unsolved(nothing) == pytest.approx(1)
    assert edit.unsolved(solve(edit, identity_weight=1e-6)) < 1e-4


def test_a_revived_state_is_where_the_edited_layers_come_nearest_to_the_old_answer() -> None:
    states, layers = rows(0, 2).double(), [rows(4, OUT).double(), rows(6, 8).double()]
    update = solve(Edit(rows(7, 3), rows(8, 3)))
    found = revived(states, update, gram(layers), weight=0.3).requires_grad_(True)
    loss = 0.3 * (found**2).sum()
    for original in layers:
        edited = original + (original @ update.left) @ update.right
        loss = loss + ((found @ edited.T - states @ original.T) ** 2).sum()
    (gradient,) = torch.autograd.grad(loss, found)
    assert float(gradient.abs().max()) < 1e-9


def test_hardening_closes_the_way_back() -> None:
    edit, weight = Edit(rows(0, 2).double(), rows(1, 2).double()), rows(3, WIDTH).double()
    layers = gram([weight])

    def way_back(update: StateUpdate) -> float:
        """Return how much of the old answer a state can still get out of the edited layer."""
        edited = weight + (weight @ update.left) @ update.right
        found = revived(edit.states, update, layers, weight=0.1)
        lacks = found @ edited.T - edit.states @ weight.T
        return 1 - float(lacks.norm() / (edit.states @ weight.T).norm())

    first = solve(edit)
    found = revived(edit.states, first, layers, weight=0.1)
    goals = edit.states + edit.changes
    both = Edit(torch.cat([edit.states, found]), torch.cat([edit.changes, goals - found]))
    assert way_back(solve(both)) < way_back(first)
