"""The garbage collector rests while large libraries are imported, and works again after that."""

import subprocess
import sys

SCRIPT = """
import gc, sys
from loba_tui.core.program.quick_imports import without_collections
try:
    with without_collections():
        inside = gc.isenabled()
        import torch
        raise ImportError
except ImportError:
    frozen = gc.get_freeze_count()
print(inside, gc.isenabled(), frozen > 10_000)
with without_collections():
    print(gc.isenabled(), gc.get_freeze_count() <= frozen)
"""


def test_what_is_imported_is_not_searched_for_garbage() -> None:
    told = subprocess.run(
        [sys.executable, "-c", SCRIPT], check=True, capture_output=True, text=True
    )
    assert told.stdout.split() == ["False", "True", "True", "True", "True"]
