"""Operations of an SD-XL pass with its adapter off and on, at true size and without weights.

A GPU is sent each operation by itself; views are left out, as they cost it nothing. Nothing is
computed or downloaded: the tensors are torch's meta tensors.

    python benchmarks/step_operations.py
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from peft import LoraConfig

from loba_tui.core.associate.containers.base import ModelContainer
from loba_tui.core.associate.embeds import PromptEmbeds
from loba_tui.core.associate.model_shapes import open_shapes
from loba_tui.core.program.adapter_layers.strength import AdapterScale
from loba_tui.core.program.benchmarking.counting import count_step

SDXL = "stabilityai/stable-diffusion-xl-base-1.0"
ROWS = 2


def main() -> None:
    print("| dtype | adapter | operations of a pass | against off | with its backward pass |")
    print("|---|---|---|---|---|")
    for dtype in (torch.float32, torch.bfloat16):
        container = open_shapes(SDXL, None, dtype).container
        scale = _attach(container)
        off = 0
        for name, prepare in _forms(scale).items():
            prepare()
            _pass(container, scale, name)  # in which it sees who reads the prompt
            forward = _pass(container, scale, name)
            off = off or forward
            shown = "" if name == "off" else f"{_pass(container, scale, name, with_grad=True):,}"
            print(f"| {dtype} | {name} | {forward:,} | {forward / off:.3f} | {shown} |")


def _attach(container: ModelContainer) -> AdapterScale:
    denoiser = container.denoiser
    denoiser.requires_grad_(False)
    layers = container.adapter_targets()["cross_attention"]
    denoiser.add_adapter(LoraConfig(r=4, lora_alpha=1, target_modules=layers))
    for parameter in denoiser.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return AdapterScale(denoiser)


def _forms(scale: AdapterScale) -> dict[str, Callable[[], None]]:
    def form(strengths: float | torch.Tensor, *, is_fast: bool) -> Callable[[], None]:
        def prepare() -> None:
            scale.multipliers.is_fast = is_fast
            scale.set(strengths)

        return prepare

    rows = torch.tensor([1.0, -1.0])
    return {
        "off": form(1.0, is_fast=False),
        "exact, strength 1": form(1.0, is_fast=False),
        "exact, strengths 1 and −1": form(rows, is_fast=False),
        "fast, strength 1": form(1.0, is_fast=True),
        "fast, strengths 1 and −1": form(rows, is_fast=True),
    }


def _pass(
    container: ModelContainer, scale: AdapterScale, name: str, *, with_grad: bool = False
) -> int:
    latents = torch.zeros(ROWS, *container.latent_shape(512), device="meta")
    states = torch.zeros(ROWS, 77, 2048, device="meta")
    embeds = PromptEmbeds(states, torch.zeros(ROWS, 1280, device="meta"))
    timesteps = torch.zeros(ROWS, device="meta")

    def run() -> None:
        predicted = container.predict(latents, timesteps, embeds)
        if with_grad:
            predicted.sum().backward()

    with torch.set_grad_enabled(with_grad):
        if name != "off":
            return count_step(run).operations
        with scale.base():
            return count_step(run).operations


if __name__ == "__main__":
    main()
