"""Parts of `builtin:shapes-z` before training: its tokenizer, text encoder and transformer.

Every part is of the class and wiring that Z-Image has (https://arxiv.org/abs/2511.22699), only
smaller. The VAE is the one of `builtin:shapes-xl`, as it is.
"""

from __future__ import annotations

import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    ZImagePipeline,
    ZImageTransformer2DModel,
)
from transformers import Qwen2Tokenizer, Qwen3Config, Qwen3Model
from transformers.convert_slow_tokenizer import bytes_to_unicode

from loba_tui.models.shapes_world import vocabulary
from loba_tui.models.shapes_xl_parts import learn_merges

MAX_TOKENS = 32
"""Z-Image pads captions to a multiple of 32; every caption of the world fits into the first one."""

_MOST_TOKENS = 64
"""Longer prompts are cut: the transformer has seen none of more than 32 tokens."""

WIDTH, HEADS, LAYERS = 128, 4, 6
TEXT_WIDTH = 96
_HEAD_AXES = (8, 12, 12)
"""Share of a head's width that turns with a token's place in the text, its row and its column."""

_END, _PAD = "<|im_end|>", "<|endoftext|>"
_SPECIAL_TOKENS = (_PAD, "<|im_start|>", _END, "<think>", "</think>")
_TOKEN_EMBEDDING_STD = 0.6
_OPEN_GATE = 0.3
"""Gates of fresh blocks are tanh(0.3): closed ones would learn nothing for hundreds of steps."""

# A chat of one message, in the marks that Qwen3 was trained with.
_CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
    "{% if enable_thinking is defined and not enable_thinking %}"
    "{{ '<think>\n\n</think>\n\n' }}"
    "{% endif %}{% endif %}"
)


def make_tokenizer() -> Qwen2Tokenizer:
    """Return a byte-level tokenizer in which every word of the world is one token.

    It is one alone, after a space, and with a capital letter.
    """
    words = [word for word in vocabulary() if word.isalpha()]
    after_space = [f"\u0120{word}" for word in words]
    capital = [word.capitalize() for word in words]
    merges = learn_merges(sorted({*words, *after_space, *capital, "user", "assistant"}), end="")
    letters = sorted(bytes_to_unicode().values())
    tokens = dict.fromkeys([*letters, *("".join(pair) for pair in merges)])
    tokenizer = Qwen2Tokenizer(
        vocab={token: index for index, token in enumerate(tokens)},
        merges=merges,
        eos_token=_END,
        pad_token=_PAD,
        unk_token=None,
        additional_special_tokens=list(_SPECIAL_TOKENS),
        model_max_length=_MOST_TOKENS,
    )
    tokenizer.chat_template = _CHAT_TEMPLATE
    return tokenizer


def make_text_encoder(tokenizer: Qwen2Tokenizer) -> Qwen3Model:
    """Return a fresh encoder; its last layer is never read, as in Z-Image."""
    encoder = Qwen3Model(
        Qwen3Config(
            vocab_size=len(tokenizer),
            hidden_size=TEXT_WIDTH,
            intermediate_size=256,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=24,
            max_position_embeddings=512,
            tie_word_embeddings=True,
            use_cache=False,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=None,
        )
    )
    torch.nn.init.normal_(encoder.get_input_embeddings().weight, std=_TOKEN_EMBEDDING_STD)
    return encoder


@torch.no_grad()
def make_transformer() -> ZImageTransformer2DModel:
    """Return a fresh denoiser that predicts zero everywhere."""
    transformer = ZImageTransformer2DModel(
        in_channels=4,
        dim=WIDTH,
        n_layers=LAYERS,
        n_refiner_layers=1,
        n_heads=HEADS,
        n_kv_heads=HEADS,
        cap_feat_dim=TEXT_WIDTH,
        axes_dims=list(_HEAD_AXES),
        axes_lens=[128, 32, 32],
    )
    for name, weight in transformer.named_parameters():
        if name.endswith("pad_token") or ("adaLN_modulation" in name and name.endswith("weight")):
            torch.nn.init.normal_(weight, std=0.02)
        elif "adaLN_modulation" in name:
            weight.zero_()
            if "all_final_layer" not in name:
                _, attention_gate, _, feed_forward_gate = weight.chunk(4)
                attention_gate.fill_(_OPEN_GATE)
                feed_forward_gate.fill_(_OPEN_GATE)
    for head in transformer.all_final_layer.values():
        torch.nn.init.zeros_(head.linear.weight)
        torch.nn.init.zeros_(head.linear.bias)
    return transformer


def make_scheduler() -> FlowMatchEulerDiscreteScheduler:
    """Return Z-Image's sampler; so small an image needs no shift of the noise levels."""
    return FlowMatchEulerDiscreteScheduler(shift=1.0)


def make_pipeline(
    vae: AutoencoderKL,
    tokenizer: Qwen2Tokenizer,
    text_encoder: Qwen3Model,
    transformer: ZImageTransformer2DModel,
) -> ZImagePipeline:
    """Join the parts; the VAE is told a shift of 0, which the pipeline reads."""
    vae.register_to_config(shift_factor=0.0)
    return ZImagePipeline(
        scheduler=make_scheduler(),
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        transformer=transformer,
    )


def chat(tokenizer: Qwen2Tokenizer, prompts: list[str]) -> list[str]:
    """Return what the pipeline gives its tokenizer for these prompts."""
    return [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}],
            tokenize=False,
            add_generation_prompt=True,
            enable_thinking=True,
        )
        for prompt in prompts
    ]
