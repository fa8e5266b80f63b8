"""SimpleTuner's flavours of models, and its names for groups of FLUX's layers."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

_ATTENTION = ("self_attention", "cross_attention")

FLAVOURS: Mapping[tuple[str, str], str] = MappingProxyType(
    {
        ("FLUX.1", "dev"): "black-forest-labs/FLUX.1-dev",
        ("FLUX.1", "krea"): "black-forest-labs/FLUX.1-Krea-dev",
        ("FLUX.1", ""): "black-forest-labs/FLUX.1-Krea-dev",
        ("FLUX.1", "schnell"): "black-forest-labs/FLUX.1-schnell",
        ("FLUX.2 klein", "klein-4b"): "black-forest-labs/FLUX.2-klein-base-4B",
        ("FLUX.2 klein", "klein-9b"): "black-forest-labs/FLUX.2-klein-base-9B",
        ("FLUX.2 klein", ""): "black-forest-labs/FLUX.2-klein-base-9B",
        ("Qwen-Image", "v1.0"): "Qwen/Qwen-Image",
        ("Qwen-Image", "v2.0"): "Qwen/Qwen-Image-2512",
        ("Qwen-Image", ""): "Qwen/Qwen-Image-2512",
        ("SD 3", "medium"): "stabilityai/stable-diffusion-3.5-medium",
        ("SD 3", "large"): "stabilityai/stable-diffusion-3.5-large",
        ("SD 3", ""): "stabilityai/stable-diffusion-3.5-medium",
        ("Z-Image", "base"): "Tongyi-MAI/Z-Image",
        ("Z-Image", "turbo"): "Tongyi-MAI/Z-Image-Turbo",
        ("Z-Image", "turbo-ostris-v2"): "Tongyi-MAI/Z-Image-Turbo",
        ("Z-Image", ""): "Tongyi-MAI/Z-Image-Turbo",
    }
)
"""By family and flavour; the one without a name is what it takes where none is given."""

LORA_TARGETS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "all": _ATTENTION,
        "mmdit": ("self_attention",),
        "context": ("cross_attention",),
        "all+ffs": (*_ATTENTION, "feed_forward"),
        "all+ffs+embedder": (*_ATTENTION, "feed_forward", "projection"),
        "ai-toolkit": (*_ATTENTION, "feed_forward", "modulation"),
    }
)
"""By `flux_lora_target`."""
