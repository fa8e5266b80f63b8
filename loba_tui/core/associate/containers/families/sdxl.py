"""SD-XL: two text encoders, a UNet told the image's size, and a VAE that overflows in float16."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from diffusers import StableDiffusionXLPipeline
from torch import Tensor

from loba_tui.core.associate.containers.families.unet import UNetContainer
from loba_tui.core.associate.containers.prompt_reading import (
    WeightedTokens,
    token_rows,
    weighted,
)
from loba_tui.core.associate.containers.text_outputs import TextOutput
from loba_tui.core.associate.device_copies import sent
from loba_tui.core.associate.embeds import Framing, PromptEmbeds


class SDXLContainer(UNetContainer):
    """The container of `StableDiffusionXLPipeline` (https://arxiv.org/abs/2307.01952)."""

    family = "sdxl"
    text_encoders = ("text_encoder", "text_encoder_2")

    def __init__(
        self,
        pipeline: StableDiffusionXLPipeline,
        revision: str | None = None,
        *,
        resolution: int | None = None,
    ) -> None:
        super().__init__(pipeline, revision, resolution=resolution)
        # The refiner has the second tokenizer only; both split alike, and pad differently.
        self._tokenizer = pipeline.tokenizer or pipeline.tokenizer_2
        self._kept_time_ids: dict[tuple[tuple[float, ...], torch.device], Tensor] = {}

    @property
    def unconditional_prompt(self) -> str | None:
        """The empty prompt, for models that were not trained with zeros for it."""
        return None if self.pipeline.config.force_zeros_for_empty_prompt else ""

    def zero_embeds(self) -> PromptEmbeds:
        """Return one row of zeros: embeds (1, T, D) of both encoders, pooled (1, P) of one."""
        time_width = 6 * self._unet_config.addition_time_embed_dim
        pooled_width = self._unet_config.projection_class_embeddings_input_dim - time_width
        pooled = torch.zeros((1, pooled_width), device=self.device, dtype=self.dtype)
        return PromptEmbeds(super().zero_embeds().embeds, pooled)

    def _encode(self, prompts: list[str]) -> PromptEmbeds:
        embeds, _, pooled, _ = self.pipeline.encode_prompt(
            prompts, device=self.device, do_classifier_free_guidance=False
        )
        return PromptEmbeds(embeds, pooled)

    def _encode_chunks(self, chunks: Sequence[WeightedTokens]) -> PromptEmbeds:
        pipeline = self.pipeline
        read_by = [
            (pipeline.tokenizer, pipeline.text_encoder),
            (pipeline.tokenizer_2, pipeline.text_encoder_2),
        ]
        states: list[Tensor] = []
        for tokenizer, encoder in read_by:
            if encoder is None:
                continue
            ids = token_rows(tokenizer, chunks)[0].to(self.device)
            output = encoder(ids, output_hidden_states=True)
            states.append(weighted(output.hidden_states[-2], chunks))
        # The last encoder's; the first one's pooled state is not asked for.
        return PromptEmbeds(torch.cat(states, dim=-1).to(pipeline.text_encoder_2.dtype), output[0])

    def text_outputs(self) -> Sequence[TextOutput]:
        """Return the last layer but one of each encoder; the pooled state is the second's."""
        outputs = []
        for name in self.text_encoders:
            encoder = getattr(self.pipeline, name)
            if encoder is None:  # the refiner has the second alone
                continue
            layer = encoder.config.num_hidden_layers - 2
            states = f"text_model.encoder.layers.{layer}.mlp.fc2"
            pools = name == "text_encoder_2"
            outputs.append(
                TextOutput(
                    name,
                    name.replace("text_encoder", "tokenizer"),
                    states,
                    states,
                    encoder.config.hidden_size,
                    "text_model.final_layer_norm" if pools else None,
                    "text_projection" if pools else None,
                )
            )
        return outputs

    def _added_conditions(
        self, latents: Tensor, embeds: PromptEmbeds, framing: Framing | None
    ) -> dict[str, Tensor]:
        """Return the pooled state, and (B, 6): original size, top left of the cut, target size."""
        scale = self.pipeline.vae_scale_factor
        # In float32, where diffusers has the model's dtype: bfloat16 has no 1,023.
        height, width = (float(side * scale) for side in latents.shape[2:])
        own = self._time_ids((height, width, 0.0, 0.0, height, width), latents.device)
        time_ids = own.expand(len(latents), 6)
        if framing is not None:
            told = [framing.original_size, framing.crop_top_left]
            sizes = [sent(each, own.device, own.dtype) for each in told]
            time_ids = torch.cat([*sizes, time_ids[:, 4:]], dim=1)
        return {"text_embeds": embeds.pooled, "time_ids": time_ids}

    def _time_ids(self, values: tuple[float, ...], device: torch.device) -> Tensor:
        """Return one row of them, (1, 6), sent to the device once."""
        key = (values, device)
        if key not in self._kept_time_ids:
            self._kept_time_ids[key] = torch.tensor([values]).to(device)
        return self._kept_time_ids[key]
