"""Pipelines of every family with a transformer: true architecture, random weights, small."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderKLFlux2,
    AutoencoderKLQwenImage,
    DiffusionPipeline,
    FlowMatchEulerDiscreteScheduler,
    Flux2KleinPipeline,
    Flux2Transformer2DModel,
    FluxPipeline,
    FluxTransformer2DModel,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    ZImagePipeline,
    ZImageTransformer2DModel,
)
from torch import nn
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Tokenizer,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3Model,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)
from transformers.convert_slow_tokenizer import bytes_to_unicode

from loba_tui.models.shapes_xl_parts import make_text_parts

RESOLUTION = 16
"""Pixels a side that these pipelines are drawn with here: 4 × 4 tokens."""
_WIDTH, _CHANNELS = 16, 4
_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)


def save_tiny(family: str, folder: Path) -> None:
    """Save the tiny pipeline of a family, the same each time."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        TINY[family]().save_pretrained(folder)


def _z_image() -> DiffusionPipeline:
    tokenizer = _qwen_tokenizer()
    transformer = ZImageTransformer2DModel(
        in_channels=_CHANNELS,
        dim=32,
        n_layers=2,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=_WIDTH,
        axes_dims=[4, 6, 6],
        axes_lens=[640, 16, 16],
    )
    return ZImagePipeline(
        scheduler=_scheduler(shift=3.0),
        vae=_vae(),
        text_encoder=_shaken(Qwen3Model(_qwen3(tokenizer, layers=3))),
        tokenizer=tokenizer,
        transformer=_shaken(transformer),
    )


def _flux2_klein(*, is_distilled: bool = False) -> DiffusionPipeline:
    tokenizer = _qwen_tokenizer()
    vae = AutoencoderKLFlux2(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 8),
        layers_per_block=1,
        latent_channels=_CHANNELS,
        norm_num_groups=4,
    )
    vae.bn.running_mean.normal_()
    vae.bn.running_var.uniform_(0.5, 2.0)
    transformer = Flux2Transformer2DModel(
        in_channels=4 * _CHANNELS,
        num_layers=1,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=3 * _WIDTH,
        timestep_guidance_channels=32,
        axes_dims_rope=(4, 4, 4, 4),
        guidance_embeds=False,
    )
    return Flux2KleinPipeline(
        scheduler=_scheduler(shift=3.0, use_dynamic_shifting=True),
        vae=_shaken(vae),
        # The prompt's states are those after layers 9, 18 and 27.
        text_encoder=_shaken(Qwen3ForCausalLM(_qwen3(tokenizer, layers=28))),
        tokenizer=tokenizer,
        transformer=_shaken(transformer),
        is_distilled=is_distilled,
    )


def _flux2_klein_distilled() -> DiffusionPipeline:
    return _flux2_klein(is_distilled=True)


def _qwen_image() -> DiffusionPipeline:
    tokenizer = _qwen_tokenizer()
    encoder = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": _WIDTH,
            "intermediate_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "max_position_embeddings": 2048,
            "rope_scaling": {"rope_type": "default", "mrope_section": [2, 1, 1]},
        },
        vision_config={
            "depth": 1,
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_heads": 2,
            "out_hidden_size": _WIDTH,
            "fullatt_block_indexes": [0],
        },
    )
    vae = AutoencoderKLQwenImage(
        base_dim=8,
        z_dim=_CHANNELS,
        dim_mult=[1, 2],
        num_res_blocks=1,
        temperal_downsample=[False],
        latents_mean=[-0.7, 0.3, 0.0, 0.5],
        latents_std=[2.8, 1.4, 0.5, 1.0],
    )
    transformer = QwenImageTransformer2DModel(
        in_channels=4 * _CHANNELS,
        out_channels=_CHANNELS,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=_WIDTH,
        axes_dims_rope=(4, 6, 6),
    )
    dynamic = {"use_dynamic_shifting": True, "max_shift": 0.9, "max_image_seq_len": 8192}
    return QwenImagePipeline(
        scheduler=_scheduler(shift=1.0, shift_terminal=0.02, **dynamic),
        vae=_shaken(vae),
        text_encoder=_shaken(Qwen2_5_VLForConditionalGeneration(encoder)),
        tokenizer=tokenizer,
        transformer=_shaken(transformer),
    )


