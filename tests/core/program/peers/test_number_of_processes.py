"""A run by two processes that goes on by one, or is refused and left as it was."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hurt_processes import process_group
from program_runs import events, new_run, shape_slider

from loba_tui.core.errors import ExitCode
from loba_tui.core.plugins import SHIPPED
from loba_tui.core.program import main
from loba_tui.core.recipe.load import load_recipe
from loba_tui.core.recipe.schema import Recipe
from loba_tui.core.run.directory import RunDir
from loba_tui.core.run.reader import RunReader

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True, scope="module")
def _keep_process_state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        yield
    torch.set_num_threads(threads)


def recipe_of(**train: Any) -> Recipe:
    return shape_slider(
        4,
        train={"steps": 3, **train},
        sample={"prompts": ["a red circle"], "scales": [0, 1], "steps": 1},
        proof={"enabled": False},
    )


def losses(run_dir: RunDir) -> list[float]:
    return [json.loads(line)["loss"] for line in run_dir.metrics.path.read_text().splitlines()]


@pytest.fixture(scope="module")
def by_two(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    """A finished run of two processes with four samples a step."""
    run_dir = new_run(recipe_of(global_batch_size=4), tmp_path_factory.mktemp("two"))
    with process_group(run_dir) as group:
        assert [each.wait(150) for each in group.processes] == [0, 0]
    return run_dir


def test_a_global_batch_is_the_same_for_one_process_and_for_two(
    by_two: RunDir, tmp_path: Path
) -> None:
    by_one = new_run(recipe_of(global_batch_size=4), tmp_path)
    assert main.main(["--run-dir", str(by_one.path)]) == ExitCode.DONE
    assert losses(by_two) == pytest.approx(losses(by_one), rel=1e-4)
    plain = new_run(recipe_of(batch_size=4), tmp_path)
    assert main.main(["--run-dir", str(plain.path)]) == ExitCode.DONE
    assert losses(by_one) == losses(plain)
    (chosen,) = events(by_two, "chosen")
    assert chosen["keys"] == "train.batch_size: 2"
    assert chosen["reason"] == "global_batch_size 4 over 2 processes"
    # The run's own recipe leaves it open, so that others can go on with it.
    assert load_recipe(by_two.recipe, plugins=SHIPPED).train.batch_size is None


def test_another_number_of_processes_is_refused_and_leaves_the_ending_alone(
    by_two: RunDir, capsys: pytest.CaptureFixture[str]
) -> None:
    before = by_two.status.path.read_bytes()
    argv = ["--run-dir", str(by_two.path), "--resume", "--set", "train.steps=5"]
    assert main.main(argv) == ExitCode.RECIPE
    said = capsys.readouterr().err
    assert "the run had 2 processes, and here is one" in said
    assert "loba run --resume RUN --processes 2" in said
    assert json.loads(by_two.status.path.read_bytes()) == json.loads(before)
    assert RunReader(by_two).liveness().state == "finished"
    assert not events(by_two, "failed")
    refused = events(by_two)[-1]
    assert refused["event"] == "resume_refused"
    assert refused["exit_code"] == ExitCode.RECIPE

    # It is allowed as the samples of a step stay what they were.
    assert main.main([*argv, "--allow-inexact"]) == ExitCode.DONE
    assert [each["keys"] for each in events(by_two, "chosen")][-1] == "train.batch_size: 4"
    assert RunReader(by_two).liveness().state == "finished"
    assert len(losses(by_two)) == 5


def test_a_resume_never_changes_the_samples_of_a_step_in_silence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = new_run(recipe_of(batch_size=1, steps=1), tmp_path)
    assert main.main(["--run-dir", str(run_dir.path)]) == ExitCode.DONE
    with process_group(
        run_dir, resume=True, options=("--allow-inexact", "--set", "train.steps=2")
    ) as group:
        assert [each.wait(150) for each in group.processes] == [ExitCode.RECIPE, ExitCode.RECIPE]
    assert RunReader(run_dir).liveness().state == "finished"
    told = events(run_dir)[-1]
    assert told["event"] == "resume_refused"
    assert "the run had 1 process, and here are 2" in told["message"]
    assert "train.global_batch_size" in told["hint"]


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ({"global_batch_size": 4, "batch_size": 2}, "batch_size 2 × gradient_accumulation 1 × 1"),
        ({"global_batch_size": 4, "batch_size": 1, "gradient_accumulation": 2}, "is 2"),
    ],
)
def test_a_batch_size_that_disagrees_is_refused_when_the_run_starts(
    train: dict[str, int], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = new_run(recipe_of(**train), tmp_path)
    assert main.main(["--run-dir", str(run_dir.path)]) == ExitCode.RECIPE
    assert message in capsys.readouterr().err
