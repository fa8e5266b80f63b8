"""Fixtures that several test folders share."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

# Two threads on a busy machine were seen to be twenty times slower, and the bits differ.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Tests of what is kept on disk name a folder of their own; no test writes to the user's.
os.environ["LOBA_CACHE"] = "off"


def pytest_collection_finish() -> None:
    """Take what is imported out of the garbage collector's sight.

    Every model that is let go of is collected for, and each time would look through all of torch.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Compute in one thread: bits differ between thread counts, and two may be far slower."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session", params=["sdxl", "sd"])
def tiny_folder(request: pytest.FixtureRequest) -> Path:
    """The folders of both architectures, one after the other."""
    folder: Path = request.getfixturevalue(f"tiny_{request.param}_folder")
    return folder


@pytest.fixture(scope="session")
def tiny_sd_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A diffusers folder of SD 1.x architecture with random weights, safety checker and all."""
    import torch
    from tiny_sd import save_tiny_sd

    folder = tmp_path_factory.mktemp("models") / "tiny-sd"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        save_tiny_sd(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_sdxl_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A diffusers folder of SD-XL architecture with random weights, the same in every session."""
    import torch

    from loba_tui.models.shapes_xl_parts import (
        make_pipeline,
        make_text_parts,
        make_unet,
        make_vae,
    )

    folder = tmp_path_factory.mktemp("models") / "tiny-sdxl"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        make_pipeline(make_vae(), make_text_parts(), make_unet()).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def small_sdxl_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SD-XL's architecture with half the layers, for what is trained and not measured."""
    import torch
    from small_sdxl import save_small_sdxl

    folder = tmp_path_factory.mktemp("models") / "small-sdxl"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        save_small_sdxl(folder)
    return folder
