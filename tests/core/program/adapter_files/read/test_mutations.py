"""Adapter files with random changes end in a message or work, and in no time."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

from adapter_mutations import mutate, originals_of_transformers, use
from tiny_transformers import TINY

from loba_tui.core.errors import LobaError
from loba_tui.models.shapes_xl_parts import make_unet

NUM_FILES = 150
NUM_FILES_OF_TRANSFORMERS = 100


def test_mutated_files_never_end_in_a_traceback(tmp_path: Path) -> None:
    unet, path = make_unet(), tmp_path / "f.safetensors"
    for number in range(NUM_FILES):
        mutate(number, path)
        began = time.process_time()
        with contextlib.suppress(LobaError):
            use(path, unet)
        assert time.process_time() - began < 1, f"file {number}"


def test_neither_do_those_of_transformers(tmp_path: Path) -> None:
    model, path = TINY["FLUX.2"].made(), tmp_path / "f.safetensors"
    files = originals_of_transformers()
    for number in range(NUM_FILES_OF_TRANSFORMERS):
        mutate(number, path, files)
        began = time.process_time()
        with contextlib.suppress(LobaError):
            use(path, model)
        assert time.process_time() - began < 1, f"file {number}"
