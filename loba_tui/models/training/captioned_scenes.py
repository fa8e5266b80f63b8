"""Scenes, images and captions that `builtin:shapes-clip` learns from.

Colours, sizes and brightness have every value in between, and a word is used the more often the
truer it is. The logit that a contrastive model learns is the logarithm of how much likelier a
caption is with an image than without it, so the difference of "large" and "small" then rises with
the size everywhere, and not at the border of the words alone.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import torch
from diffusers import AutoencoderKL
from PIL import Image

from loba_tui.models import shapes_world as world
from loba_tui.models.shapes_xl_parts import SCALING_FACTOR
from loba_tui.models.training.autoencoder import encode
from loba_tui.models.training.steps import to_unit

RADIUS_RANGE = (3.5, 15.0)
BRIGHTNESS_RANGE = (0.2, 1.0)
# Past what the diffusion model draws, since sliders go there. Centres and widths of the words.
_SIZES = MappingProxyType({"small": 1.70, "medium": 2.13, "large": 2.56})  # of log radius
_SIZE_WIDTH = 0.25
_TONES = MappingProxyType({"dark": 0.40, "": 0.72, "bright": 1.05})
_TONE_WIDTH = 0.18
_COLOR_WIDTHS, _BACKGROUND_WIDTH = (0.2, 0.6), 0.15
# Half of the colour words are used loosely, so that of any colour it is learned which of two words
# it is nearer to: cyan is "blue" now and then, and "red" hardly ever.
_LOOSE_SHARE = 0.5
_LEAST_CONTRAST = 0.25
_JITTER = 0.03


@dataclass(frozen=True)
class Shown:
    """A scene with colours of any value.

    Attributes:
        ink: RGB of the shape, its brightness included.
        paper: RGB of the background.
    """

    shape: str
    ink: np.ndarray
    paper: np.ndarray
    radius: float
    center: tuple[float, float]


def random_scene(rng: np.random.Generator) -> Shown:
    """Draw a scene whose shape can be told from its background."""
    radius = float(np.exp(rng.uniform(*np.log(RADIUS_RANGE))))
    room = max(world.SIZE / 2 - radius, 0.0)
    x, y = world.SIZE / 2 + rng.uniform(-room, room, size=2)
    while True:
        ink = _mixed(list(world.COLORS.values()), rng, share_pure=0.6)
        ink = ink / ink.max() * rng.uniform(*BRIGHTNESS_RANGE)
        paper = _mixed(list(world.BACKGROUNDS.values()), rng, share_pure=0.8)
        if np.linalg.norm(ink - paper) > _LEAST_CONTRAST:
            return Shown(str(rng.choice(world.SHAPES)), ink, paper, radius, (float(x), float(y)))


def draw(scene: Shown) -> np.ndarray:
    """Render a scene as (32, 32, 3) float32 in [0, 1]."""
    mask = world.coverage(scene.shape, scene.center, scene.radius)[..., None]
    return (scene.paper + mask * (scene.ink - scene.paper)).astype(np.float32)


def caption(scene: Shown, rng: np.random.Generator) -> str:
    """Say some things about a scene, each word as often as it fits, and any left out."""
    size = _near(np.log(scene.radius), _SIZES, _SIZE_WIDTH, rng) if rng.random() < 0.6 else ""
    brightness = float(scene.ink.max())
    tone = _near(brightness, _TONES, _TONE_WIDTH, rng) if rng.random() < 0.6 else ""
    color = ""
    if rng.random() < 0.75:
        width = _COLOR_WIDTHS[int(rng.random() < _LOOSE_SHARE)]
        color = _near(scene.ink / brightness, world.COLORS, width, rng)
    background = ""
    if rng.random() < 0.6:
        background = _near(scene.paper, world.BACKGROUNDS, _BACKGROUND_WIDTH, rng)
    shape = _word(world.SHAPE_WORDS[scene.shape], rng) if rng.random() < 0.75 else "shape"
    words = [_word(world.SIZE_WORDS[size], rng)] if size else []
    words += [_word(world.BRIGHTNESS_WORDS[tone], rng)] if tone else []
    words += [color] if color else []
    text = " ".join([*words, shape])
    if rng.random() < 0.8:
        text = f"{'an' if text[0] in 'aeiou' and rng.random() < 0.5 else 'a'} {text}"
        if rng.random() < 0.25:
            text = f"{rng.choice(world.OPENINGS)} {text}"
    if background:
        text += f" on a {_word(world.BACKGROUND_WORDS[background], rng)} background"
    return text


@torch.no_grad()
def disturbed(
    images: torch.Tensor, vae: AutoencoderKL, rng: np.random.Generator, *, most_noise: float
) -> torch.Tensor:
    """Return uint8 images of which a half went through the VAE with noise, and an eighth JPEG.

    Pictures that a diffusion model draws have what its decoder makes of latents that are not exact.
    """
    result = images.clone()
    kinds = rng.random(len(images))
    decoded = torch.from_numpy(np.flatnonzero(kinds < 0.5))
    generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
    for chunk in decoded.split(256):
        latents = encode(vae, to_unit(images[chunk]))
        strength = torch.rand((len(chunk), 1, 1, 1), generator=generator) * most_noise
        latents += torch.randn(latents.shape, generator=generator) * strength
        pixels = vae.decode(latents / SCALING_FACTOR).sample
        result[chunk] = ((pixels.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    for index in np.flatnonzero(kinds > 0.875):
        pixels = images[index].permute(1, 2, 0).numpy()
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "JPEG", quality=int(rng.integers(30, 95)))
        read = np.asarray(Image.open(file))
        result[index] = torch.from_numpy(read.copy()).permute(2, 0, 1)
    return result


def _mixed(
    colors: Sequence[Sequence[float]], rng: np.random.Generator, *, share_pure: float
) -> np.ndarray:
    """Return a named colour, or one between two of them, a little off."""
    first, second = rng.choice(len(colors), size=2, replace=False)
    share = 0.0 if rng.random() < share_pure else rng.random()
    mixture = (1 - share) * np.asarray(colors[first]) + share * np.asarray(colors[second])
    return np.clip(mixture + rng.normal(0, _JITTER, size=3), 0.0, 1.0)


def _near(
    value: float | np.ndarray,
    centers: Mapping[str, float] | Mapping[str, tuple[float, float, float]],
    width: float,
    rng: np.random.Generator,
) -> str:
    """Choose a word by a Gaussian of its distance, so that logits are linear in the value."""
    gaps = np.array([np.sum((np.asarray(value) - np.asarray(at)) ** 2) for at in centers.values()])
    weights = np.exp((gaps.min() - gaps) / (2 * width**2))
    return str(rng.choice(list(centers), p=weights / weights.sum()))


def _word(synonyms: Sequence[str], rng: np.random.Generator) -> str:
    if len(synonyms) == 1 or rng.random() < 0.75:
        return synonyms[0]
    return str(rng.choice(synonyms[1:]))
