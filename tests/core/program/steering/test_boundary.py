"""Commands at step boundaries: unit tests on a stand-in trainer, then whole runs on the model."""

from __future__ import annotations

import errno
import functools
import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from program_runs import adapter_hashes, events, new_run
from steering_stand_in import steering_of

from loba_tui.core.errors import ExitCode, Interrupted, NumericsError, ResourceError
from loba_tui.core.plugins import SHIPPED
from loba_tui.core.program import main as program
from loba_tui.core.program.adapter_files.adapter import read_adapter
from loba_tui.core.program.method import StepOutput
from loba_tui.core.program.methods.text_slider import TextSlider
from loba_tui.core.program.steering.boundary import Steering
from loba_tui.core.program.steering.disk_wait import DiskWait
from loba_tui.core.program.train import train
from loba_tui.core.program.training.trainer import Trainer
from loba_tui.core.recipe.load import parse_recipe
from loba_tui.core.recipe.schema import Recipe
from loba_tui.core.run import disk
from loba_tui.core.run.changes import Change, ChangeRecord
from loba_tui.core.run.control import Command, send
from loba_tui.core.run.deadline import Deadline
from loba_tui.core.run.directory import RunDir
from loba_tui.core.run.reader import RunReader
from loba_tui.core.run.start_options import StartOptions
from loba_tui.core.run.writer import RunWriter


def recipe_with(*, method: Mapping[str, Any] | None = None, **sections: Any) -> Recipe:
    concept = {
        "target": "a red circle",
        "positive": "a large red circle",
        "negative": "a small red circle",
        "preserve": ["red"],
    }
    return parse_recipe(
        {
            "version": 1,
            "name": "steered",
            "base_model": {"id": "builtin:shapes-xl", "device": "cpu"},
            "adapter": {"layers": ["cross_attention"]},
            "method": {
                "name": "text_slider",
                "rollout_steps": 4,
                "concepts": [concept],
                **(method or {}),
            },
            "optimizer": {"lr": 1e-3},
            "scheduler": {"model": {"name": "cosine"}},
            "sample": {"steps": 2, "scales": [-1, 1], "prompts": ["a circle"]},
            "proof": {"enabled": False},
            **sections,
            "train": {"steps": 6, "batch_size": 2, **sections.get("train", {})},
        },
        plugins=SHIPPED,
    )


class Subject:
    """A trainer that notes what it is asked for."""

    def __init__(self) -> None:
        self.step = 3
        self.done: list[str] = []

    def save(self) -> None:
        self.done.append("save")

    def sample(self) -> None:
        self.done.append("sample")


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[RunWriter]:
    with RunWriter.open(RunDir.create(tmp_path, "run")) as writer:
        yield writer


def steering_with(writer: RunWriter, **more: Any) -> Steering:
    return steering_of(recipe_with(), writer.run_dir, writer, **more)


def test_commands_are_carried_out_and_answered_by_their_name(writer: RunWriter) -> None:
    steering, subject = steering_with(writer), Subject()
    names = [send(writer.run_dir, Command(kind)) for kind in ("save", "sample")]
    steering.boundary(subject)
    assert subject.done == ["save", "sample"]
    answers = events(writer.run_dir, "command")
    assert [answer["id"] for answer in answers] == names
    assert all(answer["accepted"] and answer["step"] == 3 for answer in answers)


def test_what_is_no_command_is_answered_with_a_refusal(writer: RunWriter) -> None:
    command = writer.run_dir.control.path / "00000001-abababab.json"
    command.write_text('{"version":1,"command":"rm"}')
    steering_with(writer).boundary(Subject())
    (answer,) = events(writer.run_dir, "command")
    assert answer["id"] == command.stem
    assert not answer["accepted"]


