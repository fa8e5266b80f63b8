"""From a recipe's `data` section to checked, arranged and encoded images, or to one error."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch

from loba_tui.core.associate.caches.tensors.latents import LatentCache
from loba_tui.core.associate.containers.base import ModelContainer
from loba_tui.core.program.data.batches import Arrangement, arrange
from loba_tui.core.program.data.buckets import Geometry
from loba_tui.core.program.data.items import BadFile
from loba_tui.core.program.data.latents import Latents
from loba_tui.core.program.data.loader import in_order
from loba_tui.core.program.data.training_data import (
    Cut,
    Decoder,
    ImageData,
    Plan,
    cut_settings,
    fixed_cuts,
)
from loba_tui.core.program.data.validate import Image, Scan, data_error, scan
from loba_tui.core.recipe.schema import Recipe
from loba_tui.core.recipe.sections.data import DataSection

Progress = Callable[[int, int], None]


@dataclass
class PreparedData:
    """The images of a run; `batch_size` is the rows of a micro-step on one process."""

    data: DataSection
    scan: Scan
    arrangement: Arrangement
    seed: int
    batch_size: int
    _store: Latents | None = field(default=None, repr=False)

    @property
    def fingerprint(self) -> str:
        """Hash of everything that is trained on."""
        return self.scan.fingerprint()

    def prompts(self) -> list[str]:
        """Return every caption that training can ask for, each once."""
        return self._plan(1).prompts()

    def summary(self) -> dict[str, Any]:
        """Return what there is, for the run's events."""
        return {
            **self.scan.summary(),
            "units": len(self.arrangement.units),
            "buckets": self.arrangement.bucket_counts(),
            "captions": len(self.prompts()),
            "fingerprint": self.fingerprint,
        }

    def encode(
        self,
        container: ModelContainer,
        open_latents: Callable[[], LatentCache],
        progress: Progress = lambda done, total: None,
    ) -> None:
        """Encode every image that training will ask for, unless the recipe wants that each time.

        The cache on the disk is opened only where the recipe wants it. `progress` is told the
        number of images encoded, and of all.
        """
        on_disk = self.data.cache == "disk"
        encoder = open_latents() if on_disk else LatentCache(container, None)
        self._store = Latents(encoder, keep=self.data.cache == "memory")
        if self.data.cache == "none":
            return
        plan = self._plan(1)
        jobs = [
            (image, unit, cut)
            for unit in self.arrangement.units
            for image in unit.images
            for cut in fixed_cuts(self.data)
        ]
        decoder = _Jobs(jobs, Decoder(plan, self.data, ()))
        pixels = in_order(decoder, range(len(jobs)), num_workers=self.data.workers)
        for done, ((image, unit, cut), made) in enumerate(zip(jobs, pixels, strict=True), 1):
            settings = cut_settings(self.data, unit, cut)
            self._store.latent(image, settings, partial(_as_shares, made))
            progress(done, len(jobs))

    def batches(self, container: ModelContainer, *, rank: int, num_processes: int) -> ImageData:
        """Return the batches of one process, once the images are encoded."""
        assert self._store is not None
        first = rank * self.batch_size
        return ImageData(
            self._plan(num_processes),
            self.data,
            self._store,
            places=range(first, first + self.batch_size),
            factor=container.resolution // container.latent_shape()[-1],
            device=container.device,
        )

    def _plan(self, num_processes: int) -> Plan:
        return Plan(
            self.arrangement,
            self.data,
            seed=self.seed,
            global_batch_size=self.batch_size * num_processes,
        )


def _as_shares(pixels: torch.Tensor) -> torch.Tensor:
    return pixels.float() / 255


@dataclass(frozen=True)
class _Jobs:
    jobs: Sequence[tuple[Image, Any, Cut]]
    decoder: Decoder

    def __getitem__(self, index: int) -> torch.Tensor:
        return self.decoder.pixels(*self.jobs[index])


def prepare(
    recipe: Recipe,
    geometry: Geometry,
    *,
    paired: bool,
    progress: Progress = lambda done, total: None,
    on_bad: Callable[[Sequence[BadFile]], None] = lambda bad: None,
) -> PreparedData:
    """Open, check and arrange the images of a recipe.

    Args:
        paired: The method trains on images of the same scene at several strengths.
        progress: Told the number of images opened, and of all.
        on_bad: Told everything that cannot be used, before an error is raised for it.

    Raises:
        DataError: Something cannot be used, and the recipe does not allow to leave it out; or
            nothing is left.
    """
    data = recipe.data
    assert data is not None
    found = scan(data, progress=progress)
    arrangement, unarranged = arrange(found.images, data, geometry, paired=paired)
    bad = [*found.bad, *unarranged]
    if bad:
        on_bad(bad)
    if not arrangement.units and not bad:
        bad = [BadFile("data.sources", "hold no image")]
    if bad and not (data.skip_bad and arrangement.units):
        raise data_error(bad)
    used = {image for unit in arrangement.units for image in unit.images}
    kept = tuple(image for image in found.images if image in used)
    return PreparedData(
        data, Scan(kept, tuple(bad)), arrangement, recipe.train.seed, recipe.train.batch_size
    )
