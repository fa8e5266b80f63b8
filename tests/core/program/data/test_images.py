"""What image files may be, and what becomes of them; Pillow and numpy are the oracles."""

from __future__ import annotations

import contextlib
import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image

from loba_tui.core.program.data.images import BadImage, crop_box, decode, decode_mask, fit

RAMP = np.arange(8 * 6 * 3, dtype=np.uint8).reshape(8, 6, 3)


def packed(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def decoded(content: bytes, *, alpha: str = "white", most: float = 1.0) -> np.ndarray:
    return np.asarray(decode(content, max_megapixels=most, alpha=alpha).image)


def test_a_plain_image_is_left_as_it_is() -> None:
    assert np.array_equal(decoded(packed(Image.fromarray(RAMP))), RAMP)


@pytest.mark.parametrize(
    ("orientation", "upright"),
    [
        (1, RAMP),
        (2, RAMP[:, ::-1]),
        (3, RAMP[::-1, ::-1]),
        (4, RAMP[::-1]),
        (5, RAMP.transpose(1, 0, 2)),
        (6, np.rot90(RAMP, -1)),
        (7, np.rot90(RAMP, 2).transpose(1, 0, 2)),
        (8, np.rot90(RAMP)),
    ],
)
def test_exif_orientation_is_applied(orientation: int, upright: np.ndarray) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    found = decode(packed(Image.fromarray(RAMP), exif=exif), max_megapixels=1, alpha="white")
    assert np.array_equal(np.asarray(found.image), upright)
    assert ("turned" in found.notes) == (orientation != 1)


@pytest.mark.parametrize(("alpha", "expected"), [("white", 255), ("black", 0), ("gray", 128)])
def test_transparency_is_laid_on_the_recipes_colour_and_not_shown_raw(
    alpha: str, expected: int
) -> None:
    clear_red = np.zeros((4, 4, 4), dtype=np.uint8)
    clear_red[..., 0] = 255
    content = packed(Image.fromarray(clear_red, "RGBA"))
    assert np.array_equal(decoded(content, alpha=alpha), np.full((4, 4, 3), expected))
    with pytest.raises(BadImage, match="partly transparent"):
        decoded(content, alpha="error")


def test_an_alpha_channel_without_transparency_changes_nothing() -> None:
    opaque = np.dstack([RAMP, np.full((8, 6), 255, dtype=np.uint8)])
    found = decode(packed(Image.fromarray(opaque, "RGBA")), max_megapixels=1, alpha="error")
    assert np.array_equal(np.asarray(found.image), RAMP)
    assert found.notes == ()


def test_a_palette_with_transparency_is_composited() -> None:
    image = Image.new("P", (2, 2), 0)
    image.putpalette([255, 0, 0, 0, 255, 0])
    assert np.array_equal(decoded(packed(image, transparency=0)), np.full((2, 2, 3), 255))


def test_sixteen_bits_are_scaled_and_not_clipped() -> None:
    values = np.array([[0, 257, 40000, 65535]], dtype=np.uint16)
    expected = np.array([0, 1, 156, 255])
    for kind in ("PNG", "TIFF"):
        pixels = decoded(packed(Image.fromarray(values), kind))
        assert np.array_equal(pixels[0], np.stack([expected] * 3, -1))


def test_sixteen_bit_colour_keeps_its_high_bytes() -> None:
    raw = b"".join(b"\0" + struct.pack(">3H", 40000, 20000, 65535) for _ in range(1))
    chunks = [(b"IHDR", struct.pack(">2I5B", 1, 1, 16, 2, 0, 0, 0)), (b"IDAT", zlib.compress(raw))]
    assert decoded(png_of([*chunks, (b"IEND", b"")]))[0, 0].tolist() == [156, 78, 255]


def test_grey_and_cmyk_become_rgb() -> None:
    grey = Image.fromarray(RAMP[..., 0])
    assert np.array_equal(decoded(packed(grey)), np.stack([RAMP[..., 0]] * 3, -1))
    inks = Image.new("CMYK", (2, 2), (0, 255, 255, 0))
    pixels = decode(packed(inks, "TIFF"), max_megapixels=1, alpha="white")
    assert np.asarray(pixels.image)[0, 0].tolist() == [255, 0, 0]
    assert "CMYK" in pixels.notes


def png_of(chunks: list[tuple[bytes, bytes]]) -> bytes:
    whole = b"\x89PNG\r\n\x1a\n"
    for name, content in chunks:
        check = zlib.crc32(name + content)
        whole += struct.pack(">I", len(content)) + name + content + struct.pack(">I", check)
    return whole


def test_a_decompression_bomb_is_told_by_its_header_alone() -> None:
    header = struct.pack(">2I5B", 40_000, 40_000, 8, 2, 0, 0, 0)
    bomb = png_of([(b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 100)), (b"IEND", b"")])
    with pytest.raises(BadImage, match=r"megapixels|exceeds limit"):
        decoded(bomb, most=64)
    with pytest.raises(BadImage, match=r"6x8 = 0\.0 megapixels, more than data\.max_megapixels"):
        decoded(packed(Image.fromarray(RAMP)), most=1e-5)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (b"I am a text, not a picture", "plain text"),
        (b"<!doctype html><html>", "web page"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "PostScript"),
        (b"version https://git-lfs.github.com/spec/v1", "Git LFS"),
        (b"\0\0\0\x18ftypheic\0\0\0\0", "HEIC"),
        (bytes(range(256)), "unknown format"),
        (packed(Image.fromarray(RAMP.repeat(40, 0)), "JPEG")[:500], "broken or cut off"),
        (packed(Image.fromarray(RAMP.repeat(40, 0)))[:-40], "broken or cut off"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_no_whole_image_is_refused_with_the_reason(content: bytes, message: str) -> None:
    with pytest.raises(BadImage, match=message):
        decoded(content)


def test_an_animation_and_floating_point_pixels_are_refused() -> None:
    frames = [Image.new("RGB", (4, 4), color) for color in ("red", "blue")]
    moving = packed(frames[0], "GIF", save_all=True, append_images=frames[1:])
    with pytest.raises(BadImage, match="animation of 2 frames"):
        decoded(moving)
    floats = packed(Image.fromarray(np.ones((2, 2), dtype=np.float32)), "TIFF")
    with pytest.raises(BadImage, match="floating-point"):
        decoded(floats)


def test_damaged_bytes_give_a_reason_and_never_another_error() -> None:
    whole = {kind: packed(Image.fromarray(RAMP), kind) for kind in ("PNG", "GIF", "WEBP", "TIFF")}
    rng = np.random.default_rng(0)
    for content in whole.values():
        for _ in range(150):
            damaged = bytearray(content)
            for place in rng.integers(0, len(content), size=3):
                damaged[place] = int(rng.integers(0, 256))
            with contextlib.suppress(BadImage):
                decoded(bytes(damaged))


def test_a_mask_is_grey_and_leaves_something_to_train() -> None:
    mask = np.array([[0, 255], [128, 64]], dtype=np.uint8)
    content = packed(Image.fromarray(mask))

    def read(content: bytes, *, invert: bool = False) -> np.ndarray:
        return np.asarray(decode_mask(content, max_megapixels=1, invert=invert).image)

    assert np.array_equal(read(content), mask)
    assert np.array_equal(read(content, invert=True), 255 - mask)
    sixteen = packed(Image.fromarray(mask.astype(np.uint16) * 257))
    assert np.array_equal(read(sixteen), mask)
    with pytest.raises(BadImage, match="all black"):
        read(packed(Image.new("L", (2, 2))))


def test_fitting_covers_the_size_and_cuts_the_rest() -> None:
    image = Image.fromarray(np.arange(6 * 12, dtype=np.uint8).reshape(6, 12)).convert("RGB")
    grey = np.asarray(image)
    assert np.array_equal(fit(image, (6, 6)), grey[:, 3:9])
    assert np.array_equal(fit(image, (6, 6), place=(0, 0.5)), grey[:, :6])
    assert np.array_equal(fit(image, (6, 6), place=(1, 0.5)), grey[:, 6:])
    assert np.array_equal(fit(image, (6, 6), mirrored=True), grey[:, 3:9][:, ::-1])
    half = np.asarray(image.resize((6, 3), Image.Resampling.LANCZOS))
    assert np.array_equal(fit(image, (3, 3), place=(0, 0.5)), half[:, :3])
    assert np.array_equal(fit(image, (3, 3), place=(1, 0.5)), half[:, 3:])


def test_a_mask_is_cut_where_its_image_is_and_averaged() -> None:
    mask = np.zeros((8, 16), dtype=np.uint8)
    mask[:, 8:] = 255
    small = fit(Image.fromarray(mask), (2, 2), place=(0.5, 0.5))
    assert small.tolist() == [[0, 255], [0, 255]]
    assert fit(Image.fromarray(mask), (2, 2), place=(1.0, 0.5)).tolist() == [[255] * 2] * 2
    assert fit(Image.fromarray(mask[:, 4:12]), (1, 1)).tolist() == [[128]]


def test_a_crop_box_is_the_largest_of_its_shape() -> None:
    assert crop_box((100, 50), (10, 10), (0.5, 0.5)) == (25, 0, 75, 50)
    assert crop_box((50, 100), (10, 20), (0.0, 0.0)) == (0, 0, 50, 100)
