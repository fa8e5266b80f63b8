"""The place of a process, as launchers say it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from loba_tui.core.errors import ExitCode, RecipeError
from loba_tui.core.program.peers.launcher import Place

MEETING = {"MASTER_ADDR": "a", "MASTER_PORT": "29500"}


@pytest.mark.parametrize(
    ("environ", "place"),
    [
        ({}, Place()),
        ({"WORLD_SIZE": "1"}, Place()),
        ({"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1", **MEETING}, Place(1, 1)),
        (
            {
                "WORLD_SIZE": "4",
                "RANK": "3",
                "LOCAL_RANK": "1",
                "LOCAL_WORLD_SIZE": "2",
                **MEETING,
            },
            Place(3, 1),
        ),
    ],
)
def test_the_place_is_as_the_launcher_says(environ: dict[str, str], place: Place) -> None:
    assert Place.of(environ) == place


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({"MASTER_ADDR": "127.0.0.1"}, "without WORLD_SIZE"),
        ({"RANK": "1"}, "RANK is '1' without WORLD_SIZE"),
        ({"WORLD_SIZE": "2", "RANK": "2", "LOCAL_RANK": "0", **MEETING}, "RANK is 2"),
        ({"WORLD_SIZE": "2", "RANK": "-1", "LOCAL_RANK": "0", **MEETING}, "RANK is -1"),
        ({"WORLD_SIZE": "2", "LOCAL_RANK": "0", **MEETING}, "RANK is missing"),
        ({"WORLD_SIZE": "two", "RANK": "0", **MEETING}, "no number"),
        ({"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "a"}, "MASTER_PORT"),
        (
            {
                "WORLD_SIZE": "4",
                "RANK": "3",
                "LOCAL_RANK": "2",
                "LOCAL_WORLD_SIZE": "2",
                **MEETING,
            },
            "LOCAL_RANK is 2",
        ),
    ],
)
def test_a_launch_that_is_not_what_it_looks_like_is_refused(
    environ: dict[str, str], message: str
) -> None:
    with pytest.raises(RecipeError, match=message) as raised:
        Place.of(environ)
    assert "--processes" in raised.value.hint
    assert "torchrun" in raised.value.hint


@pytest.mark.slow
def test_the_simple_launcher_of_accelerate_is_refused(tmp_path: Path) -> None:
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "2", "--cpu"]
    program = ["-m", "loba_tui.core.program.main", "--pretrained_model", "builtin:shapes-xl"]
    done = subprocess.run(
        [*launcher, *program, "--out_dir", str(tmp_path / "output")],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    # accelerate ends with 1 whatever the program has ended with, and names its exit status.
    assert f"returned non-zero exit status {int(ExitCode.RECIPE)}" in done.stderr
    assert "MASTER_ADDR" in done.stderr
    assert "torchrun" in done.stderr
    assert not (tmp_path / "output").exists()
