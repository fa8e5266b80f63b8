"""Opens every image, mask and caption once, before anything is trained, and says what is wrong.

What is found is one list, so that a user mends a data set in one go.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from loba_tui.core.errors import DataError
from loba_tui.core.program.data.captions import BadCaption, tidy
from loba_tui.core.program.data.images import BadImage, decode, decode_mask
from loba_tui.core.program.data.items import BadFile, Item, list_items, read_file, reason
from loba_tui.core.program.data.loader import in_order
from loba_tui.core.recipe.sections.data import DataSection
from loba_tui.core.text import clean

MOST_SHOWN = 50
"""Problems in an error's message; the run's folder has them all."""


@dataclass(frozen=True)
class Image:
    """An image that can be trained on.

    Attributes:
        size: Width and height in pixels, upright.
        caption: On one line; empty where it has none and none is asked for.
        digest: Of the image's and its mask's bytes.
        notes: What its pixels needed, such as "turned".
        pixels: Hash of its pixels, by which copies are known; empty where nobody asked for it.
    """

    item: Item
    size: tuple[int, int]
    caption: str
    digest: str
    notes: tuple[str, ...] = ()
    pixels: str = ""


@dataclass(frozen=True)
class Scan:
    """All that the recipe's sources hold, good and bad; images in the order of the sources."""

    images: tuple[Image, ...]
    bad: tuple[BadFile, ...]

    def fingerprint(self) -> str:
        """Return a hash of all that is trained on: names, pixels and captions."""
        whole = hashlib.sha256()
        for image in self.images:
            parts = (str(image.item.source), image.item.key, image.digest, image.caption)
            whole.update("\0".join(parts).encode("utf-8", "surrogateescape") + b"\n")
        return whole.hexdigest()

    def summary(self) -> dict[str, int]:
        """Return how many images there are, and how many needed what."""
        notes = Counter(note for image in self.images for note in image.notes)
        return {"images": len(self.images), "bad": len(self.bad), **dict(sorted(notes.items()))}


@dataclass(frozen=True)
class _Checker:
    """Opens one item; a function of it alone, so that workers can share the work."""

    items: Sequence[Item]
    data: DataSection
    hash_pixels: bool

    def __getitem__(self, index: int) -> tuple[Image | None, list[BadFile]]:
        item, bad = self.items[index], []
        size, digest = (0, 0), hashlib.sha256()
        notes: tuple[str, ...] = ()
        pixels = ""
        limit = self.data.max_megapixels
        try:
            content = item.read()
            digest.update(content)
            decoded = decode(content, max_megapixels=limit, alpha=self.data.alpha)
            size, notes = decoded.image.size, decoded.notes
            if self.hash_pixels:
                pixels = hashlib.sha256(f"{size}".encode() + decoded.image.tobytes()).hexdigest()
        except (BadImage, OSError) as error:
            bad.append(BadFile(item.name, reason(error)))
        if item.mask_file is not None:
            mask_name = os.fspath(item.mask_file)
            try:
                content = read_file(item.mask_file)
                digest.update(content)
                invert = self.data.mask.invert
                mask = decode_mask(content, max_megapixels=limit, invert=invert).image
                if size != (0, 0) and mask.size != size:
                    have, want = ("x".join(map(str, each)) for each in (mask.size, size))
                    bad.append(BadFile(mask_name, f"is {have}, and its image is {want}"))
            except (BadImage, OSError) as error:
                bad.append(BadFile(mask_name, reason(error)))
        caption = self._caption(item, bad)
        image = Image(item, size, caption, digest.hexdigest(), notes, pixels)
        return (None if bad else image), bad

    def _caption(self, item: Item, bad: list[BadFile]) -> str:
        settings = self.data.captions
        place = item.name if item.caption_file is None else os.fspath(item.caption_file)
        try:
            found = item.read_caption(settings)
            caption = tidy(found) if found is not None else ""
        except (BadCaption, OSError) as error:
            bad.append(BadFile(place, reason(error)))
            return ""
        is_given = self.data.sources[item.source].caption is not None
        if caption or is_given or settings.missing is not None:
            return caption or tidy(settings.missing or "")
        what = "has no caption" if found is None else "its caption is empty"
        bad.append(BadFile(place, f"{what}; data.captions.missing would give it one"))
        return ""


def scan(
    data: DataSection,
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
    hash_pixels: bool = False,
) -> Scan:
    """Open everything that the recipe's sources hold.

    Args:
        progress: Told the number of images opened, and of all.
        hash_pixels: Find out what `Image.pixels` says.
    """
    listing = list_items(data)
    images: list[Image] = []
    bad = list(listing.bad)
    checker = _Checker(listing.items, data, hash_pixels)
    results = in_order(checker, range(len(listing.items)), num_workers=data.workers)
    for done, (image, problems) in enumerate(results, 1):
        bad += problems
        if image is not None:
            images.append(image)
        progress(done, len(listing.items))
    # A bad mask list names its images twice: once as missing, once with what else is wrong.
    names = {problem.name for problem in bad}
    images = [image for image in images if image.item.name not in names]
    return Scan(tuple(images), tuple(dict.fromkeys(bad)))


def data_error(
    bad: Sequence[BadFile],
    hint: str = "Mend or remove these files, or set data.skip_bad: true to leave them out.",
) -> DataError:
    """Return the error that names everything that cannot be used."""
    lines = [f"  {clean(each.name)}: {clean(each.problem)}" for each in bad[:MOST_SHOWN]]
    if len(bad) > MOST_SHOWN:
        lines.append(f"  … and {len(bad) - MOST_SHOWN} more")
    count = "1 problem" if len(bad) == 1 else f"{len(bad)} problems"
    return DataError(
        f"{count} in the training data:",
        hint,
        lines=lines,
    )
