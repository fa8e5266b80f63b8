"""Whatever stands in the records of a run from elsewhere, it is shown or left out."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from any_json import JSON
from hypothesis import given, settings
from hypothesis import strategies as st

from loba_tui.client.hub.model_card import _clean_range
from loba_tui.client.notify.notices import NoticeFinder
from loba_tui.client.runs.describe import record_lines, run_line, run_record
from loba_tui.client.runs.events import describe_event, event_line
from loba_tui.client.runs.progress import Progress
from loba_tui.client.runs.summary import RunSummaries
from loba_tui.core.errors import CorruptError
from loba_tui.core.run.changes import ChangeRecord
from loba_tui.core.run.directory import Ledger, RunDir
from loba_tui.core.run.reader import RunReader

STATUS = {
    "phase": "training",
    "step": 3,
    "total": 10,
    "heartbeat": time.time(),
    "pid": 2,
    "host": "there",
    "process_start": 1.0,
    "boot_id": "x",
    "resident": [{"component": "unet", "bytes": 1, "device": "cpu", "dtype": "float32"}],
    "unloaded": ["vae"],
    "measured": 1,
    "to_measure": 2,
    "images": 1,
    "of_images": 2,
    "fetched": 1,
    "to_fetch": 2,
    "oom_kills": {"memory": 1},
}
METRIC = {"step": 3, "time": 1.0, "loss": 0.1, "lr": 1e-4, "seconds": 0.1, "memory_mib": 10.0}
CHANGE = {"step": 1, "key": "optimizer.lr", "old": 1, "new": 2}
STEERING = {"version": 1, "changes": [CHANGE], "passed_over": [2]}
KINDS = ["ended_early", "warning", "estimated", "measured_memory", "built", "saved", "sampled"]
KINDS += ["resumed", "steered", "paused_disk", "skipped", "failed", "finished"]
EVENT_KEYS = ["event", "time", "message", "path", "device", "dtype", "step", "old", "new", "key"]


def damaged(content: object, field: str | None, value: object) -> str:
    return json.dumps(value if field is None else {**content, field: value})  # type: ignore[dict-item]


@settings(max_examples=400, deadline=None)
@given(data=st.data(), value=JSON, kind=st.sampled_from(KINDS))
def test_any_record_is_shown_or_left_out(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, value: object, kind: str
) -> None:
    folder: Path = tmp_path_factory.getbasetemp() / "foreign"
    run = RunDir(folder / "run")
    run.path.mkdir(parents=True, exist_ok=True)
    ledger = Ledger(folder / "runs.jsonl")
    ledger.path.write_text(json.dumps({"path": str(run.path)}) + "\n")

    def one_of(fields: list[str]) -> str | None:
        return data.draw(st.sampled_from([*fields, None]))

    event = {"event": kind, "time": 1.0, "message": "m", "path": "/p"}
    (run.path / "status.json").write_text(damaged(STATUS, one_of(list(STATUS)), value))
    (run.path / "metrics.jsonl").write_text(damaged(METRIC, one_of(list(METRIC)), value) + "\n")
    (run.path / "events.jsonl").write_text(damaged(event, one_of(EVENT_KEYS), value) + "\n")
    report = damaged({}, one_of(["outcome", "verdict", "clean_range"]), value)
    (run.path / "report.json").write_text(report)
    (run.path / "origin.json").write_text(damaged({}, one_of(["recipe"]), value))
    steering = damaged(STEERING, one_of(["changes", "passed_over"]), value)
    (run.path / "steering.json").write_text(steering)

    record = run_record(run)
    shown = [run_line(record), *record_lines(record)]
    reader, progress = RunReader(run), Progress()
    progress.update(reader.status(), reader.new_metrics())
    shown += [progress.text()]
    for each in reader.new_events():
        shown += [event_line(each), describe_event(each)]
    _clean_range(reader.report())
    RunSummaries(ledger).look()
    shown += [notice.text for notice in NoticeFinder(ledger).look()]
    assert all(line.replace("\u200d", "").replace("\u200c", "").isprintable() for line in shown)


@pytest.mark.parametrize(
    ("status", "metric"),
    [
        ({"total": 10**400}, {}),
        ({"step": -(10**400)}, {"step": 10**400}),
        ({"phase": "loading", "fetched": 1, "to_fetch": 10**400}, {}),
        ({}, {"seconds": "Infinity"}),
        ({}, {"seconds": 1e308}),
        ({}, {"seconds": 5e-324}),
    ],
)
def test_figures_that_no_run_has_bring_no_figure_of_time(
    status: dict[str, object], metric: dict[str, object], tmp_path: Path
) -> None:
    run = RunDir(tmp_path)
    (tmp_path / "status.json").write_text(json.dumps({**STATUS, **status}))
    (tmp_path / "metrics.jsonl").write_text(2 * (json.dumps({**METRIC, **metric}) + "\n"))
    reader, progress = RunReader(run), Progress()
    progress.update(reader.status(), reader.new_metrics())
    assert len(progress.text()) < 200
    assert progress.num_tenths <= 10


@settings(max_examples=300, deadline=None)
@given(field=st.sampled_from(sorted(CHANGE)), value=JSON)
def test_any_steering_is_a_record_or_corrupt(field: str, value: object) -> None:
    text = json.dumps({**STEERING, "changes": [{**CHANGE, field: value}]})
    try:
        found = ChangeRecord.from_text(text, "there")
    except CorruptError:
        return
    assert found.changes[0].key == "optimizer.lr"
