"""What other tools make of an adapter file, by their conventions for keys and their formulas.

Each reader takes a file's tensors and a UNet's topology, and gives the change of each layer that
the tool would apply at a strength, by diffusers' name, beside the keys that it leaves unused. They
were written from what these tools document and do, and share nothing with the package.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from ldm_topology import Topology, layers_of
from lycoris.modules import LoConModule, LycorisBaseModule, get_module, make_module
from torch import Tensor
from torch.nn import functional

Tensors = Mapping[str, Tensor]
COMFYUI_PARTS = (
    *("alpha", "lora_up.weight", "lora_down.weight", "lora_B.weight", "lora_A.weight"),
    *(f"hada_w{number}_{side}" for number in "12" for side in "ab"),
    *(f"lokr_w{number}{side}" for number in "12" for side in ("", "_a", "_b")),
)


@dataclass
class Reading:
    """What a tool applies of a file, and the keys that it does not use."""

    changes: dict[str, Tensor] = field(default_factory=dict)
    unused: set[str] = field(default_factory=set)


def _layers(file: Tensors) -> dict[str, dict[str, Tensor]]:
    """Group kohya's keys: the layer's name goes up to the first dot."""
    layers: dict[str, dict[str, Tensor]] = {}
    for key, tensor in file.items():
        name, _, part = key.partition(".")
        layers.setdefault(name, {})[part] = tensor
    return layers


def _low_rank(up: Tensor, down: Tensor, shape: torch.Size) -> Tensor:
    """Compose two convolutions, or multiply two matrices."""
    if up.ndim == 4:
        mixed = functional.conv2d(down.permute(1, 0, 2, 3), up)
        return mixed.permute(1, 0, 2, 3).reshape(shape)
    return (up @ down).reshape(shape)


def sd_scripts(file: Tensors, topology: Topology, strength: float) -> Reading:
    """kohya's sd-scripts, `networks.lora`: LoRA alone.

    SD-XL's modules have the names of `generative-models`, those of SD 1.x and 2.x diffusers' own.
    """
    names = {
        "lora_unet_" + (ldm if topology.family == "sdxl" else name).replace(".", "_"): name
        for ldm, name in topology.diffusers_of.items()
    }
    modules, read = layers_of(topology.unet), Reading()
    for name, parts in _layers(file).items():
        wanted = {"lora_up.weight", "lora_down.weight"}
        if name not in names or not wanted <= set(parts):
            read.unused |= {f"{name}.{part}" for part in parts}
            continue
        read.unused |= {f"{name}.{part}" for part in set(parts) - wanted - {"alpha"}}
        up, down = parts["lora_up.weight"], parts["lora_down.weight"]
        rank = down.shape[0]
        alpha = float(parts.get("alpha", rank))
        change = _low_rank(up, down, modules[names[name]].weight.shape)
        read.changes[names[name]] = strength * (alpha / rank) * change
    return read


def comfyui(file: Tensors, topology: Topology, strength: float) -> Reading:
    """ComfyUI: layers are known by several names each, and parts by several suffixes."""
    names: dict[str, str] = {}
    for ldm, name in topology.diffusers_of.items():
        # An attention's projections have the name of diffusers' former processors after "unet.".
        old = name.replace(".to_", ".processor.to_").removesuffix(".0" if "to_out" in name else " ")
        spellings = (
            *("lora_unet_" + ldm.replace(".", "_"), "lora_unet_" + name.replace(".", "_")),
            *("lycoris_" + name.replace(".", "_"), f"diffusion_model.{ldm}", old, f"unet.{old}"),
        )
        names |= dict.fromkeys(spellings, name)
    modules, read = layers_of(topology.unet), Reading(unused=set(file))
    for spelling, name in names.items():
        keys = {part: f"{spelling}.{part}" for part in COMFYUI_PARTS}
        parts = {part: file[key] for part, key in keys.items() if key in file}
        if name not in modules or not parts:
            continue
        alpha = float(parts["alpha"]) if "alpha" in parts else None
        change = _comfyui_change(parts, alpha, modules[name])
        if change is not None:
            read.changes[name] = strength * change
            read.unused -= {f"{spelling}.{part}" for part in parts}
    return read


def _comfyui_change(parts: Tensors, alpha: float | None, module: torch.nn.Module) -> Tensor | None:
    shape = module.weight.shape
    for up, down in (("lora_up.weight", "lora_down.weight"), ("lora_B.weight", "lora_A.weight")):
        if up in parts:
            scale = 1.0 if alpha is None else alpha / parts[down].shape[0]
            matrix = parts[up].flatten(start_dim=1) @ parts[down].flatten(start_dim=1)
            return scale * matrix.reshape(shape)
    if "hada_w1_a" in parts:
        scale = 1.0 if alpha is None else alpha / parts["hada_w1_b"].shape[0]
        one = parts["hada_w1_a"] @ parts["hada_w1_b"]
        return scale * (one * (parts["hada_w2_a"] @ parts["hada_w2_b"])).reshape(shape)
    if any(part.startswith("lokr_") for part in parts):
        return _kronecker(parts, alpha, shape)
    return None


def _kronecker(parts: Tensors, alpha: float | None, shape: torch.Size) -> Tensor:
    """w1 ⊗ w2, over the inner size of a product; the last product's where both are."""
    dim = None
    factors = []
    for name in ("lokr_w1", "lokr_w2"):
        if name in parts:
            factors.append(parts[name])
        else:
            dim = parts[f"{name}_b"].shape[0]
            factors.append(parts[f"{name}_a"] @ parts[f"{name}_b"])
    one, two = factors
    if two.ndim == 4:
        one = one[:, :, None, None]
    scale = alpha / dim if alpha is not None and dim is not None else 1.0
    return scale * torch.kron(one, two).reshape(shape)


