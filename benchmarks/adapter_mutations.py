"""Read adapter files with random changes by the thousand: none may end in a traceback, or be slow.

python benchmarks/adapter_mutations.py --files 2000
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "support"))

from adapter_mutations import mutate, use

from loba_tui.core.errors import LobaError
from loba_tui.models.shapes_xl_parts import make_unet


def main() -> int:
    """Print how files ended, and the slowest; return 1 where one ended in a traceback."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=2000)
    num_files = parser.parse_args().files
    unet, ends, slowest = make_unet(), Counter[str](), 0.0
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "f.safetensors"
        for number in range(num_files):
            mutate(number, path)
            began = time.perf_counter()
            try:
                use(path, unet)
                ends["used"] += 1
            except LobaError as error:
                ends[f"exit {error.exit_code}"] += 1
            except Exception:  # noqa: BLE001  this is what is looked for
                ends["traceback"] += 1
                print(f"file {number}:\n{traceback.format_exc(limit=-3)}")
            slowest = max(slowest, time.perf_counter() - began)
    print(f"{num_files} files: {dict(ends)}; the slowest took {slowest:.3f} s")
    return 1 if ends["traceback"] else 0


if __name__ == "__main__":
    sys.exit(main())
