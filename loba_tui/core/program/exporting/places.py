"""Which modules the tensors of an open checkpoint are, of a UNet or of a transformer."""

from __future__ import annotations

from collections.abc import Mapping

from loba_tui.core.adapter_keys.checkpoint_keys import Place, places_in
from loba_tui.core.adapter_keys.transformers.checkpoints import transformer_places
from loba_tui.core.program.exporting.tensor_file import TensorFile


def places_of(file: TensorFile) -> Mapping[str, tuple[Place, ...]]:
    """Return what each tensor holds; nothing where it is no layer that can be adapted."""
    shapes = {name: tuple(entry["shape"]) for name, entry in file.entries.items()}
    transformer = transformer_places(shapes)
    if not transformer:
        return {name: places_in(name) for name in file.entries}
    return {name: transformer.get(name) or places_in(name) for name in file.entries}
