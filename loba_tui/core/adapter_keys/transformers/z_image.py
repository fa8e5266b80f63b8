"""Names of Z-Image's layers (https://arxiv.org/abs/2511.22699).

diffusers has layers for each size of patches; "2-1" is that of the released models.
"""

from __future__ import annotations

from loba_tui.core.adapter_keys.transformers.layout import Names, TransformerLayout, thirds

_BLOCK: Names = {
    **thirds("attention.qkv", "attention.to_q", "attention.to_k", "attention.to_v"),
    "attention.to_out.0": "attention.out",
    "attention.norm_q": "attention.q_norm",
    "attention.norm_k": "attention.k_norm",
    **{f"feed_forward.w{number}": f"feed_forward.w{number}" for number in "123"},
    **{name: name for name in ("attention_norm1", "attention_norm2", "ffn_norm1", "ffn_norm2")},
    "adaLN_modulation.0": "adaLN_modulation.0",
}
Z_IMAGE = TransformerLayout(
    {name: (name, _BLOCK) for name in ("layers", "noise_refiner", "context_refiner")},
    {
        "all_x_embedder.2-1": "x_embedder",
        "all_final_layer.2-1.linear": "final_layer.linear",
        "all_final_layer.2-1.adaLN_modulation.1": "final_layer.adaLN_modulation.1",
        **{name: name for name in ("cap_embedder.0", "cap_embedder.1")},
        **{name: name for name in ("t_embedder.mlp.0", "t_embedder.mlp.2")},
    },
)
