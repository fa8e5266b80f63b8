"""What is trained on at a step depends on seed and step alone."""

from __future__ import annotations

from collections import Counter
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from loba_tui.core.associate.caches.tensors.latents import LatentCache
from loba_tui.core.associate.embeds import LatentMoments
from loba_tui.core.plugins import SHIPPED
from loba_tui.core.program.data.batches import SampleOrder, arrange
from loba_tui.core.program.data.buckets import Geometry
from loba_tui.core.program.data.loader import Ahead, in_order
from loba_tui.core.program.data.prepare import PreparedData, prepare
from loba_tui.core.program.data.training_data import DataBatch
from loba_tui.core.program.data.validate import scan
from loba_tui.core.recipe.load import parse_recipe
from loba_tui.core.recipe.sections.data import DataSection

GEOMETRY = Geometry(32, 8)


class FourthPixels:
    """A model whose latents are every fourth pixel, so that a batch shows what it is made of."""

    device = torch.device("cpu")
    resolution = 32

    def latent_shape(self, resolution: int | None = None) -> tuple[int, int, int]:
        return 3, 8, 8

    def vae_held(self) -> AbstractContextManager[None]:
        return nullcontext()

    def encode_moments(self, images: Tensor) -> LatentMoments:
        assert images.shape[0] == 1
        latents = images[:, :, 2::4, 2::4].clone()
        return LatentMoments(latents, torch.zeros_like(latents))


MODEL: Any = FourthPixels()


def put(path: Path, value: int, *, size: tuple[int, int] = (32, 32), caption: str = "a, b") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    ramp = np.broadcast_to(np.linspace(0, 100, size[0])[None, :, None], (size[1], size[0], 3))
    Image.fromarray((ramp + value).astype(np.uint8)).save(path)
    path.with_suffix(".txt").write_text(caption)


def prepared(
    data: dict[str, Any], *, seed: int = 0, batch_size: int = 4, method: str = "lora_finetune"
) -> PreparedData:
    recipe = parse_recipe(
        {
            "version": 1,
            "base_model": {"id": "builtin:shapes-xl"},
            "method": {"name": method},
            "data": data,
            "train": {"seed": seed, "batch_size": batch_size},
            "sample": {"prompts": ["x"]},
        },
        plugins=SHIPPED,
    )
    made = prepare(recipe, GEOMETRY, paired=method != "lora_finetune")
    made.encode(MODEL, lambda: LatentCache(MODEL, None))
    return made


def same(one: DataBatch, other: DataBatch) -> bool:
    tensors = zip(one.latents, other.latents, strict=True)
    masks = (one.masks is None) == (other.masks is None)
    if one.masks is not None and other.masks is not None:
        masks = one.masks.equal(other.masks)
    plain = one.prompts == other.prompts and one.scales == other.scales
    return plain and masks and all(a.equal(b) for a, b in tensors)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for i in range(7):
        put(tmp_path / f"{i}.png", 10 * i, size=(48, 32) if i > 4 else (32, 32), caption=f"n, {i}")
    return tmp_path


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"flip": True, "captions": {"shuffle": True, "dropout": 0.3, "trigger": "zog"}},
        {"crop": "random", "cache": "none", "flip": True},
        {"buckets": {"enabled": False}},
    ],
    ids=["plain", "captions", "random crops", "square"],
)
def test_a_batch_does_not_depend_on_workers_caches_or_what_came_before(
    folder: Path, options: dict[str, Any]
) -> None:
    data = {"sources": [{"path": str(folder)}], **options}
    torch.manual_seed(1)
    reference = prepared(data).batches(MODEL, rank=0, num_processes=1)
    expected = {index: reference.batch(index) for index in range(9)}
    torch.manual_seed(2)
    before = torch.random.get_rng_state()
    other = prepared({**data, "workers": 2, **({} if "crop" in options else {"cache": "none"})})
    batches = other.batches(MODEL, rank=0, num_processes=1)
    for index in (4, 5, 6, 2, 3, 8, 0):  # resumed, gone back, passed over
        assert same(batches.batch(index), expected[index])
    assert torch.random.get_rng_state().equal(before)
    reseeded = prepared(data, seed=1).batches(MODEL, rank=0, num_processes=1)
    assert not all(same(reseeded.batch(index), expected[index]) for index in range(9))


def test_two_processes_get_the_halves_of_what_one_would(folder: Path) -> None:
    data = {"sources": [{"path": str(folder)}], "captions": {"dropout": 0.5}}
    whole = prepared(data, batch_size=4).batches(MODEL, rank=0, num_processes=1)
    half = prepared(data, batch_size=2)
    halves = [half.batches(MODEL, rank=rank, num_processes=2) for rank in (0, 1)]
    for index in range(5):
        one, parts = whole.batch(index), [each.batch(index) for each in halves]
        assert torch.cat([part.latents[0] for part in parts]).equal(one.latents[0])
        assert parts[0].prompts + parts[1].prompts == one.prompts
        assert parts[0].rows + parts[1].rows == one.rows


