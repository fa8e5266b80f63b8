"""Names of a transformer's layers: diffusers' and those of its first implementation, and back.

ComfyUI and one-file checkpoints have the names of the first implementation, in which several of
diffusers' matrices may be one: `img_attn.qkv` has query, key and value as thirds of its rows.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from types import MappingProxyType

_BLOCK = re.compile(r"(?P<list>[a-z_]+?)[._](?P<number>\d{1,3})[._](?P<inner>.+)")


@dataclass(frozen=True)
class Original:
    """Where the first implementation of a family has the weight of one of diffusers' modules.

    Attributes:
        name: Of the module there.
        share: First row and the one past the last, as shares of all; None where it has all.
        swaps_halves: Whether a weight with two rows a channel has them in the other order: the
            scale before the shift.
    """

    name: str
    share: tuple[Fraction, Fraction] | None = None
    swaps_halves: bool = False

    def spans(self, rows: int, columns: int) -> tuple[tuple[int, int], ...]:
        """Return which of the rows are the module's, in its order; () where it has all as they are.

        Args:
            rows: Of the weight that the first implementation has.
            columns: Of that weight.
        """
        if self.share is not None:
            first, end = (share * rows for share in self.share)
            return ((int(first), int(end)),)
        if self.swaps_halves and rows == 2 * columns:
            return ((rows // 2, rows), (0, rows // 2))
        return ()


def part(name: str, first: int, end: int, of: int) -> Original:
    """Return some rows of a weight, counted in parts of which there are `of`."""
    return Original(name, (Fraction(first, of), Fraction(end, of)))


def thirds(name: str, *modules: str) -> dict[str, Original]:
    """Return where three modules are that are one matrix: query, key and value."""
    return {module: part(name, n, n + 1, 3) for n, module in enumerate(modules)}


Names = Mapping[str, str | Original]


class TransformerLayout:
    """The layers of one family, by both namings.

    Args:
        blocks: Of each list of blocks in diffusers, the list in the first implementation and the
            layers of a block.
        outer: The layers outside blocks.
    """

    def __init__(self, blocks: Mapping[str, tuple[str, Names]], outer: Names) -> None:
        self._lists = MappingProxyType({own: theirs for own, (theirs, _) in blocks.items()})
        self._inner = MappingProxyType({own: _plain(names) for own, (_, names) in blocks.items()})
        self._outer = _plain(outer)
        self._flat_outer = _by_name(self._outer)
        self._flat_inner = MappingProxyType(
            {own: _by_name(names) for own, names in self._inner.items()}
        )

    def original(self, module: str) -> Original:
        """Return where the first implementation has a module of diffusers'.

        Raises:
            KeyError: The family has no such module.
        """
        if module in self._outer:
            return self._outer[module]
        match = _BLOCK.fullmatch(module)
        if match is None or match["list"] not in self._lists:
            raise KeyError(module)
        found = self._inner[match["list"]][match["inner"]]
        return replace(found, name=f"{self._lists[match['list']]}.{match['number']}.{found.name}")

    def modules(self, name: str) -> tuple[tuple[str, Original | None], ...]:
        """Return the modules that a name means: several of diffusers' where one matrix has them.

        With each is where it is in that matrix; None where the name is diffusers' own.

        Args:
            name: By either naming, with dots or underscores.

        Raises:
            KeyError: The family has no such layer.
        """
        flat = name.replace(".", "_")
        if flat in self._flat_outer:
            return self._flat_outer[flat]
        for own, theirs in self._lists.items():
            for prefix in dict.fromkeys((own, theirs)):
                match = re.fullmatch(rf"{prefix}_(\d{{1,3}})_(.+)", flat)
                inner = self._flat_inner[own].get(match[2]) if match else None
                if match is None or inner is None:
                    continue
                number = int(match[1])
                return tuple((f"{own}.{number}.{module}", place) for module, place in inner)
        raise KeyError(name)


def _plain(names: Names) -> Mapping[str, Original]:
    return MappingProxyType(
        {own: Original(each) if isinstance(each, str) else each for own, each in names.items()}
    )


def _by_name(
    names: Mapping[str, Original],
) -> Mapping[str, tuple[tuple[str, Original | None], ...]]:
    """Return modules by each of their names, underscores for dots; diffusers' comes first."""
    found: dict[str, tuple[tuple[str, Original | None], ...]] = {}
    for own, original in names.items():
        flat = original.name.replace(".", "_")
        found[flat] = (*found.get(flat, ()), (own, original))
    return MappingProxyType(found | {own.replace(".", "_"): ((own, None),) for own in names})
