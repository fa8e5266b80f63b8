"""Random sequences of pull, delete, undo, pin, prune and foreign deletion against a model.

    python benchmarks/cache_sequences.py [SEQUENCES] [SEED]

Each has 30 steps; after every one the real cache and the model are compared, with the scan of the
hub's own client as the judge. A difference is an AssertionError that names the sequence's seed.
"""

from __future__ import annotations

import random
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests/support"))

from cache_model import Pair, random_step

STEPS = 30


def main() -> None:
    sequences = int(sys.argv[1]) if len(sys.argv) > 1 else 500
    first = int(sys.argv[2]) if len(sys.argv) > 2 else 0
    began = time.perf_counter()
    counts: dict[str, int] = {}
    for seed in range(first, first + sequences):
        generator = random.Random(seed)
        with tempfile.TemporaryDirectory(prefix="loba-cache-") as folder:
            pair = Pair(Path(folder))
            for number in range(STEPS):
                step = random_step(generator)
                counts[step[0]] = counts.get(step[0], 0) + 1
                try:
                    pair.apply(step)
                except Exception as error:
                    raise AssertionError(f"seed {seed}, step {number}: {step}") from error
    print(f"{sequences} sequences of {STEPS} steps, no difference")
    print(f"{time.perf_counter() - began:.0f} s")
    for name, count in sorted(counts.items()):
        print(f"  {name:16}{count:>7}")


if __name__ == "__main__":
    main()
