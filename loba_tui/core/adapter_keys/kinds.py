"""The kind of an adapter's layer by its parts, and whether their shapes can belong together."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

Shape = tuple[int, ...]

NUMBERS = frozenset({"alpha", "scalar", "on_input"})
"""Parts that are one number each."""
LENGTHS = frozenset({"dora_scale", "magnitude"})
"""Parts that make a layer DoRA's."""
BIASES = frozenset({"diff_b", "b_norm", "up_bias"})
"""Parts that change a bias."""

_LOHA = frozenset(f"hada_w{n}_{side}" for n in "12" for side in "ab")
# A kind's parts that there have to be, and those that there may be.
_KINDS: Mapping[str, tuple[frozenset[str], frozenset[str]]] = MappingProxyType(
    {
        "LoRA": (frozenset({"down", "up"}), frozenset({"mid", "up_bias"})),
        "LoHa": (_LOHA, frozenset({"hada_t1", "hada_t2"})),
        "full difference": (frozenset({"diff"}), frozenset()),
        "norm difference": (frozenset({"w_norm"}), frozenset()),
        "OFT": (frozenset({"oft_blocks"}), frozenset({"rescale"})),
        "OFT of inputs": (frozenset({"oft_R"}), frozenset()),
        "BOFT of PEFT": (frozenset({"boft_R"}), frozenset({"boft_s"})),
        "IA3": (frozenset({"weight", "on_input"}), frozenset()),
        "IA3 of PEFT": (frozenset({"ia3_l"}), frozenset()),
        "GLoRA": (frozenset({"a1", "a2", "b1", "b2"}), frozenset({"bm"})),
    }
)
_LOKR = frozenset(
    {"lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2"}
)
_CAN_BE_DORA = ("LoRA", "LoHa", "LoKr")


class UnusableLayer(Exception):
    """The parts of a layer that make no whole one; the text says what is missing."""


class ContradictoryLayer(Exception):
    """The parts of a layer that cannot belong together; the text says which."""


@dataclass(frozen=True)
class LayerKind:
    """Kind of a layer.

    Attributes:
        name: "LoRA", "LoHa", "LoKr", "full difference", "norm difference", "bias difference",
            "OFT", "BOFT", "IA3", "GLoRA", "OFT of inputs", "BOFT of PEFT" or "IA3 of PEFT".
        rank: None where it has none.
        weight_shape: Shape of the weight that it is for, as far as the parts say it: a convolution
            that is written as a matrix has two dimensions. None where they do not.
    """

    name: str
    rank: int | None = None
    weight_shape: Shape | None = None


def kind_of_parts(shapes: Mapping[str, Shape]) -> LayerKind:
    """Return the kind of a layer whose parts have these shapes.

    Raises:
        UnusableLayer: It is not whole.
        ContradictoryLayer: It is of two kinds, or its shapes do not fit each other.
    """
    for part in shapes.keys() & NUMBERS:
        if math.prod(shapes[part]) != 1:
            raise ContradictoryLayer(f"{part} is not one number but {list(shapes[part])}")
    body = shapes.keys() - NUMBERS - LENGTHS - BIASES
    body |= shapes.keys() & {"on_input"}
    if any(not math.prod(shapes[part]) for part in body):
        raise ContradictoryLayer("a part of it has no elements")
    kind = _whole(frozenset(body), shapes)
    found = _measured(kind, shapes)
    _check_lengths(found, shapes)
    return found


