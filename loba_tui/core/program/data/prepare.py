"""From a recipe's `data` section to checked, arranged and encoded images, or to one error."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch

from loba_tui.core.associate.caches.tensors.latents import LatentCache
from loba_tui.core.associate.containers.base import ModelContainer
from loba_tui.core.errors import DataError
from loba_tui.core.program.data.batches import BUCKET_SIZES, Arrangement, Unit, arrange
from loba_tui.core.program.data.buckets import Geometry
from loba_tui.core.program.data.fixed_batches import FixedImages, fixed
from loba_tui.core.program.data.items import BadFile
from loba_tui.core.program.data.latents import Latents
from loba_tui.core.program.data.loader import in_order
from loba_tui.core.program.data.split import few, hold_out, shared_images
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
from loba_tui.core.recipe.sections.validation import ValidationSection

Progress = Callable[[int, int], None]


@dataclass
class PreparedData:
    """The images of a run.

    Attributes:
        scan: Of what is trained on.
        batch_size: Rows of a micro-step on one process.
        held_out: What the validation loss is evaluated on; None where it is not.
        compared: Images that are trained on, evaluated beside them.
        num_held_out: Of them at most `validation.most` are evaluated.
    """

    data: DataSection
    scan: Scan
    arrangement: Arrangement
    seed: int
    batch_size: int
    held_out: FixedImages | None = None
    compared: FixedImages | None = None
    num_held_out: int = 0
    _store: Latents | None = field(default=None, repr=False)
    _evaluated_store: Latents | None = field(default=None, repr=False)

    @property
    def fingerprint(self) -> str:
        """Hash of everything that is trained on."""
        return self.scan.fingerprint()

    def prompts(self) -> list[str]:
        """Return every caption that training can ask for, each once."""
        return self._plan(1).prompts()

    def evaluated(self) -> list[FixedImages]:
        """Return the images that a loss is evaluated on."""
        return [each for each in (self.held_out, self.compared) if each is not None]

    def all_prompts(self) -> list[str]:
        """Return every caption that training or an evaluation can ask for, each once."""
        evaluated = [prompt for each in self.evaluated() for prompt in each.prompts()]
        return list(dict.fromkeys([*self.prompts(), *evaluated]))

    def summary(self) -> dict[str, Any]:
        """Return what there is, for the run's events."""
        held_out = {} if self.held_out is None else {"held_out": self.num_held_out}
        return {
            **self.scan.summary(),
            **held_out,
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
        """Encode every image that will be asked for; those of training only where they are kept.

        The cache on the disk is opened only where the recipe wants it. `progress` is told the
        number of images encoded, and of all.
        """
        on_disk = self.data.cache == "disk"
        encoder = open_latents() if on_disk else LatentCache(container, None)
        self._store = Latents(encoder, keep=self.data.cache == "memory")
        self._evaluated_store = Latents(encoder, keep=self.data.cache != "disk")
        jobs = []
        if self.data.cache != "none":
            cuts = fixed_cuts(self.data)
            jobs += self._jobs(self.arrangement.units, cuts, self.data, self._store)
        for each in self.evaluated():
            jobs += self._jobs(each.units, (Cut(),), each.data, self._evaluated_store)
        decoder = _Jobs(jobs, Decoder(self._plan(1), self.data, ()))
        pixels = in_order(decoder, range(len(jobs)), num_workers=self.data.workers)
        with container.vae_held() if jobs else nullcontext():
            for done, (job, made) in enumerate(zip(jobs, pixels, strict=True), 1):
                settings = cut_settings(job.data, job.unit, job.cut)
                job.store.latent(job.image, settings, partial(_as_shares, made))
                progress(done, len(jobs))

    def _jobs(
        self, units: Sequence[Unit], cuts: Sequence[Cut], data: DataSection, store: Latents
    ) -> list[_Job]:
        return [
            _Job(image, unit, cut, data, store)
            for unit in units
            for image in unit.images
            for cut in cuts
        ]

    def fixed_batches(self, container: ModelContainer, images: FixedImages) -> ImageData:
        """Return the batches of images that a loss is evaluated on, once they are encoded."""
        assert self._evaluated_store is not None
        return images.batches(container, self._evaluated_store)

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
class _Job:
    """An image to be encoded."""

    image: Image
    unit: Unit
    cut: Cut
    data: DataSection
    store: Latents


@dataclass(frozen=True)
class _Jobs:
    jobs: Sequence[_Job]
    decoder: Decoder

    def __getitem__(self, index: int) -> torch.Tensor:
        job = self.jobs[index]
        return self.decoder.pixels(job.image, job.unit, job.cut)


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
    data, validation = recipe.data, recipe.validation
    assert data is not None
    opened = partial(_open, geometry=geometry, paired=paired, progress=progress)
    found, arrangement, bad = opened(data, hash_pixels=validation is not None)
    held: tuple[Unit, ...] = ()
    if validation is not None and validation.sources:
        elsewhere = data.model_copy(update={"sources": validation.sources})
        _, others, problems = opened(elsewhere, hash_pixels=True)
        held = others.units
        bad += [each for each in problems if each.name != BUCKET_SIZES]
    if bad:
        on_bad(bad)
    if not arrangement.units and not bad:
        bad = [BadFile("data.sources", "hold no image")]
    if bad and not (data.skip_bad and arrangement.units):
        raise data_error(bad)
    if validation is not None and validation.share is not None:
        arrangement, held = hold_out(arrangement, validation.share, validation.seed)
    if copies := shared_images(held, arrangement.units):
        on_bad(copies)
        raise data_error(copies, "Remove them from validation.sources, or from data.sources.")
    used = {image for unit in arrangement.units for image in unit.images}
    kept = tuple(image for image in found if image in used)
    prepared = PreparedData(
        data, Scan(kept, tuple(bad)), arrangement, recipe.train.seed, recipe.train.micro_batch_size
    )
    if validation is not None:
        _evaluate(prepared, validation, held)
    return prepared


def _open(
    data: DataSection, *, geometry: Geometry, paired: bool, progress: Progress, hash_pixels: bool
) -> tuple[tuple[Image, ...], Arrangement, list[BadFile]]:
    """Return the good images of a section, as they are arranged, and what is bad."""
    found = scan(data, progress=progress, hash_pixels=hash_pixels)
    arrangement, unarranged = arrange(found.images, data, geometry, paired=paired)
    return found.images, arrangement, [*found.bad, *unarranged]


def _evaluate(prepared: PreparedData, validation: ValidationSection, held: Sequence[Unit]) -> None:
    """Say of which images a loss is to be evaluated."""

    def images(data: DataSection, units: Sequence[Unit]) -> FixedImages:
        return FixedImages(
            fixed(data),
            few(units, validation.most, validation.seed),
            validation.timesteps,
            prepared.batch_size,
            validation.seed,
        )

    data = prepared.data
    sources = validation.sources or data.sources
    prepared.num_held_out = len(held)
    prepared.held_out = images(data.model_copy(update={"sources": sources}), held)
    if not prepared.held_out.units:
        raise DataError(
            "validation.sources: none of its images can be used", "Mend them, or name others."
        )
    if validation.training_loss:
        prepared.compared = images(data, prepared.arrangement.units)
