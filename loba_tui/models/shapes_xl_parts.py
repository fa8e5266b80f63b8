"""Parts of `builtin:shapes-xl` before training: its tokenizers, encoders, UNet and VAE.

Every part is of the class and wiring that SD-XL 1.0 has, only smaller; the block types, the two
layers a block and the conditioning are SD-XL's own, so that names of modules mean the same in both.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import pairwise

import torch
from diffusers import (
    AutoencoderKL,
    EulerDiscreteScheduler,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer
from transformers.convert_slow_tokenizer import bytes_to_unicode

from loba_tui.models.shapes_world import SIZE, vocabulary

MAX_TOKENS = 32
LATENT_SIZE = SIZE // 4
SCALING_FACTOR = 0.13025
"""SD-XL's own; the latents are whitened so that this value is the right one here too."""

_START, _END = "<|startoftext|>", "<|endoftext|>"
_TOKEN_EMBEDDING_STD = 0.6


@dataclass(frozen=True)
class TextParts:
    """Both tokenizers and both text encoders, which the pipeline uses side by side."""

    tokenizer: CLIPTokenizer
    tokenizer_2: CLIPTokenizer
    text_encoder: CLIPTextModel
    text_encoder_2: CLIPTextModelWithProjection


def learn_merges(words: list[str], *, end: str = "</w>") -> list[tuple[str, str]]:
    """Learn byte-pair merges until every word is one token (https://arxiv.org/abs/1508.07909).

    Args:
        end: What CLIP's tokenizers put behind a word's last letter; others put nothing.
    """
    spellings = {word: [*word[:-1], f"{word[-1]}{end}"] for word in words}
    merges: list[tuple[str, str]] = []
    while True:
        pairs = Counter(pair for symbols in spellings.values() for pair in pairwise(symbols))
        if not pairs:
            return merges
        # Ties go to the pair that sorts first, so that the vocabulary never depends on order.
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        for word, symbols in spellings.items():
            spellings[word] = _merge(symbols, best)


def _merge(symbols: list[str], pair: tuple[str, str]) -> list[str]:
    """Join every occurrence of a pair, left to right."""
    merged: list[str] = []
    position = 0
    while position < len(symbols):
        if tuple(symbols[position : position + 2]) == pair:
            merged.append("".join(pair))
            position += 2
        else:
            merged.append(symbols[position])
            position += 1
    return merged


def make_tokenizer(pad_token: str) -> CLIPTokenizer:
    """Return a CLIP tokenizer in which every word of the world is one token."""
    letters = list(bytes_to_unicode().values())
    merges = learn_merges(vocabulary())
    tokens = [*letters, *(f"{letter}</w>" for letter in letters)]
    tokens += ["".join(pair) for pair in merges] + [_START, _END]
    return CLIPTokenizer(
        vocab={token: index for index, token in enumerate(tokens)},
        merges=merges,
        pad_token=pad_token,
        model_max_length=MAX_TOKENS,
    )


def make_text_parts() -> TextParts:
    """Return fresh tokenizers and encoders; as in SD-XL the two pad differently."""
    tokenizer, tokenizer_2 = make_tokenizer(_END), make_tokenizer("!")

    def config(width: int, layers: int, heads: int, activation: str) -> CLIPTextConfig:
        return CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=width,
            intermediate_size=4 * width,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            max_position_embeddings=MAX_TOKENS,
            hidden_act=activation,
            projection_dim=64,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )

    text_encoder = CLIPTextModel(config(48, 2, 4, "quick_gelu"))
    text_encoder_2 = CLIPTextModelWithProjection(config(64, 3, 4, "gelu"))
    for encoder in (text_encoder, text_encoder_2):
        # CLIP's 0.02 is for long training; with it the words stay alike for most of ours.
        torch.nn.init.normal_(encoder.get_input_embeddings().weight, std=_TOKEN_EMBEDDING_STD)
    return TextParts(tokenizer, tokenizer_2, text_encoder, text_encoder_2)


def make_vae() -> AutoencoderKL:
    """Return a fresh autoencoder, 32x32x3 pixels to 8x8x4 latents."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(16, 32, 64),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=SIZE,
        scaling_factor=SCALING_FACTOR,
        force_upcast=False,
    )


def make_unet() -> UNet2DConditionModel:
    """Return a fresh denoiser: SD-XL's block types and micro-conditioning."""
    return UNet2DConditionModel(
        sample_size=LATENT_SIZE,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(32, 64, 96),
        layers_per_block=2,
        transformer_layers_per_block=(1, 1, 1),
        # Numbers of heads, despite the name (a quirk that diffusers keeps for SD-XL's sake).
        attention_head_dim=(2, 4, 6),
        cross_attention_dim=48 + 64,
        use_linear_projection=True,
        norm_num_groups=8,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=64 + 6 * 8,
    )


def make_scheduler() -> EulerDiscreteScheduler:
    """Return SD-XL's sampler with SD-XL's settings."""
    return EulerDiscreteScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="epsilon",
        timestep_spacing="leading",
        steps_offset=1,
    )


def make_pipeline(
    vae: AutoencoderKL, text: TextParts, unet: UNet2DConditionModel
) -> StableDiffusionXLPipeline:
    """Join the parts; a missing negative prompt is zeroed as in SD-XL, and no watermark is put."""
    return StableDiffusionXLPipeline(
        vae=vae,
        text_encoder=text.text_encoder,
        text_encoder_2=text.text_encoder_2,
        tokenizer=text.tokenizer,
        tokenizer_2=text.tokenizer_2,
        unet=unet,
        scheduler=make_scheduler(),
        force_zeros_for_empty_prompt=True,
        add_watermarker=False,
    )