def test_every_image_comes_as_often_as_it_should_and_batches_hold_one_size(folder: Path) -> None:
    other = folder / "more"
    put(other / "x.png", 200)
    data = DataSection.model_validate(
        {"sources": [{"path": str(folder), "repeats": 3}, {"path": str(other), "repeats": 2}]}
    )
    # The first source holds the second one's folder too.
    units, bad = arrange(scan(data).images, data, GEOMETRY, paired=False)
    assert bad == []
    order = SampleOrder(units, batch_size=3, seed=5)
    epochs = []
    for epoch in range(3):
        seen: Counter[int] = Counter()
        for place in range(order.batches_per_epoch):
            batch = order.units(epoch * order.batches_per_epoch + place)
            assert len(batch) == 3
            assert len({units.units[unit].bucket for unit in batch}) == 1
            seen.update(batch)
        epochs.append([order.units(epoch * order.batches_per_epoch + i) for i in range(2)])
        # What fills up a bucket's last batch may come once more.
        for unit, repeats in enumerate(units.repeats):
            assert repeats <= seen[unit] <= repeats + 3
    assert epochs[0] != epochs[1] != epochs[2]


def test_dropout_trigger_and_prior_images(folder: Path, tmp_path: Path) -> None:
    prior = tmp_path / "class"
    put(prior / "p.png", 200, caption="a plain thing")
    data = {
        "sources": [
            {"path": str(folder / "0.png").removesuffix("/0.png") + "/class", "prior": True},
            {"path": str(folder), "caption": "mine"},
        ],
        "captions": {"dropout": 0.5, "trigger": "zog"},
        "prior_weight": 0.25,
    }
    batches = prepared(data).batches(MODEL, rank=0, num_processes=1)
    seen: Counter[tuple[str | None, float]] = Counter()
    for index in range(60):
        batch = batches.batch(index)
        seen.update(zip(batch.prompts, batch.weights.tolist(), strict=True))
    assert {prompt for prompt, _ in seen} == {None, "zog mine", "a plain thing"}
    assert {weight for prompt, weight in seen if prompt == "a plain thing"} == {0.25}
    assert {weight for prompt, weight in seen if prompt == "zog mine"} == {1.0}
    dropped = sum(count for (prompt, _), count in seen.items() if prompt is None)
    assert 0.4 < dropped / sum(seen.values()) < 0.6


def test_random_crops_and_flips_differ_from_step_to_step(folder: Path) -> None:
    data = {"sources": [{"path": str(folder)}], "crop": "random", "cache": "none", "flip": True}
    data["buckets"] = {"enabled": False}
    batches = prepared(data).batches(MODEL, rank=0, num_processes=1)
    falls = [
        bool(row[0, 0, 0] > row[0, 0, -1]) for i in range(20) for row in batches.batch(i).latents[0]
    ]
    assert 0.3 < sum(falls) / len(falls) < 0.7


def test_masks_come_at_the_size_of_latents_and_are_mirrored_with_their_image(
    tmp_path: Path,
) -> None:
    put(tmp_path / "images" / "a.png", 50)
    masks = tmp_path / "masks"
    masks.mkdir()
    half = np.zeros((32, 32), dtype=np.uint8)
    half[:, 16:] = 255
    Image.fromarray(half).save(masks / "a.png")
    source = {"path": str(tmp_path / "images"), "masks": str(masks)}
    data = {"sources": [source], "flip": True, "mask": {"floor": 0.25}}
    batches = prepared(data, batch_size=1).batches(MODEL, rank=0, num_processes=1)
    sides = set()
    for index in range(12):
        batch = batches.batch(index)
        assert batch.masks is not None
        assert batch.masks.shape == (1, 1, 8, 8)
        left = float(batch.masks[0, 0, 3, 0])
        right = float(batch.masks[0, 0, 3, -1])
        assert {left, right} == {0.25, 1.0}
        is_mirrored = bool(batch.latents[0][0, 0, 0, 0] > batch.latents[0][0, 0, 0, -1])
        assert is_mirrored == (left == 1.0)
        sides.add(is_mirrored)
    assert sides == {True, False}


def test_pairs_are_found_by_name_and_cut_alike(tmp_path: Path) -> None:
    for folder, value in (("low", 0), ("mid", 60), ("high", 120)):
        for i in range(3):
            put(tmp_path / folder / f"{i}.png", value + i, caption="a thing")
    scales = {"low": -2.0, "high": 2.0, "mid": 1.0}
    sources = [{"path": str(tmp_path / name), "scale": scale} for name, scale in scales.items()]
    batches = prepared({"sources": sources}, method="image_slider").batches(
        MODEL, rank=0, num_processes=1
    )
    seen = set()
    for index in range(20):
        batch = batches.batch(index)
        low, high = batch.latents
        for row in range(4):
            pair = batch.scales[0][row], batch.scales[1][row]
            seen.add(pair)
            value = {-2.0: 0, 1.0: 60, 2.0: 120}
            difference = float((high[row] - low[row]).mean() * 255)
            assert difference == pytest.approx(value[pair[1]] - value[pair[0]], abs=1e-3)
    assert seen == {(-2.0, 1.0), (-2.0, 2.0), (1.0, 2.0)}


