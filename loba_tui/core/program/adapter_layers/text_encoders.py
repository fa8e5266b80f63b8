"""Put a LoRA on the text encoders of a model.

It goes through PEFT's own injection: an encoder's `add_adapter` depends on which versions of
transformers and PEFT meet. Modules are called as adapter files call them, whatever this version of
transformers does.
"""

from __future__ import annotations

from types import MappingProxyType

import torch
from diffusers.training_utils import cast_training_params
from peft import LoraConfig, inject_adapter_in_model
from torch import nn

from loba_tui.core.associate.containers.base import ModelContainer
from loba_tui.core.errors import RecipeError
from loba_tui.core.program import randomness
from loba_tui.core.recipe.schema import AdapterSection

_LAYERS = MappingProxyType(
    {
        "attention": tuple(f"self_attn.{name}_proj" for name in ("q", "k", "v", "out")),
        "mlp": ("mlp.fc1", "mlp.fc2"),
    }
)
_PREFIX = "text_model."


def attach_text_adapters(
    section: AdapterSection, container: ModelContainer, seed: int, adapter_name: str = "default"
) -> dict[str, nn.Module]:
    """Attach what `adapter.text_encoders` asks for, float32 and reproducibly initialised.

    Returns:
        The encoders by their component's name.

    Raises:
        RecipeError: The model has no such encoder, or none of the layers.
    """
    wanted = section.text_encoders
    if wanted is None:
        return {}
    if not container.text_outputs():
        raise RecipeError(
            f"adapter.text_encoders: no adapter file has a place for those of a {container.family}"
            " model",
            "Leave the section out; the denoiser alone is trained then.",
        )
    names = container.text_encoders if wanted.components is None else wanted.components
    if missing := [name for name in names if name not in container.text_encoders]:
        raise RecipeError(
            f"adapter.text_encoders.components: this {container.family} model has no {missing[0]}",
            f"It has {' and '.join(container.text_encoders)}.",
        )
    encoders = {
        name: encoder
        for name in names
        if (encoder := getattr(container.pipeline, name)) is not None
    }
    rank = section.rank if wanted.rank is None else wanted.rank
    alpha = section.alpha if wanted.alpha is None else wanted.alpha
    endings = tuple(f".{each}" for group in wanted.layers for each in _LAYERS[group])
    for name, encoder in encoders.items():
        modules = [
            module
            for module, layer in encoder.named_modules()
            if isinstance(layer, nn.Linear) and module.endswith(endings)
        ]
        if not modules:
            raise RecipeError(
                f"adapter.text_encoders: the {name} of this {container.family} model has none of"
                f" the layers {', '.join(wanted.layers)}"
            )
        encoder.requires_grad_(False)
        config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=modules)
        with torch.random.fork_rng():
            # PEFT draws its initial weights from the global generator.
            torch.manual_seed(randomness.integer(2**31, seed, "adapter", name))
            inject_adapter_in_model(config, encoder, adapter_name)
        cast_training_params(encoder, torch.float32)
    container.trains_text_encoders = True
    return encoders


def name_in_files(module: str) -> str:
    """Return what adapter files call a module of an encoder.

    They say `text_model.encoder…`; transformers has left out the first part in some versions.
    """
    return module if module.startswith(_PREFIX) else _PREFIX + module
