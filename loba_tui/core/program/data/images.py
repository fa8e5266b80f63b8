"""Bytes of unknown origin to pixels: what an image file may be, and what it becomes.

Only formats that Pillow decodes by itself are let in (EPS, for one, would start another program),
and the size is checked before a pixel is decoded.
"""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageOps

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".avif")
UNREADABLE_SUFFIXES = (
    *(".heic", ".heif", ".jxl", ".jp2", ".psd", ".svg", ".raw", ".dng", ".cr2", ".nef", ".arw"),
    *(".mp4", ".mov", ".webm", ".mkv", ".avi", ".npy", ".tga", ".exr", ".hdr", ".eps"),
)
"""Endings that say picture, but that are not read here: told instead of passed over."""

# The JPEG reader opens the multi-picture files (MPO) of telephones too.
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF", "AVIF")
_SIXTEEN_BIT = ("I;16", "I;16L", "I;16B", "I;16N", "I")
_PAPER = {"white": (255, 255, 255), "black": (0, 0, 0), "gray": (128, 128, 128)}

# A decoder of hostile bytes fails in more ways than it documents.
_DECODER_ERRORS = (
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
    RuntimeError,
    MemoryError,
    struct.error,
    zlib.error,
)


class BadImage(ValueError):
    """An image cannot be used; the message says why."""


@dataclass(frozen=True)
class Decoded:
    """An image as it is trained on.

    Attributes:
        image: RGB or, for masks, L; upright.
        notes: What was done to it: turned, composited, scaled to 8 bits.
    """

    image: Image.Image
    notes: tuple[str, ...] = ()


def decode(content: bytes, *, max_megapixels: float, alpha: str) -> Decoded:
    """Return the RGB image in a file's bytes.

    Args:
        max_megapixels: Most pixels, in millions; checked before anything is decoded.
        alpha: What transparent pixels are laid on: white, black or gray; "error" refuses them.

    Raises:
        BadImage: It is none, is broken, is too large, or has pixels without a fixed meaning.
    """
    image, notes = _open(content, max_megapixels)
    if image.mode in _SIXTEEN_BIT:
        return Decoded(_from_sixteen_bits(image).convert("RGB"), (*notes, "16-bit"))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        if image.getchannel("A").getextrema()[0] < 255:
            if alpha == "error":
                raise BadImage("it is partly transparent, and data.alpha is error")
            paper = Image.new("RGBA", image.size, (*_PAPER[alpha], 255))
            image = Image.alpha_composite(paper, image)
            notes = (*notes, "transparent")
    if image.mode in ("L", "1", "LA"):
        notes = (*notes, "grey")
    elif image.mode == "CMYK":
        notes = (*notes, "CMYK")
    return Decoded(image.convert("RGB"), notes)


def decode_mask(content: bytes, *, max_megapixels: float, invert: bool) -> Decoded:
    """Return the grey (L) mask in a file's bytes, white where it is trained.

    Raises:
        BadImage: It is no image, or it leaves nothing to train.
    """
    image, notes = _open(content, max_megapixels)
    if image.mode in _SIXTEEN_BIT:
        image = _from_sixteen_bits(image)
    elif image.has_transparency_data:
        paper = Image.new("RGBA", image.size, (0, 0, 0, 255))
        image = Image.alpha_composite(paper, image.convert("RGBA"))
    image = image.convert("L")
    if invert:
        image = ImageOps.invert(image)
    if image.getextrema()[1] == 0:
        color = "white, and inverted" if invert else "black"
        raise BadImage(f"the mask leaves nothing to train: it is all {color}")
    return Decoded(image, notes)