def test_pairs_that_do_not_match_are_told(tmp_path: Path) -> None:
    for folder in ("low", "high"):
        put(tmp_path / folder / "good.png", 1, caption="same")
        put(tmp_path / folder / "size.png", 1, size=(32, 32 if folder == "low" else 48))
        put(tmp_path / folder / "words.png", 1, caption=f"it is {folder}")
    put(tmp_path / "low" / "alone.png", 1)
    data = DataSection.model_validate(
        {
            "sources": [
                {"path": str(tmp_path / "low"), "scale": -1},
                {"path": str(tmp_path / "high"), "scale": 1},
            ]
        }
    )
    units, bad = arrange(scan(data).images, data, GEOMETRY, paired=True)
    assert [unit.images[0].item.key for unit in units.units] == ["good"]
    told = {each.name.removeprefix(f"{tmp_path}/"): each.problem for each in bad}
    assert told["high/size.png"].startswith("is 32x48, and ")
    assert told["high/words.png"].startswith("its caption is not that of ")
    assert told["low/alone.png"].startswith("has no counterpart in ")


def test_buckets_that_nothing_fits_and_images_that_are_too_small_are_told(folder: Path) -> None:
    given = {"sizes": [[32, 32], [16, 64]], "enlarge": False}
    data = DataSection.model_validate({"sources": [{"path": str(folder)}], "buckets": given})
    _, bad = arrange(scan(data).images, data, GEOMETRY, paired=False)
    assert [each.problem for each in bad] == ["no image fits best into 16x64"]
    larger = Geometry(64, 8)
    data = DataSection.model_validate(
        {"sources": [{"path": str(folder)}], "buckets": {"enlarge": False}}
    )
    _, bad = arrange(scan(data).images, data, larger, paired=False)
    assert len(bad) == 7
    assert "smaller than its bucket 64x64" in bad[0].problem


def test_workers_that_are_asked_out_of_order_begin_anew() -> None:
    class Squares:
        def __getitem__(self, index: int) -> int:
            return index**2

    assert list(in_order(Squares(), range(5), num_workers=2)) == [0, 1, 4, 9, 16]
    ahead = Ahead(Squares(), num_workers=2)
    assert [ahead[index] for index in (3, 4, 5, 1, 2, 9)] == [9, 16, 25, 1, 4, 81]


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("crop", ["center", "random"])
def test_a_batch_says_how_large_files_were_and_where_they_were_cut(
    tmp_path: Path, crop: str, flip: bool
) -> None:
    ramp = np.arange(96, dtype=np.uint8)[None, :, None] * 2
    wide = np.ascontiguousarray(np.broadcast_to(ramp, (32, 96, 3)))
    for i in range(3):
        Image.fromarray(wide).save(tmp_path / f"{i}.png")
        (tmp_path / f"{i}.txt").write_text("x")
    data = {"sources": [{"path": str(tmp_path)}], "crop": crop, "flip": flip, "cache": "none"}
    made = prepared({**data, "buckets": {"enabled": False}})
    seen = set()
    for index in range(6):
        batch = made.batches(MODEL, rank=0, num_processes=1).batch(index)
        assert batch.framing is not None
        assert batch.framing.original_size.tolist() == [[32, 96]] * 4
        for latent, (top, left) in zip(
            batch.latents[0], batch.framing.crop_top_left.tolist(), strict=True
        ):
            # Where the ramp falls, the image lies mirrored: its left side is at the right.
            mirrored = bool(latent[0, 0, 0] > latent[0, 0, -1])
            first = round(float(latent[0, 0, 0]) * 255 / 2)  # two pixels from the cut's side
            assert abs((95 - first if mirrored else first) - 2 - left) <= 1
            assert top == 0
            seen.add((mirrored, left))
    assert len({mirrored for mirrored, _ in seen}) == (2 if flip else 1)
    assert len({left for _, left in seen}) == 1 if crop == "center" else len(seen) > 4


def test_corners_are_in_pixels_of_the_image_as_it_was_scaled(tmp_path: Path) -> None:
    put(tmp_path / "a.png", 0, size=(200, 100))
    data = {"sources": [{"path": str(tmp_path)}], "buckets": {"enabled": False}}
    framing = prepared(data, batch_size=1).batches(MODEL, rank=0, num_processes=1).batch(0).framing
    assert framing is not None
    assert framing.original_size.tolist() == [[100, 200]]
    assert framing.crop_top_left.tolist() == [[0, 16]]  # 64x32, of which 32x32 are left
    whole = {**data, "size_conditioning": "bucket"}
    told = prepared(whole, batch_size=1).batches(MODEL, rank=0, num_processes=1).batch(0)
    assert told.framing is None
