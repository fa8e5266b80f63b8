"""Names of Qwen-Image's layers, which are diffusers' own everywhere."""

from __future__ import annotations

from loba_tui.core.adapter_keys.transformers.layout import TransformerLayout

_BLOCK = (
    *(f"attn.to_{letter}" for letter in "qkv"),
    *(f"attn.add_{letter}_proj" for letter in "qkv"),
    *("attn.to_out.0", "attn.to_add_out", "img_mod.1", "txt_mod.1"),
    *(f"{side}_mlp.net.{layer}" for side in ("img", "txt") for layer in ("0.proj", "2")),
)
_OUTER = (
    *("img_in", "txt_in", "norm_out.linear", "proj_out"),
    *(f"time_text_embed.timestep_embedder.linear_{number}" for number in "12"),
)
QWEN_IMAGE = TransformerLayout(
    {"transformer_blocks": ("transformer_blocks", {name: name for name in _BLOCK})},
    {name: name for name in _OUTER},
)
