"""Tensors of a transformer's checkpoint: which rows of which module each of them is.

It has diffusers' names or those of the first implementation, with `model.diffusion_model.` before
them where it has a VAE and text encoders too.
"""

from __future__ import annotations

from collections.abc import Mapping

from loba_tui.core.adapter_keys.checkpoint_keys import Part, Place
from loba_tui.core.adapter_keys.transformers.layout import TransformerLayout
from loba_tui.core.adapter_keys.transformers.reading import families_of

_PREFIXES = ("model.diffusion_model.", "diffusion_model.")
_PARTS: tuple[Part, ...] = ("weight", "bias")
Shapes = Mapping[str, tuple[int, ...]]


def transformer_places(shapes: Shapes) -> dict[str, tuple[Place, ...]]:
    """Return what each tensor of a transformer's checkpoint holds; {} for one of a UNet.

    Args:
        shapes: Of the tensors by their keys.
    """
    prefix = next((each for each in _PREFIXES if any(k.startswith(each) for k in shapes)), "")
    modules = {
        key.removeprefix(prefix).removesuffix(".weight"): shape
        for key, shape in shapes.items()
        if key.startswith(prefix) and key.endswith(".weight") and len(shape) > 1
    }
    found = families_of({name: (shape[0], shape[1]) for name, shape in modules.items()}, modules)
    if len(found) != 1:
        return {}
    layout = found[0].layout
    return {
        key: places
        for key in shapes
        if key.startswith(prefix)
        and (places := _places(key.removeprefix(prefix), modules, shapes[key], layout))
    }


def _places(
    name: str, modules: Shapes, shape: tuple[int, ...], layout: TransformerLayout
) -> tuple[Place, ...]:
    module, _, ending = name.rpartition(".")
    part = next((each for each in _PARTS if each == ending), None)
    if part is None or not shape:
        return ()
    try:
        named = layout.modules(module)
    except KeyError:
        return ()
    # A bias is split as the weight beside it is.
    rows, columns = modules.get(module, (*shape, 0))[:2]
    return tuple(
        Place("transformer", own, part, () if there is None else there.spans(rows, columns))
        for own, there in named
    )