def test_a_setting_changes_from_the_next_step_on_and_is_recorded(writer: RunWriter) -> None:
    steering, rates = steering_with(writer), []
    steering.settings.bind("optimizer.lr", rates.append)
    for key, value in (("optimizer.lr", 1e-4), ("save.every", 2), ("train.steps", 9)):
        send(writer.run_dir, Command("set", {"key": key, "value": value}))
    steering.boundary(Subject())
    assert rates == [1e-4]
    assert (steering.settings.save_every, steering.settings.steps) == (2, 9)
    steered = [{key: e[key] for key in ("step", "key", "old", "new")} for e in
               events(writer.run_dir, "steered")]  # fmt: skip
    assert steered[0] == {"step": 3, "key": "optimizer.lr", "old": 1e-3, "new": 1e-4}
    assert ChangeRecord.read(writer.run_dir.changes) == steering.settings.record
    assert [change.key for change in steering.settings.record.changes] == [
        "optimizer.lr",
        "save.every",
        "train.steps",
    ]


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("optimizer.lr", -1, "optimizer.lr: expected"),
        ("optimizer.lr", "fast", "optimizer.lr: expected"),
        ("optimizer.lr", None, "optimizer.lr: expected"),
        ("optimizer.lr", {"a": [1]}, "optimizer.lr: expected"),
        ("method.preserve_weight", -0.5, "method.preserve_weight: expected"),
        ("save.every", 1.5, "save.every: expected"),
        ("train.steps", 3, "3 steps are done already"),
        ("train.steps", 0, "train.steps: expected"),
        ("train.batch_size", 8, "cannot be changed while a run goes on"),
        ("nonsense", 8, "cannot be changed while a run goes on"),
        (["x"], 8, "cannot be changed while a run goes on"),
    ],
)
def test_a_bad_value_is_refused_with_a_reason_and_changes_nothing(
    writer: RunWriter, key: Any, value: Any, message: str
) -> None:
    steering = steering_with(writer)
    for live in ("optimizer.lr", "method.preserve_weight"):
        steering.settings.bind(live, lambda value: pytest.fail(f"set to {value}"))
    send(writer.run_dir, Command("set", {"key": key, "value": value}))
    steering.boundary(Subject())
    (answer,) = events(writer.run_dir, "command")
    assert not answer["accepted"]
    assert message in answer["message"]
    assert steering.settings.record == ChangeRecord()
    assert not writer.run_dir.changes.path.exists()


def later(work: Callable[[], object], seconds: float = 0.4) -> threading.Timer:
    timer = threading.Timer(seconds, work)
    timer.start()
    return timer


def test_a_paused_run_waits_without_work_and_goes_on(writer: RunWriter) -> None:
    steering, subject = steering_with(writer, poll_seconds=0.25), Subject()
    writer.status(phase="training")
    send(writer.run_dir, Command("pause"))
    seen: list[str] = []

    def look_and_resume() -> None:
        seen.append(RunReader(writer.run_dir).liveness().state)
        send(writer.run_dir, Command("save"))
        send(writer.run_dir, Command("pause"))
        send(writer.run_dir, Command("resume"))

    begin, cpu = time.monotonic(), time.process_time()
    later(look_and_resume, 1.5)
    steering.boundary(subject)
    assert time.monotonic() - begin >= 1.5
    assert time.process_time() - cpu < 0.15
    assert seen == ["paused"]
    assert subject.done == ["save"]
    assert [answer["accepted"] for answer in events(writer.run_dir, "command")] == [
        True,
        True,
        False,
        True,
    ]
    assert [e["event"] for e in events(writer.run_dir) if e["event"] != "command"] == [
        "paused",
        "continued",
    ]
    assert writer.phase == "training"


@pytest.mark.parametrize("how", ["command", "signal"])
def test_a_paused_run_can_be_stopped(writer: RunWriter, how: str) -> None:
    flag = SimpleNamespace(is_set=False)
    steering, subject = steering_with(writer, flag=flag), Subject()
    send(writer.run_dir, Command("pause"))

    def stop() -> None:
        if how == "signal":
            flag.is_set = True
        else:
            send(writer.run_dir, Command("stop"))

    later(stop)
    with pytest.raises(Interrupted, match="after step 3 of 6"):
        steering.boundary(subject)
    assert subject.done == ["save"]


