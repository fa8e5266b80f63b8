"""Names of the layers of SD 3 and 3.5, which Stability's own code gives them."""

from __future__ import annotations

from loba_tui.core.adapter_keys.transformers.layout import Original, TransformerLayout, thirds

SD_3 = TransformerLayout(
    {
        "transformer_blocks": (
            "joint_blocks",
            {
                **thirds("x_block.attn.qkv", "attn.to_q", "attn.to_k", "attn.to_v"),
                **thirds("x_block.attn2.qkv", "attn2.to_q", "attn2.to_k", "attn2.to_v"),
                **thirds(
                    "context_block.attn.qkv",
                    *("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
                ),
                "attn.to_out.0": "x_block.attn.proj",
                "attn2.to_out.0": "x_block.attn2.proj",
                "attn.to_add_out": "context_block.attn.proj",
                "ff.net.0.proj": "x_block.mlp.fc1",
                "ff.net.2": "x_block.mlp.fc2",
                "ff_context.net.0.proj": "context_block.mlp.fc1",
                "ff_context.net.2": "context_block.mlp.fc2",
                "norm1.linear": "x_block.adaLN_modulation.1",
                # The last block's has two rows a channel, a scale and a shift.
                "norm1_context.linear": Original(
                    "context_block.adaLN_modulation.1", swaps_halves=True
                ),
            },
        )
    },
    {
        "pos_embed.proj": "x_embedder.proj",
        "context_embedder": "context_embedder",
        "time_text_embed.timestep_embedder.linear_1": "t_embedder.mlp.0",
        "time_text_embed.timestep_embedder.linear_2": "t_embedder.mlp.2",
        "time_text_embed.text_embedder.linear_1": "y_embedder.mlp.0",
        "time_text_embed.text_embedder.linear_2": "y_embedder.mlp.2",
        "norm_out.linear": Original("final_layer.adaLN_modulation.1", swaps_halves=True),
        "proj_out": "final_layer.linear",
    },
)
