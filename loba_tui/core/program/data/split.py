"""Which images are held out of training: a function of an image's pixels, and of nothing else.

So a data set can grow: no image changes sides by it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

from loba_tui.core.errors import DataError
from loba_tui.core.program.data.batches import Arrangement, Unit
from loba_tui.core.program.data.items import BadFile


def hold_out(
    arrangement: Arrangement, share: float, seed: int
) -> tuple[Arrangement, tuple[Unit, ...]]:
    """Return what is trained on, and about this share of it, at least one unit, that is not.

    Prior images are never held out, nor is a scene of which an image is trained on elsewhere.

    Raises:
        DataError: Nothing would be left on one of the two sides.
    """
    units = [unit for unit in arrangement.units if not unit.is_prior]
    in_order = sorted(units, key=lambda unit: _fraction(unit, seed))
    held = [unit for unit in in_order if _fraction(unit, seed) < share] or in_order[:1]
    trained = set(arrangement.units) - set(held)
    while both := _pixels(held) & _pixels(trained):
        trained |= {unit for unit in held if _pixels([unit]) & both}
        held = [unit for unit in held if unit not in trained]
    if not held or all(unit.is_prior for unit in trained):
        raise DataError(
            f"validation.share: {share:g} of {len(units)} images leaves nothing to train on or"
            " nothing to hold out",
            "Give it more images, or name others in validation.sources.",
        )
    pairs = zip(arrangement.units, arrangement.repeats, strict=True)
    left = [(unit, repeats) for unit, repeats in pairs if unit in trained]
    rest = Arrangement(tuple(unit for unit, _ in left), tuple(repeats for _, repeats in left))
    return rest, tuple(held)


def few(units: Iterable[Unit], most: int, seed: int) -> tuple[Unit, ...]:
    """Return at most so many units, prior images left out; the same ones in a larger data set."""
    own = [unit for unit in units if not unit.is_prior]
    return tuple(sorted(own, key=lambda unit: _fraction(unit, seed))[:most])


def shared_images(held: Sequence[Unit], trained: Sequence[Unit]) -> list[BadFile]:
    """Return the held-out images whose pixels are trained on."""
    names = {image.pixels: image.item.name for unit in trained for image in unit.images}
    return [
        BadFile(image.item.name, f"is held out, and trained on as {names[image.pixels]}")
        for unit in held
        for image in unit.images
        if image.pixels in names
    ]


def _fraction(unit: Unit, seed: int) -> float:
    """Return a number in [0, 1) that follows from the seed and a unit's pixels."""
    text = " ".join([str(seed), *(image.pixels for image in unit.images)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big") / 2**56


def _pixels(units: Iterable[Unit]) -> set[str]:
    return {image.pixels for unit in units for image in unit.images}
