"""The last part of an adapter's key: which of a layer's tensors it is, whoever wrote it.

| part | tensor |
|---|---|
| `down`, `mid`, `up` | factors of a LoRA; `mid` is the core of a Tucker decomposition |
| `alpha`, `scalar` | numbers that the change is multiplied by |
| `dora_scale`, `magnitude` | lengths of DoRA, by LyCORIS and by PEFT |
| `diff`, `w_norm` | the change of a weight itself |
| `diff_b`, `b_norm`, `up_bias` | the change of a bias |
| `hada_…`, `lokr_…` | factors of LoHa and LoKr, by LyCORIS' own names |
| `oft_blocks`, `rescale` | rotations of outputs by LyCORIS; BOFT's have 4 dimensions |
| `oft_R`, `boft_R`, `boft_s` | rotations by PEFT |
| `weight`, `on_input`, `ia3_l` | factors of IA3, by LyCORIS and by PEFT |
| `a1`, `a2`, `b1`, `b2`, `bm` | factors of GLoRA |
"""

from __future__ import annotations

import re

MOST_CHARACTERS = 400
"""Longer keys are nobody's."""

_NAMED = r"(?:\.[\w-]{1,64})?"  # PEFT's adapter name, such as default or default_0
_SPELLINGS = (
    ("down", rf"lora_down\.weight|lora_A{_NAMED}\.weight|lora(?:_linear_layer)?\.down\.weight"),
    ("up", rf"lora_up\.weight|lora_B{_NAMED}\.weight|lora(?:_linear_layer)?\.up\.weight"),
    ("mid", r"lora_mid\.weight|lora\.mid\.weight"),
    ("up_bias", rf"lora_up\.bias|lora_B{_NAMED}\.bias"),
    ("magnitude", rf"lora_magnitude_vector{_NAMED}(?:\.weight)?"),
    ("oft_R", rf"oft_R{_NAMED}(?:\.weight)?"),
    ("boft_R", rf"boft_R{_NAMED}"),
    ("boft_s", rf"boft_s{_NAMED}"),
    ("ia3_l", rf"ia3_l{_NAMED}"),
    *((name, rf"{name}\.weight") for name in ("a1", "a2", "b1", "b2", "bm")),
    *((name, rf"{name}{_NAMED}") for name in ("hada_t1", "hada_t2")),
    *((f"hada_w{n}_{side}", rf"hada_w{n}_{side}{_NAMED}") for n in "12" for side in "ab"),
    *((f"lokr_w{n}_{side}", rf"lokr_w{n}_{side}{_NAMED}") for n in "12" for side in "ab"),
    *((name, rf"{name}{_NAMED}") for name in ("lokr_w1", "lokr_w2", "lokr_t2")),
    *((n, n) for n in ("alpha", "scalar", "dora_scale", "diff", "diff_b", "w_norm", "b_norm")),
    *((name, name) for name in ("oft_blocks", "rescale", "on_input", "weight")),
)
_KEY = re.compile(
    r"(?P<name>.+?)\.(?:"
    + "|".join(f"(?P<p{place}>{spelling})" for place, (_, spelling) in enumerate(_SPELLINGS))
    + ")"
)
# diffusers' first form: attn1.processor.to_q_lora.down.weight, to_out for to_out.0.
_PROCESSOR = re.compile(r"\.processor\.(to_q|to_k|to_v|to_out)_lora\.(down|up|mid)\.weight$")


def split_part(key: str) -> tuple[str, str] | None:
    """Return the name of a layer and the part that a key is; None where it is no adapter's."""
    if len(key) > MOST_CHARACTERS:
        return None
    if ".processor." in key:
        key = _PROCESSOR.sub(_without_processor, key)
    match = _KEY.fullmatch(key)
    if match is None or match.lastgroup is None:
        return None
    return match["name"], _SPELLINGS[int(match.lastgroup[1:])][0]


def _without_processor(match: re.Match[str]) -> str:
    projection = "to_out.0" if match[1] == "to_out" else match[1]
    return f".{projection}.lora_{match[2]}.weight"