def a1111(file: Tensors, topology: Topology, strength: float) -> Reading:
    """A1111 1.10: keys split at the first dot, diffusers' names turned into the model's own."""
    modules, read = layers_of(topology.unet), Reading()
    own = {
        "diffusion_model_" + ldm.replace(".", "_"): n for ldm, n in topology.diffusers_of.items()
    }
    for name, parts in _layers(file).items():
        key = _a1111_name(name)
        if key not in own:
            key = name.replace("lora_unet", "diffusion_model")  # SD-XL's are right already
        change = None
        if key in own:
            change = _a1111_change(parts, modules[own[key]].weight.shape)
        if change is None:
            read.unused |= {f"{name}.{part}" for part in parts}
            continue
        read.changes[own[key]] = change * strength
    return read


_RESNET = {
    "conv1": "in_layers_2",
    "conv2": "out_layers_3",
    "time_emb_proj": "emb_layers_1",
    "conv_shortcut": "skip_connection",
}


def _a1111_name(name: str) -> str:
    """Return SD 1.x's own name for a name of diffusers'; an SD 1.x block has three columns."""
    rules: list[tuple[str, Callable[[re.Match[str]], str]]] = [
        (r"conv_in", lambda m: "input_blocks_0_0"),
        (r"conv_out", lambda m: "out_2"),
        (r"time_embedding_linear_(\d)", lambda m: f"time_embed_{2 * int(m[1]) - 2}"),
        (
            r"(down|mid|up)_blocks?_?(\d*)_(attentions|resnets)_(\d+)_(.+)",
            _a1111_block,
        ),
        (
            r"down_blocks_(\d+)_downsamplers_0_conv",
            lambda m: f"input_blocks_{3 * int(m[1]) + 3}_0_op",
        ),
        (
            r"up_blocks_(\d+)_upsamplers_0_conv",
            lambda m: f"output_blocks_{3 * int(m[1]) + 2}_{2 if int(m[1]) else 1}_conv",
        ),
    ]
    for pattern, rule in rules:
        if match := re.fullmatch("lora_unet_" + pattern, name):
            return f"diffusion_model_{rule(match)}"
    return name


def _a1111_block(match: re.Match[str]) -> str:
    side, block, kind, layer, inner = match.groups()
    inner = _RESNET.get(inner, inner)
    if side == "mid":
        return f"middle_block_{1 if kind == 'attentions' else 2 * int(layer)}_{inner}"
    column = 3 * int(block) + int(layer) + (side == "down")
    blocks = "input_blocks" if side == "down" else "output_blocks"
    return f"{blocks}_{column}_{int(kind == 'attentions')}_{inner}"


def _a1111_change(parts: Tensors, shape: torch.Size) -> Tensor | None:
    alpha = float(parts["alpha"]) if "alpha" in parts else None

    def scaled(change: Tensor, dim: int | None) -> Tensor:
        scale = alpha / dim if alpha is not None and dim is not None else 1.0
        return scale * change.reshape(shape)

    if {"lora_up.weight", "lora_down.weight"} <= set(parts):
        up, down = parts["lora_up.weight"], parts["lora_down.weight"]
        return scaled(up.flatten(1) @ down.flatten(1), down.shape[0])
    if "hada_w1_a" in parts:
        one = parts["hada_w1_a"] @ parts["hada_w1_b"]
        return scaled(one * (parts["hada_w2_a"] @ parts["hada_w2_b"]), parts["hada_w1_b"].shape[0])
    if any(part.startswith("lokr_") for part in parts):
        return _kronecker(parts, alpha, shape)
    return None