def _whole(body: frozenset[str], shapes: Mapping[str, Shape]) -> str:
    if not body:
        if shapes.keys() & {"diff_b", "b_norm"}:
            return "bias difference"
        raise UnusableLayer(f"{', '.join(sorted(shapes))} without weights")
    if body <= _LOKR:
        for number in "12":
            pair = {f"lokr_w{number}_a", f"lokr_w{number}_b"}
            has_one, has_pair = f"lokr_w{number}" in body, pair <= body
            if has_one and body & pair:
                raise ContradictoryLayer(f"lokr_w{number} is there twice")
            if not (has_one or has_pair):
                raise UnusableLayer(f"its lokr_w{number} is missing")
        if "lokr_t2" in body and "lokr_w2" in body:
            raise ContradictoryLayer("lokr_w2 is there twice")
        return "LoKr"
    candidates = [name for name, (needed, _) in _KINDS.items() if needed & body]
    if len(candidates) > 1 or (body & _LOKR):
        raise ContradictoryLayer(f"parts of two kinds: {', '.join(sorted(body))}")
    if not candidates:
        raise UnusableLayer(f"only {', '.join(sorted(body))}")
    needed, possible = _KINDS[candidates[0]]
    if missing := needed - body:
        if body == {"weight"}:
            raise UnusableLayer("a whole weight, as in a model, not a change of one")
        raise UnusableLayer(f"its {', '.join(sorted(missing))} is missing")
    if extra := body - needed - possible:
        raise ContradictoryLayer(f"{', '.join(sorted(extra))} does not belong to a {candidates[0]}")
    return candidates[0]


def _measured(kind: str, shapes: Mapping[str, Shape]) -> LayerKind:
    if kind == "LoRA":
        return _lora(shapes)
    if kind == "LoHa":
        return _loha(shapes)
    if kind == "LoKr":
        return _lokr(shapes)
    if kind == "GLoRA":
        return _glora(shapes)
    if kind == "full difference":
        _require(len(shapes["diff"]) > 0, "diff is one number")
        return LayerKind(kind, None, shapes["diff"])
    if kind == "norm difference":
        _require(len(shapes["w_norm"]) == 1, "w_norm is not one number a channel")
        return LayerKind(kind, None, shapes["w_norm"])
    if kind == "OFT":
        return _rotations(shapes["oft_blocks"])
    if kind == "OFT of inputs":
        _require(len(shapes["oft_R"]) in (2, 3), "oft_R is no list of blocks")
    if kind == "BOFT of PEFT":
        blocks = shapes["boft_R"]
        _require(len(blocks) == 4 and blocks[2] == blocks[3], "boft_R is no list of square blocks")
    return LayerKind(kind)


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise ContradictoryLayer(otherwise)


def _lora(shapes: Mapping[str, Shape]) -> LayerKind:
    down, up, mid = shapes["down"], shapes["up"], shapes.get("mid")
    _require(len(down) in (2, 4) and len(up) in (2, 4), "lora_down and lora_up are no matrices")
    rank = down[0]
    _require(up[1] == rank, f"lora_down has rank {rank} and lora_up {up[1]}")
    _require(set(up[2:]) <= {1}, f"lora_up is {list(up)}, which is more than a matrix")
    kernel = down[2:]
    if mid is not None:
        _require(len(mid) == 4 and mid[:2] == (rank, rank), "lora_mid does not fit lora_down")
        _require(set(kernel) <= {1}, "lora_mid and lora_down both have a kernel")
        kernel = mid[2:]
    return LayerKind("LoRA", rank, (up[0], down[1], *kernel))


def _loha(shapes: Mapping[str, Shape]) -> LayerKind:
    sizes: set[Shape] = set()
    for number in "12":
        left, right = shapes[f"hada_w{number}_a"], shapes[f"hada_w{number}_b"]
        _require(len(left) == len(right) == 2, "a factor of it is no matrix")
        core = shapes.get(f"hada_t{number}")
        rank = right[0]
        if core is None:
            _require(left[1] == rank, f"hada_w{number}_a and hada_w{number}_b do not fit")
            sizes.add((left[0], right[1]))
        else:
            _require(
                len(core) == 4 and core[0] == left[0] and core[1] == rank,
                f"hada_t{number} does not fit",
            )
            sizes.add((left[1], right[1], *core[2:]))
    _require(len(sizes) == 1, "its two products differ in size")
    return LayerKind("LoHa", shapes["hada_w1_b"][0], sizes.pop())


