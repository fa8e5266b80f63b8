"""The drawn world of `builtin:shapes-xl`: scenes, captions, and a measurer that reads them back.

One flat shape on a flat background, 32x32 pixels. Because the world is drawn, everything a prompt
asks for (size, colour, shape, background, brightness) can be measured on the pixels of an answer.
Numpy only: nothing here needs torch.
"""

from __future__ import annotations

import colorsys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType

import numpy as np

SIZE = 32
"""Side of the drawn images, in pixels."""

SHAPES = ("circle", "square", "triangle", "cross")

# Every colour has a largest channel of 1, so that brightness can be read as the largest channel.
COLORS: Mapping[str, tuple[float, float, float]] = MappingProxyType(
    {
        "red": (1.0, 0.10, 0.10),
        "orange": (1.0, 0.50, 0.05),
        "yellow": (1.0, 0.93, 0.10),
        "green": (0.15, 1.0, 0.20),
        "cyan": (0.10, 0.95, 1.0),
        "blue": (0.12, 0.25, 1.0),
        "purple": (0.60, 0.12, 1.0),
        "pink": (1.0, 0.35, 0.75),
    }
)

BACKGROUNDS: Mapping[str, tuple[float, float, float]] = MappingProxyType(
    {
        "black": (0.03, 0.03, 0.03),
        "white": (0.97, 0.97, 0.97),
        "gray": (0.50, 0.50, 0.50),
        "blue": (0.15, 0.22, 0.62),
        "green": (0.14, 0.48, 0.18),
        "red": (0.62, 0.13, 0.13),
    }
)

RADIUS_RANGE = (5.0, 13.0)
"""Radii of the training world, in pixels; drawn uniformly in log radius, so small is not rare."""

SMALL_BELOW = 7.0
LARGE_ABOVE = 10.0
BRIGHTNESS_RANGE = (0.4, 1.0)
DARK_BELOW = 0.6
BRIGHT_ABOVE = 0.82

SIZE_WORDS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "small": ("small", "tiny", "little"),
        "medium": ("medium",),
        "large": ("large", "big", "huge"),
    }
)
BRIGHTNESS_WORDS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {"dark": ("dark", "dim"), "bright": ("bright", "vivid")}
)
SHAPE_WORDS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "circle": ("circle", "disk"),
        "square": ("square", "box"),
        "triangle": ("triangle",),
        "cross": ("cross", "plus"),
    }
)
BACKGROUND_WORDS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {name: (("gray", "grey") if name == "gray" else (name,)) for name in BACKGROUNDS}
)
OPENINGS = ("a picture of", "an image of", "a photo of", "a drawing of")

# Outlines as multiples of the radius, chosen for similar areas at one radius (2.4 to 3.2 r^2).
_SQUARE_HALF = 0.89
_CROSS_LENGTH, _CROSS_WIDTH = 1.10, 0.40
_TRIANGLE_TOP, _TRIANGLE_BOTTOM, _TRIANGLE_HALF = 1.10, 0.95, 1.15
_EXTENT = 1.15
_AREA_OVER_R2: Mapping[str, float] = MappingProxyType(
    {
        "circle": np.pi,
        "square": 4 * _SQUARE_HALF**2,
        "triangle": _TRIANGLE_HALF * (_TRIANGLE_TOP + _TRIANGLE_BOTTOM),
        "cross": 8 * _CROSS_LENGTH * _CROSS_WIDTH - 4 * _CROSS_WIDTH**2,
    }
)
# The triangle's centre of mass lies below the middle of its box, by this many radii.
_TRIANGLE_MASS_OFFSET = (2 * _TRIANGLE_BOTTOM - _TRIANGLE_TOP) / 3


@dataclass(frozen=True)
class Scene:
    """Scene of one image; `radius` and `center` (x, y) in pixels, `brightness` 0 to 1."""

    shape: str
    color: str
    background: str
    radius: float
    brightness: float
    center: tuple[float, float]

    @property
    def size(self) -> str:
        """The size word that is true of this scene: small, medium or large."""
        if self.radius < SMALL_BELOW:
            return "small"
        return "large" if self.radius > LARGE_ABOVE else "medium"


@dataclass(frozen=True)
class Reading:
    """Scene as the pixels show it; None wherever no shape (or no nameable value) is found.

    `area` is in pixels of the image that was read, `brightness` is the largest channel of the
    shape's colour, `centre` is the shape's centre of mass (x, y) in pixels.
    """

    area: float
    color: str | None
    background: str | None
    shape: str | None
    brightness: float | None
    centre: tuple[float, float] | None = None