def test_a_deadline_stops_with_time_to_spare(writer: RunWriter) -> None:
    steering_with(writer, deadline=Deadline.parse("1h")).boundary(Subject())
    subject = Subject()
    with pytest.raises(Interrupted):
        steering_with(writer, deadline=Deadline.parse("3s")).boundary(subject)
    assert subject.done == ["save"]


@pytest.mark.parametrize("number", sorted(disk.TROUBLE))
def test_a_disk_without_room_is_waited_for(writer: RunWriter, number: int) -> None:
    writer.status(phase="training")
    failures, phases = [number, number], []

    def write() -> None:
        phases.append(RunReader(writer.run_dir).status().phase)  # type: ignore[union-attr]
        if failures:
            error = ResourceError("the checkpoint could not be written")
            raise error from OSError(failures.pop(), "no room")

    steering_with(writer).disk.persist(write, num_bytes=1, step=4)
    assert phases == ["training", "paused_disk", "paused_disk"]
    assert writer.phase == "training"
    assert [event["event"] for event in events(writer.run_dir)] == ["paused_disk", "continued"]


def test_a_save_is_not_begun_where_it_cannot_fit(
    writer: RunWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = [2**20, 2**20, 2**40]
    space = disk.space_for(writer.run_dir.path, 10)
    monkeypatch.setattr(
        disk, "space_for", lambda *_: disk.DiskSpace(space.needed_bytes, free.pop(0), 0, 0)
    )
    written: list[int] = []
    steering_with(writer).disk.persist(lambda: written.append(len(free)), num_bytes=10, step=4)
    assert written == [0]
    (paused,) = events(writer.run_dir, "paused_disk")
    assert "64 MiB are needed and 1 MiB are free" in paused["message"]


def test_a_run_that_waits_for_the_disk_can_be_stopped(writer: RunWriter) -> None:
    def write() -> None:
        raise OSError(errno.ENOSPC, "full")

    send(writer.run_dir, Command("sample"))
    later(lambda: send(writer.run_dir, Command("stop")))
    with pytest.raises(Interrupted, match="the disk has no room"):
        steering_with(writer).disk.persist(write, num_bytes=1, step=4)
    assert [a["accepted"] for a in events(writer.run_dir, "command")] == [False, True]


def test_a_failure_that_is_not_the_disks_is_raised(writer: RunWriter) -> None:
    def write() -> None:
        raise PermissionError(errno.EACCES, "denied")

    with pytest.raises(PermissionError):
        steering_with(writer).disk.persist(write, num_bytes=1, step=4)


# Whole runs.


def metrics(run_dir: RunDir) -> dict[int, dict[str, Any]]:
    lines = [json.loads(line) for line in run_dir.metrics.path.read_text().splitlines()]
    return {line["step"]: line for line in lines}


class Hand:
    """Sends commands, or sets the stop flag, once so many steps are recorded.

    The trainer looks at the flag after it has taken the commands of a boundary, so what is sent
    after step n is taken before step n + 2.
    """

    def __init__(self, run_dir: RunDir, plan: Mapping[int, list[Command]], stop: int = 0) -> None:
        self.run_dir, self.plan, self.stop = run_dir, dict(plan), stop

    @property
    def is_set(self) -> bool:
        step = max(metrics(self.run_dir), default=0) if self.run_dir.metrics.path.exists() else 0
        for command in self.plan.pop(step, []):
            send(self.run_dir, command)
        return bool(self.stop) and step >= self.stop


def set_to(key: str, value: Any) -> Command:
    return Command("set", {"key": key, "value": value})


PLAN = {
    1: [set_to("optimizer.lr", 5e-4), set_to("method.preserve_weight", 0.25)],
    3: [set_to("train.steps", 8), set_to("sample.every", 5), Command("save")],
}


def run_steered(run_dir: RunDir, hand: Hand) -> None:
    from loba_tui.core.recipe.load import load_recipe

    with RunWriter.open(run_dir) as writer:
        train(
            load_recipe(run_dir.recipe, plugins=SHIPPED),
            run_dir,
            writer,
            hand,
            StartOptions(),
            SHIPPED,
        )


@pytest.fixture(scope="module")
def recipe_of(small_sdxl_folder: Path) -> Callable[..., Recipe]:
    """Return recipes on a model that is small enough to train on many times."""
    base_model = {"id": str(small_sdxl_folder), "device": "cpu"}
    return functools.partial(recipe_with, base_model=base_model)


@pytest.fixture(scope="module")
def steered(recipe_of: Callable[..., Recipe], tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    run_dir = new_run(recipe_of(), tmp_path_factory.mktemp("steered"))
    run_steered(run_dir, Hand(run_dir, PLAN))
    return run_dir


def test_a_run_is_steered_while_it_goes_on(steered: RunDir) -> None:
    figures = metrics(steered)
    assert max(figures) == 8
    # Half a cosine wave over 6 steps, from the third step on with half the rate, from the fifth on
    # as of a run of 8 steps.
    wave = [
        float(0.5 * (1 + torch.cos(torch.tensor(torch.pi * at))))
        for at in (0, 1 / 6, 2 / 6, 3 / 6, 4 / 8, 5 / 8, 6 / 8, 7 / 8)
    ]
    rates = [1e-3, 1e-3, *[5e-4] * 6]
    expected = [rate * factor for rate, factor in zip(rates, wave, strict=True)]
    assert [figures[step]["lr"] for step in range(1, 9)] == pytest.approx(expected)
    weights = [
        (f["loss"] - f["slider_loss"]) / f["preserve_loss"]
        for f in figures.values()
        if f["preserve_loss"] > 1e-6
    ]
    assert weights[-1] == pytest.approx(0.25, rel=1e-2)
    assert [event["step"] for event in events(steered, "saved")] == [4, 8]
    assert [event["step"] for event in events(steered, "sampled")] == [5, 8]
    _, _, metadata = read_adapter(steered.adapter)
    record = ChangeRecord.from_text(metadata["loba.steering"], "adapter")
    assert record == ChangeRecord.read(steered.changes)
    assert record.changes[0] == Change(2, "optimizer.lr", 1e-3, 5e-4)


@pytest.fixture(scope="module")
def stopped_once(
    recipe_of: Callable[..., Recipe], tmp_path_factory: pytest.TempPathFactory
) -> RunDir:
    run_dir = new_run(recipe_of(), tmp_path_factory.mktemp("stopped"))
    with pytest.raises(Interrupted, match="step 6 of 8"):
        run_steered(run_dir, Hand(run_dir, PLAN, stop=6))
    return run_dir


@pytest.fixture
def stopped_at_6(stopped_once: RunDir, tmp_path: Path) -> RunDir:
    """A copy of a run that was stopped."""
    shutil.copytree(stopped_once.path, tmp_path / stopped_once.path.name)
    return RunDir(tmp_path / stopped_once.path.name)


def test_a_stopped_run_resumes_with_the_steered_values(
    steered: RunDir, stopped_at_6: RunDir
) -> None:
    run_dir = stopped_at_6
    assert program.main(["--run-dir", str(run_dir.path), "--resume"]) == ExitCode.DONE
    assert adapter_hashes(run_dir) == adapter_hashes(steered)


def test_without_its_record_a_run_resumes_from_what_the_checkpoint_knows(
    steered: RunDir, stopped_at_6: RunDir
) -> None:
    run_dir = stopped_at_6
    run_dir.changes.path.write_text("{")
    assert program.main(["--run-dir", str(run_dir.path), "--resume"]) == ExitCode.DONE
    assert adapter_hashes(run_dir) == adapter_hashes(steered)
    assert "steering.json" in events(run_dir, "warning")[0]["message"]


def test_changes_after_the_last_checkpoint_are_made_again_at_their_steps(
    steered: RunDir, stopped_at_6: RunDir
) -> None:
    run_dir = stopped_at_6
    # As after a kill: the only checkpoint left is of step 4, before train.steps was changed.
    for path in run_dir.checkpoints.path.iterdir():
        if path.name != "step-000004":
            path.rename(path.with_name("lost"))
    assert program.main(["--run-dir", str(run_dir.path), "--resume"]) == ExitCode.DONE
    assert adapter_hashes(run_dir) == adapter_hashes(steered)


def test_a_record_alone_repeats_the_run(
    recipe_of: Callable[..., Recipe], steered: RunDir, tmp_path: Path
) -> None:
    run_dir = new_run(recipe_of(), tmp_path)
    run_dir.changes.path.write_bytes(steered.changes.path.read_bytes())
    assert program.main(["--run-dir", str(run_dir.path)]) == ExitCode.DONE
    assert adapter_hashes(run_dir) == adapter_hashes(steered)
    kept = [{**event, "time": 0} for event in events(steered, "steered")]
    assert [{**event, "time": 0} for event in events(run_dir, "steered")] == kept


def test_a_stop_while_the_result_is_measured_is_obeyed_and_loses_nothing(
    recipe_of: Callable[..., Recipe], tmp_path: Path
) -> None:
    recipe = recipe_of(train={"steps": 2}, proof={"prompts": ["a blue circle"], "seeds": [1, 2]})
    plain, code = run_with(recipe, tmp_path / "plain")
    assert code == ExitCode.DONE

    class WhileMeasuring:
        def __init__(self, writer: RunWriter) -> None:
            self.writer = writer

        @property
        def is_set(self) -> bool:
            return self.writer.phase == "measuring"

    run_dir = new_run(recipe, tmp_path / "stopped")
    with RunWriter.open(run_dir) as writer, pytest.raises(Interrupted, match="images were drawn"):
        train(recipe, run_dir, writer, WhileMeasuring(writer), StartOptions(), SHIPPED)
    assert not run_dir.report.path.exists()
    assert program.main(["--run-dir", str(run_dir.path), "--resume"]) == ExitCode.DONE
    assert adapter_hashes(run_dir) == adapter_hashes(plain)


def spoil(monkeypatch: pytest.MonkeyPatch, indices: set[int]) -> list[int]:
    """Make the loss of these micro-steps NaN; return the list of all indices as they are run."""
    step, one_step, seen = TextSlider.step, Trainer._one_step, []
    training: list[Trainer] = []

    def traced(self: Trainer) -> dict[str, float]:
        training.append(self)
        try:
            return one_step(self)
        finally:
            training.pop()

    def spoiled(self: TextSlider, index: int, progress: float) -> StepOutput:
        if training:  # the estimate before the start runs some steps too, without weights
            seen.append(index)
        output = step(self, index, progress)
        loss = output.loss * torch.nan if index in indices else output.loss
        return StepOutput(loss=loss, metrics=output.metrics)

    monkeypatch.setattr(TextSlider, "step", spoiled)
    monkeypatch.setattr(Trainer, "_one_step", traced)
    return seen


def run_with(recipe: Recipe, parent: Path) -> tuple[RunDir, int]:
    run_dir = new_run(recipe, parent)
    return run_dir, program.main(["--run-dir", str(run_dir.path)])


def test_a_loss_that_is_not_finite_stops_by_default(
    recipe_of: Callable[..., Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil(monkeypatch, {2})
    run_dir, code = run_with(recipe_of(), tmp_path)
    assert code == ExitCode.NUMERICS
    assert "step 3 is nan" in events(run_dir, "failed")[0]["message"]
    assert not run_dir.adapter.path.exists()


def test_skipped_steps_leave_the_weights_alone(
    recipe_of: Callable[..., Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    accumulating = {"gradient_accumulation": 2, "on_nan": "skip", "steps": 4}
    seen = spoil(monkeypatch, {2})  # the first of the two micro-steps of step 2
    recipe = recipe_of(train=accumulating, save={"every": 1, "keep": 9})
    run_dir, code = run_with(recipe, tmp_path)
    assert code == ExitCode.DONE
    assert seen[-8:] == list(range(8))  # the estimate takes steps of its own before
    assert sorted(metrics(run_dir)) == [1, 3, 4]
    (skipped,) = events(run_dir, "skipped")
    assert (skipped["step"], skipped["num_skips"]) == (1, 1)
    adapters = [
        (run_dir.checkpoints.path / f"step-{step:06d}" / "adapter.safetensors").read_bytes()
        for step in (1, 2, 3)
    ]
    assert adapters[0] == adapters[1] != adapters[2]
    assert all(torch.isfinite(tensor).all() for tensor in read_adapter(run_dir.adapter)[0].values())


@pytest.mark.parametrize("policy", ["skip", "rollback"])
def test_skips_are_bounded(
    recipe_of: Callable[..., Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, policy: str
) -> None:
    spoil(monkeypatch, set(range(1, 20)))
    run_dir, code = run_with(recipe_of(train={"on_nan": policy, "max_skips": 2}), tmp_path)
    assert code == ExitCode.NUMERICS
    assert len(events(run_dir, "skipped")) == 2
    assert "train.max_skips: 2" in events(run_dir, "failed")[0]["message"]


def test_a_rollback_goes_back_to_the_checkpoint_and_leaves_the_bad_draw_out(
    recipe_of: Callable[..., Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = spoil(monkeypatch, {1, 4})
    recipe = recipe_of(train={"on_nan": "rollback"}, save={"every": 3})
    run_dir, code = run_with(recipe, tmp_path)
    assert code == ExitCode.DONE
    assert seen == [0, 1, 0, 2, 3, 4, 3, 5]
    assert [event["back_to"] for event in events(run_dir, "skipped")] == [0, 3]
    record = ChangeRecord.read(run_dir.changes)
    assert record is not None
    assert record.skipped == (1, 4)

    again = new_run(recipe, tmp_path / "again")
    again.changes.path.write_bytes(run_dir.changes.path.read_bytes())
    assert program.main(["--run-dir", str(again.path)]) == ExitCode.DONE
    assert seen[8:] == [0, 2, 3, 5]
    assert adapter_hashes(again) == adapter_hashes(run_dir)


@pytest.fixture(scope="module")
def three_steps(
    recipe_of: Callable[..., Recipe], tmp_path_factory: pytest.TempPathFactory
) -> RunDir:
    recipe = recipe_of(train={"steps": 3}, save={"every": 1})
    run_dir, code = run_with(recipe, tmp_path_factory.mktemp("plain"))
    assert code == ExitCode.DONE
    return run_dir


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_a_disk_that_fills_up_delays_a_run_and_changes_nothing(
    three_steps: RunDir,
    recipe_of: Callable[..., Recipe],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
) -> None:
    recipe = recipe_of(train={"steps": 3}, save={"every": 1})
    fsync, write, failures = os.fsync, os.write, 12

    def fail() -> None:
        nonlocal failures
        # The first checkpoint is safe by then.
        if list((tmp_path / "full").rglob("step-000001/manifest.json")) and failures:
            failures -= 1
            raise OSError(number, os.strerror(number))

    def failing_fsync(descriptor: int) -> None:
        fail()
        fsync(descriptor)

    def failing_write(descriptor: int, content: bytes) -> int:
        fail()
        return write(descriptor, content)

    monkeypatch.setattr(os, "fsync", failing_fsync)
    monkeypatch.setattr(os, "write", failing_write)
    monkeypatch.setattr(DiskWait, "_wait", lambda *_: None)
    run_dir, code = run_with(recipe, tmp_path / "full")
    assert code == ExitCode.DONE
    kinds = [event["event"] for event in events(run_dir)]
    assert failures == 0
    assert "paused_disk" in kinds
    assert kinds.count("saved") == 3
    assert sorted(metrics(run_dir)) == [1, 2, 3]
    assert adapter_hashes(run_dir) == adapter_hashes(three_steps)


def test_a_policy_for_bad_steps_is_checked_by_the_schema() -> None:
    with pytest.raises(Exception, match=r"train\.on_nan"):
        recipe_with(train={"on_nan": "ignore"})
    assert recipe_with().train.on_nan == "stop"
    assert NumericsError.exit_code == ExitCode.NUMERICS