def _lokr(shapes: Mapping[str, Shape]) -> LayerKind:
    rank = None
    sides: list[Shape] = []
    for number in "12":
        whole = shapes.get(f"lokr_w{number}")
        if whole is not None:
            _require(len(whole) in (2, 4), f"lokr_w{number} is no matrix")
            sides.append(whole)
            continue
        left, right = shapes[f"lokr_w{number}_a"], shapes[f"lokr_w{number}_b"]
        _require(len(left) == len(right) == 2, "a factor of it is no matrix")
        rank = right[0]
        core = shapes.get("lokr_t2") if number == "2" else None
        if core is None:
            _require(left[1] == rank, f"lokr_w{number}_a and lokr_w{number}_b do not fit")
            sides.append((left[0], right[1]))
        else:
            _require(
                len(core) == 4 and core[0] == left[0] and core[1] == rank, "lokr_t2 does not fit"
            )
            sides.append((left[1], right[1], *core[2:]))
    one, two = sides
    _require(len(one) == 2, "lokr_w1 is no matrix")
    return LayerKind("LoKr", rank, (one[0] * two[0], one[1] * two[1], *two[2:]))


def _glora(shapes: Mapping[str, Shape]) -> LayerKind:
    a1, a2, b1, b2 = (shapes[name] for name in ("a1", "a2", "b1", "b2"))
    _require("bm" not in shapes, "a GLoRA with a Tucker core, which has no meaning in LyCORIS")
    _require(all(len(each) in (2, 4) for each in (a1, a2, b1, b2)), "a factor of it is no matrix")
    fits = a1[1] == a2[0] and b1[1] == b2[0] and a1[0] == a2[1] == b2[1]
    _require(fits and set((*a1[2:], *a2[2:], *b1[2:])) <= {1}, "its factors do not fit")
    return LayerKind("GLoRA", b2[0], (b1[0], b2[1], *b2[2:]))


def _rotations(blocks: Shape) -> LayerKind:
    _require(len(blocks) in (3, 4) and blocks[-1] == blocks[-2], "oft_blocks are no squares")
    if len(blocks) == 4:
        _require(blocks[-1] % 2 == 0 and blocks[0] <= 32, "oft_blocks are no butterfly")
    return LayerKind("OFT" if len(blocks) == 3 else "BOFT")


def _check_lengths(kind: LayerKind, shapes: Mapping[str, Shape]) -> None:
    lengths = shapes.keys() & LENGTHS
    if not lengths:
        return
    if kind.name not in _CAN_BE_DORA or kind.weight_shape is None:
        raise ContradictoryLayer(f"{', '.join(sorted(lengths))} with a {kind.name}")
    _require(len(lengths) == 1, "dora_scale and lora_magnitude_vector")
    shape, outputs, inputs = shapes[min(lengths)], *kind.weight_shape[:2]
    if "magnitude" in shapes:
        fits = math.prod(shape) == outputs
    else:
        fits = (shape[:1] == (outputs,) or shape[:2] == (1, outputs)) and math.prod(
            shape
        ) == outputs
        fits = fits or norm_is_over_inputs(shape, outputs, inputs)
    _require(fits, f"{min(lengths)} of {list(shape)} does not fit a weight of {outputs} outputs")


def norm_is_over_inputs(shape: Shape, outputs: int, inputs: int) -> bool:
    """Say whether a `dora_scale` has a length for each input, as former LyCORIS wrote it."""
    is_row = len(shape) > 1 and shape[0] == 1 and math.prod(shape) == shape[1] == inputs
    # A square convolution in PEFT's layout is (1, outputs, 1, 1): LyCORIS' own is meant.
    return is_row and not (len(shape) == 1 or (shape[0] == outputs and outputs != 1))
