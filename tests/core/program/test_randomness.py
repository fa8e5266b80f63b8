import torch

from loba_tui.core.program import randomness


def test_the_same_key_gives_the_same_noise_whatever_was_drawn_before() -> None:
    first = randomness.normal((3, 2), 7, "noise", 5)
    torch.randn(100)
    randomness.normal((3, 2), 7, "noise", 6)
    assert torch.equal(first, randomness.normal((3, 2), 7, "noise", 5))


def test_seed_and_every_part_of_the_key_matter() -> None:
    keys = [(0, "a", 1), (1, "a", 1), (0, "b", 1), (0, "a", 2), (0, "a", 1, 0), (0, "a", "1")]
    draws = {randomness.normal((4,), *key).numpy().tobytes() for key in keys}
    assert len(draws) == len(keys)


def test_keyed_draws_are_standard_normal_together() -> None:
    pooled = torch.cat([randomness.normal((16,), 0, "slot", slot) for slot in range(2000)])
    assert abs(float(pooled.mean())) < 0.02
    assert abs(float(pooled.std()) - 1) < 0.02


def test_weighted_choice_never_repeats_and_follows_the_weights() -> None:
    weights = torch.tensor([0.0, 1.0, 3.0, 0.0])
    firsts = [randomness.weighted_choice(weights, 1, 0, index)[0] for index in range(2000)]
    assert set(firsts) == {1, 2}
    assert 0.70 < firsts.count(2) / len(firsts) < 0.80
    assert sorted(randomness.weighted_choice(torch.ones(5), 5, 0, "all")) == [0, 1, 2, 3, 4]