def _open(content: bytes, max_megapixels: float) -> tuple[Image.Image, tuple[str, ...]]:
    """Return the decoded, upright image, whatever its mode."""
    if not content:
        raise BadImage("the file is empty (0 bytes)")
    try:
        with warnings.catch_warnings():
            # The recipe's own limit is checked below; Pillow's warning would say the same again.
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(content), formats=_FORMATS)
            width, height = image.size
            if width * height > max_megapixels * 1e6:
                megapixels = f"{width * height / 1e6:.1f}"
                raise BadImage(
                    f"it has {width}x{height} = {megapixels} megapixels, more than"
                    f" data.max_megapixels: {max_megapixels:g}"
                )
            num_frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
            if num_frames > 1:
                raise BadImage(f"it is an animation of {num_frames} frames")
            image.load()
            is_turned = image.getexif().get(0x0112, 1) not in (0, 1)
            upright = ImageOps.exif_transpose(image)
    except BadImage:
        raise
    except Image.UnidentifiedImageError:
        raise BadImage(f"not an image that can be read ({_guess(content)})") from None
    except Image.DecompressionBombError as error:
        raise BadImage(f"{error}".rstrip(".")) from error
    except _DECODER_ERRORS as error:
        reason = str(error).split("\n", maxsplit=1)[0] or type(error).__name__
        raise BadImage(f"broken or cut off: {reason}") from error
    if upright.mode == "F":
        raise BadImage("its pixels are floating-point numbers, whose range is not known")
    return upright, ("turned",) if is_turned else ()


def _from_sixteen_bits(image: Image.Image) -> Image.Image:
    """Return a 16-bit grey image in 8 bits, scaled; Pillow itself would clip it."""
    values = np.asarray(image).astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
        raise BadImage("its grey values do not fit 16 bits")
    return Image.fromarray(((values + 128) // 257).astype(np.uint8), "L")


def _guess(content: bytes) -> str:
    """Say what a file that is no image most likely is."""
    head = content[:512].lstrip()
    for start, what in (
        (b"<svg", "an SVG drawing"),
        (b"<", "a web page or XML"),
        (b"%PDF", "a PDF"),
        (b"%!PS", "PostScript"),
        (b"PK", "a zip archive"),
        (b"version https://git-lfs", "a Git LFS pointer: the file itself was not fetched"),
        (b"\x1aE\xdf\xa3", "a video"),
    ):
        if head.startswith(start):
            return what
    if content[4:8] == b"ftyp":
        return "a HEIC picture or a video"
    is_text = all(byte in b"\t\n\r" or 32 <= byte < 127 for byte in content[:512])
    return "plain text" if is_text else "unknown format"


def fit(
    image: Image.Image,
    size: tuple[int, int],
    *,
    place: tuple[float, float] = (0.5, 0.5),
    mirrored: bool = False,
) -> np.ndarray:
    """Scale an image until it covers `size`, and cut the rest off.

    Args:
        image: RGB or L.
        size: Width and height, in pixels.
        place: Where the cut lies in the room that there is, 0 to 1; (0.5, 0.5) is the middle.
        mirrored: Left for right.

    Returns:
        (height, width, 3) or (height, width) uint8.
    """
    box = crop_box(image.size, size, place)
    # Grey values of a mask are shares of an area, and stay between 0 and 1 only as such.
    how = Image.Resampling.BOX if image.mode == "L" else Image.Resampling.LANCZOS
    pixels = np.asarray(image.resize(size, how, box=box))
    return np.ascontiguousarray(pixels[:, ::-1]) if mirrored else pixels


def crop_box(
    have: tuple[int, int], want: tuple[int, int], place: tuple[float, float]
) -> tuple[float, float, float, float]:
    """Return the largest box of the shape `want` in an image of size `have`: l, t, r, b."""
    factor = min(have[0] / want[0], have[1] / want[1])
    width, height = want[0] * factor, want[1] * factor
    left, top = (have[0] - width) * place[0], (have[1] - height) * place[1]
    return left, top, left + width, top + height


def crop_corner(
    have: tuple[int, int], want: tuple[int, int], place: tuple[float, float], *, mirrored: bool
) -> tuple[int, int]:
    """Return left and top of the cut in the image as `fit` scales and mirrors it, in its pixels."""
    factor = min(have[0] / want[0], have[1] / want[1])
    room = (have[0] / factor - want[0], have[1] / factor - want[1])
    return round(room[0] * (1 - place[0] if mirrored else place[0])), round(room[1] * place[1])