def lycoris(file: Tensors, topology: Topology, strength: float) -> Reading:
    """LyCORIS itself, over each layer: the change that its modules' forward passes apply.

    Its merging of LoHa and LoKr (`get_merged_weight`) has alpha / rank squared as of 4.1.3.
    """
    names = {
        "lora_unet_" + (ldm if topology.family == "sdxl" else name).replace(".", "_"): name
        for ldm, name in topology.diffusers_of.items()
    }
    modules, read = layers_of(topology.unet), Reading()
    for name, parts in _layers(file).items():
        if name not in names:
            read.unused |= {f"{name}.{part}" for part in parts}
            continue
        original = modules[names[name]]
        kind, weights = get_module(file, name)
        module = make_module(kind, weights, name, original)
        read.changes[names[name]] = strength * lycoris_change(module, original.weight.shape)
    return read


@torch.no_grad()
def lycoris_change(module: LycorisBaseModule, shape: torch.Size) -> Tensor:
    """Return what a module of LyCORIS adds to its layer's weight in a forward pass."""
    module.eval()
    if isinstance(module, LoConModule):
        return (module.make_weight() * module.scale).reshape(shape)
    return (module.get_weight(shape) * module.scalar).reshape(shape)


TEXT_LAYERS = (
    *(f"self_attn.{name}_proj" for name in ("q", "k", "v", "out")),
    *("mlp.fc1", "mlp.fc2"),
)
_KOHYA_PAIR = ("lora_up", "lora_down")
_TEXT_PAIRS = {
    "sd-scripts": (_KOHYA_PAIR,),
    "A1111": (_KOHYA_PAIR,),
    "ComfyUI": (
        _KOHYA_PAIR,
        ("lora_B", "lora_A"),
        ("lora_linear_layer.up", "lora_linear_layer.down"),
    ),
}
Place = tuple[str, str]
"""A text encoder's component in diffusers, and a module as `transformers` first called it."""


def text_encoders(tool: str, file: Tensors, *, is_xl: bool, num_layers: int) -> dict[Place, Tensor]:
    """Return the change that a tool applies to each layer of the text encoders, at strength 1."""
    known = {
        "sd-scripts": _sd_scripts_text,
        "ComfyUI": _comfyui_text,
        "A1111": _a1111_text,
    }[tool](num_layers, is_xl=is_xl)
    changes = {}
    for spelling, place in known.items():
        for up, down in _TEXT_PAIRS[tool]:
            if f"{spelling}.{up}.weight" in file:
                columns, rows = file[f"{spelling}.{up}.weight"], file[f"{spelling}.{down}.weight"]
                alpha = float(file.get(f"{spelling}.alpha", rows.shape[0]))
                changes[place] = alpha / rows.shape[0] * (columns @ rows)
    return changes


def _text_places(num_layers: int) -> list[tuple[int, str]]:
    return [(number, inner) for number in range(num_layers) for inner in TEXT_LAYERS]


def _sd_scripts_text(num_layers: int, *, is_xl: bool) -> dict[str, Place]:
    """Module names with underscores after `lora_te`, numbered where there are two encoders."""
    encoders = {"text_encoder": "lora_te1", "text_encoder_2": "lora_te2"}
    known = {}
    for component, prefix in encoders.items() if is_xl else [("text_encoder", "lora_te")]:
        for number, inner in _text_places(num_layers):
            module = f"text_model.encoder.layers.{number}.{inner}"
            known[f"{prefix}_{module.replace('.', '_')}"] = (component, module)
    return known


def _comfyui_text(num_layers: int, *, is_xl: bool) -> dict[str, Place]:
    """CLIP-L by `lora_te`, `lora_te1` and `text_encoder`; CLIP-G by what ends in 2."""
    known: dict[str, Place] = {}
    for number, inner in _text_places(num_layers):
        module = f"text_model.encoder.layers.{number}.{inner}"
        plain = module.replace(".", "_")
        first = (f"lora_te_{plain}", f"lora_te1_{plain}", f"text_encoder.{module}")
        known |= dict.fromkeys(first, ("text_encoder", module))
        if is_xl:
            second = (f"lora_te2_{plain}", f"text_encoder_2.{module}")
            known |= dict.fromkeys(second, ("text_encoder_2", module))
    return known


def _a1111_text(num_layers: int, *, is_xl: bool) -> dict[str, Place]:
    """Modules of its own model: transformers' for CLIP-L, OpenCLIP's for CLIP-G.

    OpenCLIP has query, key and value in one weight. A key whose module is not there is tried
    without the end `_q_proj` and the like, and applied to its third.
    """
    inside = {"mlp.fc1": "mlp_c_fc", "mlp.fc2": "mlp_c_proj", "self_attn.out_proj": "attn_out_proj"}
    known: dict[str, Place] = {}
    for number, inner in _text_places(num_layers):
        module = f"text_model.encoder.layers.{number}.{inner}"
        plain = module.replace(".", "_")
        known[f"lora_te1_{plain}" if is_xl else f"lora_te_{plain}"] = ("text_encoder", module)
        is_third = inner[-6:] in ("q_proj", "k_proj", "v_proj")
        if is_xl and (is_third or inner in inside):
            known[f"lora_te2_{plain}"] = ("text_encoder_2", module)
    return known