def _flux(*, guidance_embeds: bool) -> DiffusionPipeline:
    tokenizer, t5 = make_text_parts().tokenizer, _t5_tokenizer()
    transformer = FluxTransformer2DModel(
        in_channels=4 * _CHANNELS,
        num_layers=1,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=2 * _WIDTH,
        pooled_projection_dim=_WIDTH,
        guidance_embeds=guidance_embeds,
        axes_dims_rope=(4, 6, 6),
    )
    shift = {"shift": 3.0, "use_dynamic_shifting": True} if guidance_embeds else {"shift": 1.0}
    return FluxPipeline(
        scheduler=_scheduler(**shift),
        vae=_vae(),
        text_encoder=_shaken(CLIPTextModel(_clip(tokenizer))),
        tokenizer=tokenizer,
        text_encoder_2=_shaken(T5EncoderModel(_t5(t5))),
        tokenizer_2=t5,
        transformer=_shaken(transformer),
    )


def _flux_dev() -> DiffusionPipeline:
    return _flux(guidance_embeds=True)


def _flux_schnell() -> DiffusionPipeline:
    return _flux(guidance_embeds=False)


def _sd3() -> DiffusionPipeline:
    tokenizer, t5 = make_text_parts().tokenizer, _t5_tokenizer()
    transformer = SD3Transformer2DModel(
        sample_size=8,
        in_channels=_CHANNELS,
        out_channels=_CHANNELS,
        num_layers=3,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=2 * _WIDTH,
        caption_projection_dim=32,
        pooled_projection_dim=2 * _WIDTH,
        pos_embed_max_size=16,
        dual_attention_layers=(0,),
        qk_norm="rms_norm",
    )
    return StableDiffusion3Pipeline(
        scheduler=_scheduler(shift=3.0),
        vae=_vae(),
        text_encoder=_shaken(CLIPTextModelWithProjection(_clip(tokenizer))),
        tokenizer=tokenizer,
        text_encoder_2=_shaken(CLIPTextModelWithProjection(_clip(tokenizer))),
        tokenizer_2=tokenizer,
        text_encoder_3=_shaken(T5EncoderModel(_t5(t5))),
        tokenizer_3=t5,
        transformer=_shaken(transformer),
    )


TINY: dict[str, Callable[[], DiffusionPipeline]] = {
    "z-image": _z_image,
    "flux2-klein": _flux2_klein,
    "flux2-klein-distilled": _flux2_klein_distilled,
    "qwen-image": _qwen_image,
    "flux-dev": _flux_dev,
    "flux-schnell": _flux_schnell,
    "sd3": _sd3,
}
"""What makes the pipeline of each family; some families have two kinds of models."""


def _scheduler(**config: object) -> FlowMatchEulerDiscreteScheduler:
    return FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, **config)


def _vae() -> AutoencoderKL:
    return _shaken(
        AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            block_out_channels=(8, 8),
            layers_per_block=1,
            latent_channels=_CHANNELS,
            norm_num_groups=4,
            scaling_factor=0.36,
            shift_factor=0.12,
            use_quant_conv=False,
            use_post_quant_conv=False,
        )
    )


def _shaken(module: nn.Module) -> nn.Module:
    """Return a network with noise on every weight: some are made zero, some are left unset."""
    for parameter in module.parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
        else:
            parameter.data += 0.1 * torch.randn_like(parameter)
    return module.eval()


def _qwen_tokenizer() -> Qwen2Tokenizer:
    """Bytes, without merges, and the tokens of Qwen's chats."""
    letters = sorted(bytes_to_unicode().values())
    tokenizer = Qwen2Tokenizer(
        vocab={letter: index for index, letter in enumerate(letters)},
        merges=[],
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        unk_token=None,
        additional_special_tokens=["<|im_start|>", "<think>", "</think>"],
        model_max_length=2048,
    )
    tokenizer.chat_template = _TEMPLATE
    return tokenizer


def _t5_tokenizer() -> T5Tokenizer:
    pieces = ["<pad>", "</s>", "<unk>", "▁", *"abcdefghijklmnopqrstuvwxyz0123456789,."]
    return T5Tokenizer(vocab=[(piece, -2.0) for piece in pieces], extra_ids=0, model_max_length=512)


def _qwen3(tokenizer: Qwen2Tokenizer, *, layers: int) -> Qwen3Config:
    return Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=_WIDTH,
        intermediate_size=32,
        num_hidden_layers=layers,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
    )


def _clip(tokenizer: object) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=_WIDTH,
        intermediate_size=32,
        num_hidden_layers=3,
        num_attention_heads=2,
        max_position_embeddings=tokenizer.model_max_length,
        projection_dim=_WIDTH,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def _t5(tokenizer: T5Tokenizer) -> T5Config:
    return T5Config(
        vocab_size=len(tokenizer),
        d_model=2 * _WIDTH,
        d_kv=8,
        d_ff=32,
        num_layers=2,
        num_heads=2,
        feed_forward_proj="gated-gelu",
    )
