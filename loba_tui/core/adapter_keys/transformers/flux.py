"""Names of the layers of FLUX.1 and FLUX.2, which black-forest-labs' own code gives them.

A block of FLUX.2 takes its modulation from outside, and its feed-forward layers are gated: their
first matrix has twice the rows.
"""

from __future__ import annotations

from loba_tui.core.adapter_keys.transformers.layout import (
    Names,
    Original,
    TransformerLayout,
    part,
    thirds,
)

_ATTENTION: Names = {
    **thirds("img_attn.qkv", "attn.to_q", "attn.to_k", "attn.to_v"),
    **thirds("txt_attn.qkv", "attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
    "attn.to_out.0": "img_attn.proj",
    "attn.to_add_out": "txt_attn.proj",
}
_ENDS: Names = {
    "x_embedder": "img_in",
    "context_embedder": "txt_in",
    "norm_out.linear": Original("final_layer.adaLN_modulation.1", swaps_halves=True),
    "proj_out": "final_layer.linear",
}


def _embedder(own: str, theirs: str) -> Names:
    return {f"{own}.linear_1": f"{theirs}.in_layer", f"{own}.linear_2": f"{theirs}.out_layer"}


FLUX_1 = TransformerLayout(
    {
        "transformer_blocks": (
            "double_blocks",
            {
                **_ATTENTION,
                "norm1.linear": "img_mod.lin",
                "norm1_context.linear": "txt_mod.lin",
                "ff.net.0.proj": "img_mlp.0",
                "ff.net.2": "img_mlp.2",
                "ff_context.net.0.proj": "txt_mlp.0",
                "ff_context.net.2": "txt_mlp.2",
            },
        ),
        "single_transformer_blocks": (
            "single_blocks",
            {
                "attn.to_q": part("linear1", 0, 1, 7),
                "attn.to_k": part("linear1", 1, 2, 7),
                "attn.to_v": part("linear1", 2, 3, 7),
                "proj_mlp": part("linear1", 3, 7, 7),
                "proj_out": "linear2",
                "norm.linear": "modulation.lin",
            },
        ),
    },
    {
        **_ENDS,
        **_embedder("time_text_embed.timestep_embedder", "time_in"),
        **_embedder("time_text_embed.text_embedder", "vector_in"),
        **_embedder("time_text_embed.guidance_embedder", "guidance_in"),
    },
)
FLUX_2 = TransformerLayout(
    {
        "transformer_blocks": (
            "double_blocks",
            {
                **_ATTENTION,
                "ff.linear_in": "img_mlp.0",
                "ff.linear_out": "img_mlp.2",
                "ff_context.linear_in": "txt_mlp.0",
                "ff_context.linear_out": "txt_mlp.2",
            },
        ),
        "single_transformer_blocks": (
            "single_blocks",
            {"attn.to_qkv_mlp_proj": "linear1", "attn.to_out": "linear2"},
        ),
    },
    {
        **_ENDS,
        **_embedder("time_guidance_embed.timestep_embedder", "time_in"),
        **_embedder("time_guidance_embed.guidance_embedder", "guidance_in"),
        "double_stream_modulation_img.linear": "double_stream_modulation_img.lin",
        "double_stream_modulation_txt.linear": "double_stream_modulation_txt.lin",
        "single_stream_modulation.linear": "single_stream_modulation.lin",
    },
)