def random_scene(
    rng: np.random.Generator, *, radius_range: tuple[float, float] = RADIUS_RANGE
) -> Scene:
    """Draw a scene; the shape is inside the image where it fits, never of its colour."""
    background = str(rng.choice(list(BACKGROUNDS)))
    low, high = np.log(radius_range)
    radius = float(np.exp(rng.uniform(low, high)))
    room = max(SIZE / 2 - _EXTENT * radius - 0.5, 0.0)
    x, y = SIZE / 2 + rng.uniform(-room, room, size=2)
    return Scene(
        shape=str(rng.choice(SHAPES)),
        color=str(rng.choice([name for name in COLORS if name != background])),
        background=background,
        radius=radius,
        brightness=float(rng.uniform(*BRIGHTNESS_RANGE)),
        center=(float(x), float(y)),
    )


def coverage(
    shape: str,
    center: tuple[float, float] | np.ndarray,
    radius: float | np.ndarray,
    *,
    size: int = SIZE,
) -> np.ndarray:
    """Return how much of each pixel the shape covers, 0 to 1, antialiased over one pixel.

    Args:
        center: (..., 2) x and y in pixels.
        radius: (...) in pixels.
        size: Side of the image in pixels.

    Returns:
        (..., size, size).
    """
    centers = np.asarray(center, dtype=np.float64)
    r = np.asarray(radius, dtype=np.float64)[..., None, None]
    axis = np.arange(size) + 0.5
    x = axis[None, :] - centers[..., 0, None, None]
    y = axis[:, None] - centers[..., 1, None, None]
    if shape == "circle":
        outside = np.hypot(x, y) - r
    elif shape == "square":
        outside = np.maximum(np.abs(x), np.abs(y)) - _SQUARE_HALF * r
    elif shape == "cross":
        along, across = _CROSS_LENGTH * r, _CROSS_WIDTH * r
        flat = np.maximum(np.abs(x) - along, np.abs(y) - across)
        upright = np.maximum(np.abs(x) - across, np.abs(y) - along)
        outside = np.minimum(flat, upright)
    elif shape == "triangle":
        height = _TRIANGLE_TOP + _TRIANGLE_BOTTOM
        slant = np.hypot(height, _TRIANGLE_HALF)
        sides = (np.abs(x) * height - (y + _TRIANGLE_TOP * r) * _TRIANGLE_HALF) / slant
        outside = np.maximum(sides, y - _TRIANGLE_BOTTOM * r)
    else:
        raise ValueError(f"{shape!r} is not a shape of this world; it has {', '.join(SHAPES)}")
    return np.clip(0.5 - outside, 0.0, 1.0)


def draw(scene: Scene) -> np.ndarray:
    """Render a scene as (32, 32, 3) float32 in [0, 1]."""
    ink = np.asarray(COLORS[scene.color]) * scene.brightness
    paper = np.asarray(BACKGROUNDS[scene.background])
    mask = coverage(scene.shape, scene.center, scene.radius)[..., None]
    return (paper + mask * (ink - paper)).astype(np.float32)


def caption(scene: Scene, rng: np.random.Generator) -> str:
    """Say some true things about a scene: each word may be left out, and synonyms are used."""
    size = _word(SIZE_WORDS[scene.size], rng) if rng.random() < 0.6 else ""
    if scene.size == "medium" and rng.random() < 0.5:
        size = ""
    tone = ""
    if scene.brightness < DARK_BELOW:
        tone = _word(BRIGHTNESS_WORDS["dark"], rng)
    elif scene.brightness > BRIGHT_ABOVE:
        tone = _word(BRIGHTNESS_WORDS["bright"], rng)
    if rng.random() < 0.4:
        tone = ""
    color = scene.color if rng.random() < 0.85 else ""
    shape = _word(SHAPE_WORDS[scene.shape], rng) if rng.random() < 0.92 else ""
    background = _word(BACKGROUND_WORDS[scene.background], rng) if rng.random() < 0.65 else ""

    if rng.random() < 0.1:
        keywords = [word for word in (size, tone, color, shape) if word]
        keywords += [f"{background} background"] if background else []
        return (", " if rng.random() < 0.5 else " ").join(keywords)
    words = [word for word in (size, tone, color, shape or "shape") if word]
    text = " ".join(words)
    if rng.random() < 0.85:
        text = f"{_article(words[0], rng)} {text}"
        if rng.random() < 0.08:
            text = f"{rng.choice(OPENINGS)} {text}"
    if background:
        text += f" on {'the' if rng.random() < 0.05 else 'a'} {background} background"
    return text


