"""Imports of large libraries without the garbage collector, which takes a quarter of their time."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without_collections() -> Iterator[None]:
    """Import inside a `with` block without looking for garbage, then or later, in what comes.

    torch, diffusers, transformers and peft make 800,000 objects that all stay. The collector goes
    through them a dozen times as they come, and again at every full collection of a run. Where
    torch is there already, nothing of this is done: what is frozen is never freed.
    """
    if "torch" in sys.modules:
        yield
        return
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if was_enabled:
            gc.enable()
