"""Stable Diffusion 1.x and 2.x: one text encoder, and a UNet that is told the prompt alone."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from loba_tui.core.associate.containers.families.unet import UNetContainer
from loba_tui.core.associate.containers.prompt_reading import (
    WeightedTokens,
    token_rows,
    weighted,
)
from loba_tui.core.associate.containers.text_outputs import TextOutput
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

    def _encode_chunks(self, chunks: Sequence[WeightedTokens]) -> PromptEmbeds:
        encoder = self.pipeline.text_encoder
        ids, mask = (each.to(self.device) for each in token_rows(self._tokenizer, chunks))
        uses_mask = getattr(encoder.config, "use_attention_mask", None)
        states = encoder(ids, attention_mask=mask if uses_mask else None)[0]
        return PromptEmbeds(weighted(states.to(encoder.dtype), chunks))

    def text_outputs(self) -> Sequence[TextOutput]:
        """Return the last norm, which the states come out of."""
        config = self.pipeline.text_encoder.config
        linear = f"text_model.encoder.layers.{config.num_hidden_layers - 1}.mlp.fc2"
        norm = "text_model.final_layer_norm"
        return [TextOutput("text_encoder", "tokenizer", norm, linear, config.hidden_size)]

    def _added_conditions(
        self, latents: Tensor, embeds: PromptEmbeds, framing: Framing | None
    ) -> None:
        """Return nothing."""

    @property
    def _vae_overflows(self) -> bool:
        """Never: its configurations are older than the key, whose default is made for SD-XL's."""
        return False
