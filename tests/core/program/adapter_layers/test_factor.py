"""A factor in an adapter's weights, held against the strength that it stands for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_adapters import add_adapter, fresh, move_adapter
from torch import Tensor

from loba_tui.core.errors import RecipeError
from loba_tui.core.owned_files import OwnedFolder
from loba_tui.core.program.adapter_files.adapter import write_adapter
from loba_tui.core.program.adapter_files.load import load_adapter
from loba_tui.core.program.adapter_layers.factor import check_linear, multiply_adapter
from loba_tui.core.program.adapter_layers.strength import AdapterScale

CONVOLUTIONS = ["cross_attention", "convolution"]
KINDS: list[tuple[str, dict[str, Any]]] = [
    ("lora", {"rank": 2, "alpha": 3.0}),
    ("locon", {"rank": 2, "alpha": 3.0}),
    ("dora", {"rank": 2, "alpha": 3.0, "layers": CONVOLUTIONS}),
    ("loha", {"rank": 2, "alpha": 3.0, "layers": CONVOLUTIONS}),
    ("lokr", {"rank": 2, "alpha": 3.0, "layers": CONVOLUTIONS}),
]


@torch.no_grad()
def predicted(container: Any, strength: float) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    latents = torch.randn(container.latent_shape(), generator=generator)[None]
    prompts = container.encode_prompts(["a large red circle"])
    with AdapterScale(container.denoiser)(strength):
        found: Tensor = container.predict(
            latents, torch.tensor([500]), prompts, framing=None
        ).float()
    return found


@pytest.mark.parametrize(("kind", "options"), KINDS, ids=[kind for kind, _ in KINDS])
@pytest.mark.parametrize("factor", [1.7, 0.4])
def test_strength_one_becomes_what_the_factor_was(
    kind: str, options: dict[str, Any], factor: float, tiny_sdxl_folder: Path, tmp_path: Path
) -> None:
    container = fresh(tiny_sdxl_folder)
    add_adapter(container, kind, options)
    move_adapter(container)
    base, wanted = predicted(container, 0.0), predicted(container, factor)
    beyond = predicted(container, -0.5 * factor)
    multiply_adapter(container.denoiser, factor)
    moved = float((wanted - base).abs().max())
    assert moved > 1e-4
    assert float((predicted(container, 1.0) - wanted).abs().max()) <= 1e-3 * moved
    assert float((predicted(container, -0.5) - beyond).abs().max()) <= 1e-3 * moved
    # A file of it has that strength too.
    write_adapter(container.denoiser, OwnedFolder(tmp_path))
    other = fresh(tiny_sdxl_folder)
    load_adapter(other, tmp_path / "adapter.safetensors")
    assert float((predicted(other, 1.0) - wanted).abs().max()) <= 1e-3 * moved


def test_a_rotation_takes_no_factor(tiny_sdxl_folder: Path) -> None:
    container = fresh(tiny_sdxl_folder)
    add_adapter(container, "oft", {"rank": 4})
    before = {name: value.clone() for name, value in container.denoiser.state_dict().items()}
    with pytest.raises(RecipeError, match="not linear in its strength"):
        multiply_adapter(container.denoiser, 2.0)
    for name, value in container.denoiser.state_dict().items():
        assert torch.equal(value, before[name])


def test_a_model_without_an_adapter_has_nothing_to_check(tiny_sdxl_folder: Path) -> None:
    check_linear(fresh(tiny_sdxl_folder).denoiser)
