import numpy as np
import pytest
from scipy import stats

from loba_tui.core.program.evaluation.slider_effect import (
    Measurement,
    mean_ranks,
    measure_effect,
    spearman,
)

SCALES = (-3, -2, -1, 0, 1, 2, 3)


def effect_of(values, **kwargs):
    return measure_effect(SCALES, Measurement("thing", np.array(values, dtype=float), **kwargs))


@pytest.mark.parametrize("seed", range(20))
def test_spearman_with_ties_equals_scipy(seed):
    rng = np.random.default_rng(seed)
    x, y = rng.integers(0, 5, size=(2, 9))
    assert spearman(x, y) == pytest.approx(stats.spearmanr(x, y).statistic)


def test_ties_share_their_mean_rank():
    assert mean_ranks([10, 20, 20, 5]).tolist() == [2, 3.5, 3.5, 1]


def test_spearman_of_a_constant_is_undefined():
    assert np.isnan(spearman([1, 2, 3], [4, 4, 4]))


def test_constant_sample_counts_as_zero_and_is_counted():
    effect = effect_of([[1, 2, 3, 4, 5, 6, 7], [5] * 7])
    assert effect.rho.mean == pytest.approx(0.5)
    assert effect.rho.worst == 0
    assert (effect.rho.num_samples, effect.rho.num_constant) == (2, 1)


def test_float_noise_is_a_tie():
    effect = effect_of([100 + 1e-4 * np.arange(7)])
    assert effect.rho.num_constant == 1


def test_unmeasured_scales_are_left_out_and_counted_when_few_remain():
    nan = np.nan
    effect = effect_of([[nan, nan, 1, 2, 3, 4, 5], [nan, nan, nan, nan, nan, 2, 3]])
    assert effect.rho.mean == pytest.approx(0.5)
    assert effect.rho.num_too_few == 1
    assert effect.share_present[0] == 0
    assert np.isnan(effect.mean[0])


def test_ratios_compare_means_at_two_with_zero():
    effect = effect_of([[10, 20, 30, 40, 60, 100, 200], [10, 20, 30, 60, 80, 100, 200]])
    assert effect.above.scale == 2
    assert effect.above.ratio == pytest.approx(2)
    assert effect.below.ratio == pytest.approx(0.4)
    assert effect.below.change == pytest.approx(-30)


def test_even_slider_is_balanced_and_one_sided_is_not():
    even = effect_of([2.0 ** np.array(SCALES)])
    assert even.balance == pytest.approx(1)
    one_sided = effect_of([2.0 ** np.maximum(SCALES, 0)])
    assert one_sided.balance == 0
    assert one_sided.below.rho == 0
    assert one_sided.above.rho == 1


def test_monotone_needs_every_step_and_each_side_is_told_apart():
    effect = effect_of([[3, 1, 2, 4, 5, 6, 7]])
    assert not effect.below.monotone
    assert effect.above.monotone


def test_falling_slider_is_monotone_in_its_own_direction():
    effect = effect_of([[7, 6, 5, 4, 3, 2, 1]])
    assert effect.rho_of_means == pytest.approx(-1)
    assert effect.above.monotone
    assert effect.below.monotone


def test_scales_after_a_limit_is_reached_say_nothing_about_the_slider():
    saturating = [[0.4, 0.5, 0.6, 0.8, 1.0, 0.995, 0.99]]
    free = effect_of(saturating)
    limited = effect_of(saturating, limits=(0, 1))
    assert free.rho_within_limits == free.rho
    assert limited.rho.mean < 0.95
    assert limited.rho_within_limits.mean == pytest.approx(1)


def test_sample_that_should_leave_a_limit_and_does_not_counts_against_the_slider():
    stuck = effect_of([[1.0, 1, 1, 1, 1, 1, 1], [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]], limits=(0, 1))
    assert stuck.rho_within_limits.mean == pytest.approx(0.5)


def test_sample_that_never_could_move_is_left_out_of_rho_within_limits():
    values = [[1, 1, 1, 1], [0.4, 0.5, 0.6, 0.7]]
    effect = measure_effect((0, 1, 2, 3), Measurement("thing", np.array(values), limits=(0.0, 1.0)))
    assert effect.rho.mean == pytest.approx(0.5)
    assert effect.rho_within_limits.mean == pytest.approx(1)
    assert effect.rho_within_limits.num_samples == 1


def test_sample_at_its_limit_from_the_start_is_counted_on_that_side():
    effect = effect_of([[0.4, 0.5, 0.6, 1.0, 1, 1, 1], [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]],
                       limits=(0, 1))  # fmt: skip
    assert effect.above.num_at_limit == 1
    assert effect.below.num_at_limit == 0


def test_quartiles_are_numpys():
    values = np.random.default_rng(0).random((9, 7))
    effect = effect_of(values)
    assert effect.quartile_low == pytest.approx(np.quantile(values, 0.25, axis=0))
    assert effect.median == pytest.approx(np.median(values, axis=0))


def test_values_around_zero_have_changes_but_no_ratios():
    effect = effect_of([[-3, -2, -1, 0, 1, 2, 3]])
    assert effect.above.ratio is None
    assert effect.above.change == 2
    assert effect.balance == pytest.approx(1)


def test_what_the_base_never_shows_is_a_change_of_the_whole_range():
    share = measure_effect((0, 0.5, 1), Measurement("share", np.array([[0, 0, 1.0]] * 4)))
    assert share.relative_change == pytest.approx(1.0)
    limited = Measurement("share", np.array([[0, 0, 0.5]] * 4), limits=(0.0, 2.0))
    assert measure_effect((0, 0.5, 1), limited).relative_change == pytest.approx(0.25)
    nothing = measure_effect((0, 0.5, 1), Measurement("share", np.zeros((4, 3))))
    assert nothing.relative_change == 0
