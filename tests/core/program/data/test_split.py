"""Which images are held out: a stable rule, and no image on both sides."""

from __future__ import annotations

from pathlib import Path

import pytest

from loba_tui.core.errors import DataError
from loba_tui.core.program.data.batches import Arrangement, Unit
from loba_tui.core.program.data.items import Item
from loba_tui.core.program.data.split import few, hold_out, shared_images
from loba_tui.core.program.data.validate import Image


def unit(*pixels: str, is_prior: bool = False) -> Unit:
    images = tuple(
        Image(Item(f"{text}.png", 0, text, Path(text)), (8, 8), "", text, pixels=text)
        for text in pixels
    )
    return Unit(images, (None,) * len(images), (8, 8), "", is_prior)


def arrangement(*units: Unit) -> Arrangement:
    return Arrangement(units, tuple(range(1, len(units) + 1)))


def test_an_image_stays_on_its_side_as_the_data_grows() -> None:
    units = [unit(f"image {number}") for number in range(400)]
    rest, held = hold_out(arrangement(*units[:200]), 0.1, seed=0)
    _, more = hold_out(arrangement(*units), 0.1, seed=0)
    assert set(held) == set(more) & set(units[:200])
    assert not set(rest.units) & set(more)
    assert 10 <= len(held) <= 30
    assert len(rest.units) + len(held) == 200
    places = {each: place + 1 for place, each in enumerate(units)}
    assert rest.repeats == tuple(places[each] for each in rest.units)
    _, other = hold_out(arrangement(*units[:200]), 0.1, seed=1)
    assert set(other) != set(held)
    assert few(units, 5, seed=0) == few(reversed(units), 5, seed=0)


def test_a_few_images_still_hold_one_out_and_leave_some_to_train_on() -> None:
    rest, held = hold_out(arrangement(unit("a"), unit("b"), unit("c")), 1e-9, seed=0)
    assert (len(rest.units), len(held)) == (2, 1)
    with pytest.raises(DataError, match="nothing to train on"):
        hold_out(arrangement(unit("a")), 0.5, seed=0)


def test_prior_images_and_copies_of_trained_ones_are_not_held_out() -> None:
    prior = [unit(f"prior {n}", is_prior=True) for n in range(20)]
    own = [unit(f"own {n}") for n in range(20)]
    _, held = hold_out(arrangement(*prior, *own), 0.5, seed=0)
    assert not set(held) & set(prior)
    # Every pair has one image in common with the next: none can be held out alone.
    chain = [unit(f"{n}", f"{n + 1}") for n in range(20)]
    alone = [unit(f"x{n}", f"y{n}") for n in range(8)]
    for seed in range(5):
        rest, held = hold_out(arrangement(*chain, *alone), 0.6, seed=seed)
        assert set(held) <= set(alone)
        assert shared_images(held, rest.units) == []


def test_shared_images_are_named_by_both_names() -> None:
    (found,) = shared_images([unit("a"), unit("b")], [unit("b"), unit("c")])
    assert found.name == "b.png"
    assert "trained on as b.png" in found.problem
