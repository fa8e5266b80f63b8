"""Stable Diffusion 1.x and 2.x: one text encoder, and a UNet that is told the prompt alone."""

from __future__ import annotations

from torch import Tensor

from loba_tui.core.associate.containers.unet import UNetContainer
from loba_tui.core.associate.embeds import Framing, PromptEmbeds


class SDContainer(UNetContainer):
    """The container of `StableDiffusionPipeline` (https://arxiv.org/abs/2112.10752)."""

    family = "sd"
    text_encoders = ("text_encoder",)

    @property
    def unconditional_prompt(self) -> str | None:
        """The empty prompt."""
        return ""

    def _encode(self, prompts: list[str]) -> PromptEmbeds:
        embeds, _ = self.pipeline.encode_prompt(
            prompts,
            device=self.device,
            num_images_per_prompt=1,
            do_classifier_free_guidance=False,
        )
        return PromptEmbeds(embeds)

    def _added_conditions(
        self, latents: Tensor, embeds: PromptEmbeds, framing: Framing | None
    ) -> None:
        """Return nothing."""

    @property
    def _vae_overflows(self) -> bool:
        """Never: its configurations are older than the key, whose default is made for SD-XL's."""
        return False
