"""How do recipes and safetensors headers stand random damage?

Mutates the shipped recipes and the header of an adapter-like file, byte by byte and piece by piece,
and gives each to the loader. All that may come of it is a result or an error of ours; anything else
is a traceback, and is shown with the seed that makes it again.

    python benchmarks/fuzz.py [--recipes 5000] [--headers 2000] [--seed 0]
"""

from __future__ import annotations

import json
import random
import resource
import struct
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

from bench_options import numbers_of

from loba_tui.core.associate.safe_files import check_safetensors
from loba_tui.core.errors import LobaError
from loba_tui.core.plugins import SHIPPED
from loba_tui.core.recipe.load import load_recipe
from loba_tui.core.recipe.shipped import folder

SLOW_SECONDS = 1.0
WORDS = """
: - [ ] { } &a *a !!int | > ' " # null 0 -1 .nan .inf 1e999 {x} <<: ? --- %YAML ~ 0x
version name method concepts vary base_model id adapter rank lr steps [[[[ {{{{ - - -
"""
RECIPE_PIECES = [
    *WORDS.split(),
    "\n", "\t", "  ", "\x00", "\x1b[31m", "\x85", "\ufeff", "9" * 400, "a" * 2000, "\U0010ffff",
    "hf_" + "a" * 30, "!!python/object/apply:os.system [true]", "&x [*x]", "../../etc/passwd",
]  # fmt: skip
HEADER_PIECES = [
    b'"', b"{", b"}", b"[", b"]", b",", b":", b"0", b"-1", b"9" * 30, b"1e400", b"NaN", b"null",
    b"true", b'"F32"', b'"F4"', b'"dtype"', b'"shape"', b'"data_offsets"', b'"__metadata__"',
    b"\xff", b"\x00", b"[" * 5000, b'"\\ud800"', b"18446744073709551616", b'{"a":1,"a":2}',
]  # fmt: skip


def mutate(content: bytes, pieces: list[bytes], dice: random.Random) -> bytes:
    """Return the content with one to six pieces dropped, doubled, swapped, flipped or put in."""
    data = bytearray(content)
    for _ in range(dice.randint(1, 6)):
        at = dice.randrange(len(data) + 1)
        end = min(len(data), at + dice.choice((1, 2, 4, 16, 200)))
        action = dice.choice(("drop", "double", "insert", "replace", "flip", "cut"))
        if action == "drop":
            del data[at:end]
        elif action == "double":
            data[at:at] = data[at:end]
        elif action == "insert":
            data[at:at] = dice.choice(pieces)
        elif action == "replace":
            data[at:end] = dice.choice(pieces)
        elif action == "flip" and at < len(data):
            data[at] ^= 1 << dice.randrange(8)
        elif dice.random() < 0.1:
            del data[at:]
    return bytes(data)


def damaged_recipe(dice: random.Random) -> bytes:
    """Return a shipped recipe with damage in it."""
    sources = sorted(folder().rglob("*.yaml"))
    pieces = [piece.encode("utf-8", "surrogatepass") for piece in RECIPE_PIECES]
    return mutate(dice.choice(sources).read_bytes(), pieces, dice)


def damaged_header(dice: random.Random) -> bytes:
    """Return a safetensors file of a few tensors with damage in its header or length."""
    entries, offset = {}, 0
    for number in range(dice.randint(1, 6)):
        shape = [dice.randint(0, 4) for _ in range(dice.randint(0, 3))]
        size = 4
        for side in shape:
            size *= side
        offsets = [offset, offset + size]
        entries[f"layer.{number}.lora_A"] = {
            "dtype": "F32",
            "shape": shape,
            "data_offsets": offsets,
        }
        offset += size
    header = json.dumps({"__metadata__": {"step": "1"}, **entries}).encode()
    damaged = mutate(header, HEADER_PIECES, dice)
    length = len(damaged)
    if dice.random() < 0.2:
        length = dice.choice((0, 1, length - 1, length + 1, 2**31, 2**63, 2**64 - 1))
    return struct.pack("<Q", max(0, length)) + damaged + bytes(offset)


def fuzz(
    name: str,
    count: int,
    seed: int,
    make: Callable[[random.Random], bytes],
    use: Callable[[Path], object],
) -> bool:
    """Give `count` damaged files to `use`, print the outcomes, return whether all is well."""
    outcomes: Counter[str] = Counter()
    slowest, slow = 0.0, 0
    with tempfile.TemporaryDirectory() as made:
        path = Path(made) / name
        for number in range(count):
            path.write_bytes(make(random.Random(f"{seed}/{name}/{number}")))
            begin = time.perf_counter()
            try:
                use(path)
                outcomes["accepted"] += 1
            except LobaError as error:
                outcomes[type(error).__name__] += 1
            except Exception:  # noqa: BLE001  that there is none is what is measured
                outcomes["TRACEBACK"] += 1
                print(f"--seed {seed}, {name} number {number}:", file=sys.stderr)
                traceback.print_exc()
            taken = time.perf_counter() - begin
            slowest, slow = max(slowest, taken), slow + (taken > SLOW_SECONDS)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{name:20} {count:6} mutations, {outcomes['TRACEBACK']} tracebacks, {slow} over 1 s")
    print(f"{'':20} slowest {slowest * 1000:.0f} ms, process peak {peak:.0f} MiB")
    for outcome, times in outcomes.most_common():
        print(f"{'':20} {outcome:20} {times:6}")
    return not outcomes["TRACEBACK"] and not slow


def main() -> None:
    """Fuzz both, and end with 1 where something went wrong."""
    asked = numbers_of(__doc__, recipes=5000, headers=2000, seed=0)
    load = partial(load_recipe, plugins=SHIPPED)
    is_well = [
        fuzz("recipe.yaml", asked.recipes, asked.seed, damaged_recipe, load),
        fuzz("file.safetensors", asked.headers, asked.seed, damaged_header, check_safetensors),
    ]
    sys.exit(0 if all(is_well) else 1)


if __name__ == "__main__":
    main()
