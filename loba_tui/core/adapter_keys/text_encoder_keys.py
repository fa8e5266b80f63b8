"""Names of CLIP's layers in a text encoder: from the spellings of adapter files to one.

The one is transformers' own of the years in which most adapters were written, such as
`text_model.encoder.layers.0.self_attn.q_proj`.
"""

from __future__ import annotations

import re

_LAYER = re.compile(
    r"(?:text_model_)?encoder_layers_(?P<layer>\d{1,3})_"
    r"(?:self_attn_(?P<projection>q|k|v|out)_proj|mlp_(?P<mlp>fc[12])|(?P<norm>layer_norm[12]))"
)
_OUTER = {
    "text_model_final_layer_norm": "text_model.final_layer_norm",
    "final_layer_norm": "text_model.final_layer_norm",
    "text_model_embeddings_token_embedding": "text_model.embeddings.token_embedding",
    "text_model_embeddings_position_embedding": "text_model.embeddings.position_embedding",
    "text_projection": "text_projection",
}


def text_encoder_module(name: str) -> str:
    """Return the module that a name with dots or underscores means.

    Raises:
        KeyError: It is none of CLIP's.
    """
    flat = name.replace(".", "_")
    if flat in _OUTER:
        return _OUTER[flat]
    match = _LAYER.fullmatch(flat)
    if match is None:
        raise KeyError(name)
    layer = f"text_model.encoder.layers.{match['layer']}"
    if match["projection"]:
        return f"{layer}.self_attn.{match['projection']}_proj"
    return f"{layer}.mlp.{match['mlp']}" if match["mlp"] else f"{layer}.{match['norm']}"
