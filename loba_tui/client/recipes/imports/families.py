"""Families of models by the words that other tools have for them: ours, and those that are not.

of_kind(word, tool)         ours that a model type, a script or a network module names, or refused
of_repository(model, tool)  the same of a model on the hub
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from loba_tui.core.errors import RecipeError

_MOST_LETTERS = 256
_BLOCKS = ("cross_attention", "self_attention", "feed_forward", "modulation")


class FlowFamily(NamedTuple):
    """A family of flow-matching models that can be trained here.

    Attributes:
        hub_id: The model to take where a tool names a transformer in one file.
        layers: Groups of layers in its blocks.
        shifts: How tools shift timesteps by the size of pictures: two numbers of tokens, and the
            logarithm of the shift at each.
    """

    name: str
    hub_id: str
    layers: tuple[str, ...] = _BLOCKS
    shifts: tuple[tuple[int, float], tuple[int, float]] = ((256, 0.5), (4096, 1.15))


FLUX = FlowFamily("FLUX.1", "black-forest-labs/FLUX.1-dev")
FLUX_2 = FlowFamily(
    "FLUX.2 klein",
    "black-forest-labs/FLUX.2-klein-base-4B",
    # All blocks share one modulation, outside of them.
    ("cross_attention", "self_attention", "feed_forward"),
)
QWEN_IMAGE = FlowFamily("Qwen-Image", "Qwen/Qwen-Image", shifts=((256, 0.5), (8192, 0.9)))
SD_3 = FlowFamily("SD 3", "stabilityai/stable-diffusion-3.5-medium")
Z_IMAGE = FlowFamily(
    "Z-Image", "Tongyi-MAI/Z-Image", ("self_attention", "feed_forward", "modulation")
)

TRAINED = "SD-XL, SD 1.x, SD 2.x, SD 3 and 3.5, FLUX.1, FLUX.2 klein, Qwen-Image and Z-Image"

_VARIANTS = (
    (FLUX, "schnell", "black-forest-labs/FLUX.1-schnell"),
    (FLUX, "krea", "black-forest-labs/FLUX.1-Krea-dev"),
    (FLUX_2, "9b", "black-forest-labs/FLUX.2-klein-base-9B"),
    (SD_3, "3.5_large", "stabilityai/stable-diffusion-3.5-large"),
    (SD_3, "3_medium", "stabilityai/stable-diffusion-3-medium-diffusers"),
    (QWEN_IMAGE, "2512", "Qwen/Qwen-Image-2512"),
    (Z_IMAGE, "turbo", "Tongyi-MAI/Z-Image-Turbo"),
)

# The first that fits counts: variants that are not ours come before the families that are.
_KINDS: tuple[tuple[str, FlowFamily | str], ...] = (
    (r"(?:flux.*)?kontext", "FLUX.1 Kontext"),
    (r"flux.*fill", "FLUX.1 Fill"),
    (r"flux.*(?:redux|control|canny|depth)", "a FLUX with a control image"),
    (r"flux[._-]?2.*dev", "FLUX.2 dev"),
    (r"flux[._-]?2", FLUX_2),
    (r"flex", "Flex"),
    (r"flux", FLUX),
    (r"sd_?3|stable[_-]?diffusion[_-]?3", SD_3),
    (r"qwen.*edit", "Qwen-Image-Edit"),
    (r"qwen.*layered", "Qwen-Image-Layered"),
    (r"qwen", QWEN_IMAGE),
    (r"z[_-]?image.*omni", "Z-Image-Omni"),
    (r"z[_-]?image.*l2p", "Z-Image L2P"),
    (r"z[_-]?image", Z_IMAGE),
    (r"cascade|wuerstchen", "Stable Cascade"),
    (r"pixart", "PixArt"),
    (r"sana(?![a-z])", "Sana"),
    (r"hunyuan|hv_", "Hunyuan"),
    (r"hidream|hi_dream", "HiDream"),
    (r"chroma(?![a-z])", "Chroma"),
    (r"aura_?flow", "AuraFlow"),
    (r"lumina", "Lumina"),
    (r"kolors", "Kolors"),
    (r"wan(?:[0-9_.:]|$)", "Wan"),
    (r"fpack|framepack", "FramePack"),
    (r"kandinsky", "Kandinsky"),
    (r"ltx", "LTX-Video"),
    (r"cosmos", "Cosmos"),
    (r"omnigen", "OmniGen"),
    (r"anima(?![a-z])", "Anima"),
    (r"krea_?2", "Krea 2"),
    (r"ernie", "ERNIE-Image"),
    (r"ideogram", "Ideogram"),
    (r"deepfloyd", "DeepFloyd IF"),
)
_REPOSITORIES: tuple[tuple[str, FlowFamily | str], ...] = (
    ("black-forest-labs/flux.1-kontext", "FLUX.1 Kontext"),
    ("black-forest-labs/flux.1-fill", "FLUX.1 Fill"),
    ("black-forest-labs/flux.1-redux", "a FLUX with a control image"),
    ("black-forest-labs/flux.1-canny", "a FLUX with a control image"),
    ("black-forest-labs/flux.1-depth", "a FLUX with a control image"),
    ("black-forest-labs/flux.2-dev", "FLUX.2 dev"),
    ("black-forest-labs/flux.2", FLUX_2),
    ("black-forest-labs/", FLUX),
    ("stabilityai/stable-diffusion-3", SD_3),
    ("stabilityai/stable-cascade", "Stable Cascade"),
    ("pixart-alpha/", "PixArt"),
    ("qwen/qwen-image-edit", "Qwen-Image-Edit"),
    ("qwen/qwen-image-layered", "Qwen-Image-Layered"),
    ("qwen/qwen-image", QWEN_IMAGE),
    ("wan-ai/", "Wan"),
    ("kwai-kolors/", "Kolors"),
    ("fal/auraflow", "AuraFlow"),
    ("tongyi-mai/z-image-omni", "Z-Image-Omni"),
    ("tongyi-mai/z-image-edit", "Z-Image-Edit"),
    ("tongyi-mai/", Z_IMAGE),
    ("tencent", "Hunyuan"),
    ("hidream-ai/", "HiDream"),
    ("alpha-vllm/", "Lumina"),
    ("lodestones/chroma", "Chroma"),
    ("ostris/flex", "Flex"),
)


def of_kind(kind: str, tool: str) -> FlowFamily | None:
    """Return the flow-matching family of ours that a word of a tool names; None for others.

    Raises:
        RecipeError: It names a family that cannot be trained here.
    """
    lowered = kind[:_MOST_LETTERS].lower()  # a search takes the square of a text's length
    matched = next(
        (found for mark, found in _KINDS if re.search(f"(?:^|[^a-z]){mark}", lowered)), None
    )
    return _ours(matched, tool)


def of_repository(model: str, tool: str) -> FlowFamily | None:
    """Return the flow-matching family of ours that a model on the hub is of; None for others.

    Raises:
        RecipeError: It is of a family that cannot be trained here.
    """
    lowered = model.lower()
    matched = next((found for mark, found in _REPOSITORIES if lowered.startswith(mark)), None)
    return _ours(matched, tool)


def hub_id(family: FlowFamily, words: str) -> str:
    """Return the model of a family on the hub that words, such as a file's name, point to."""
    plain = words.lower().replace("-", "_")
    found = (hub for each, mark, hub in _VARIANTS if each is family and mark in plain)
    return next(found, family.hub_id)


def refuse(name: str, tool: str) -> None:
    """Raise RecipeError for a configuration of a family that is not ours."""
    raise RecipeError(
        f"This configuration of {tool} trains {name}, a family that cannot be trained here.",
        f"What can be: {TRAINED}.",
    )


def of_kind_or(kind: str, known: Sequence[str], tool: str) -> FlowFamily | None:
    """Return the family that a word names, where one that names none of `known` is refused."""
    family = of_kind(kind, tool)
    if family is None and not kind.lower().startswith(tuple(known)):
        refuse(kind, tool)
    return family


def _ours(matched: FlowFamily | str | None, tool: str) -> FlowFamily | None:
    if isinstance(matched, str):
        refuse(matched, tool)
        return None
    return matched