def vocabulary() -> list[str]:
    """Return every word that a caption can hold, sorted."""
    words = {"a", "an", "the", "on", "background", "shape", ",", *COLORS}
    for table in (SIZE_WORDS, BRIGHTNESS_WORDS, SHAPE_WORDS, BACKGROUND_WORDS):
        words.update(word for synonyms in table.values() for word in synonyms)
    words.update(word for opening in OPENINGS for word in opening.split())
    return sorted(words)


def read(image: np.ndarray) -> Reading:
    """Measure an image of this world: which shape, how large, which colours.

    Args:
        image: (H, W, 3) float in [0, 1], square. Area and centre are in its own pixels.
    """
    pixels = np.asarray(image, dtype=np.float64)
    return _read(pixels.tobytes(), pixels.shape)


@lru_cache(maxsize=256)
def _read(content: bytes, shape: tuple[int, ...]) -> Reading:
    """Measure an image; a proof asks for several figures of the same ones."""
    pixels = np.frombuffer(content).reshape(shape)
    paper = _border_color(pixels)
    background = min(BACKGROUNDS, key=lambda name: np.linalg.norm(paper - BACKGROUNDS[name]))
    contrast = np.linalg.norm(pixels - paper, axis=-1)
    # A high quantile, not the maximum: one bad pixel must not set the scale.
    strongest = float(np.sort(contrast, axis=None)[-12])
    nothing = Reading(0.0, None, background, None, None, None)
    if strongest < 0.12:
        return nothing
    ink = np.median(pixels[contrast >= 0.75 * strongest], axis=0)
    direction = ink - paper
    mask = (pixels - paper) @ direction / (direction @ direction)
    # Stretch the middle of the range, so that faint ripples of a decoder do not count as area.
    mask = np.clip((mask - 0.2) / 0.6, 0.0, 1.0)
    area = float(mask.sum())
    if area < 8.0:
        return nothing
    axis = np.arange(pixels.shape[0]) + 0.5
    centre = (float((mask.sum(0) @ axis) / area), float((mask.sum(1) @ axis) / area))
    return Reading(
        area=area,
        color=_color_name(ink),
        background=background,
        shape=_shape_name(mask, area, centre),
        brightness=float(ink.max()),
        centre=centre,
    )


def _word(synonyms: tuple[str, ...], rng: np.random.Generator) -> str:
    """Choose a synonym, the first one (the plain word) four times in five."""
    if len(synonyms) == 1 or rng.random() < 0.8:
        return synonyms[0]
    return str(rng.choice(synonyms[1:]))


def _article(word: str, rng: np.random.Generator) -> str:
    """Return the article; prompts made from templates say "a orange", so that is heard too."""
    return "an" if word[0] in "aeiou" and rng.random() < 0.6 else "a"


def _border_color(pixels: np.ndarray) -> np.ndarray:
    """Return the commonest colour of the outermost pixels, which a large shape may partly cover."""
    border = np.concatenate([pixels[0], pixels[-1], pixels[1:-1, 0], pixels[1:-1, -1]])
    near = np.linalg.norm(border[:, None] - border[None], axis=-1) < 0.1
    return border[near[np.argmax(near.sum(1))]].mean(0)


def _color_name(ink: np.ndarray) -> str | None:
    """Return the colour of nearest hue, or None for something too gray to have one."""
    if ink.max() - ink.min() < 0.2 * ink.max() or ink.max() < 0.08:
        return None

    def distance(name: str) -> float:
        gap = abs(colorsys.rgb_to_hsv(*ink)[0] - colorsys.rgb_to_hsv(*COLORS[name])[0])
        return min(gap, 1 - gap)

    return min(COLORS, key=distance)


def _shape_name(mask: np.ndarray, area: float, centre: tuple[float, float]) -> str:
    """Return the shape whose own drawing, laid on the mask, leaves the least difference."""
    shifts = np.stack(np.meshgrid([-0.7, 0.0, 0.7], [-0.7, 0.0, 0.7]), -1).reshape(-1, 1, 2)
    factors = np.array([0.9, 0.97, 1.04, 1.12])
    misfit = {}
    for shape in SHAPES:
        radius = np.sqrt(area / _AREA_OVER_R2[shape]) * factors
        middle = np.asarray(centre) + shifts + np.zeros((1, len(factors), 1))
        if shape == "triangle":
            middle[..., 1] -= _TRIANGLE_MASS_OFFSET * radius
        drawn = coverage(
            shape, middle, np.broadcast_to(radius, middle.shape[:-1]), size=mask.shape[0]
        )
        misfit[shape] = float(((drawn - mask) ** 2).sum((-1, -2)).min())
    return min(misfit, key=misfit.__getitem__)
