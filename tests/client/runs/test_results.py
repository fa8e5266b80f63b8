from __future__ import annotations

from pathlib import Path

from loba_tui.client.runs.results import result_lines
from loba_tui.core.run.directory import RunDir
from loba_tui.core.run.records import Event


def test_what_other_tools_make_of_a_kind_is_said_at_the_end_of_a_run(tmp_path: Path) -> None:
    run_dir = RunDir.create(tmp_path, "run")
    run_dir.adapter_peft.path.mkdir(parents=True)
    for notes in (["Only PEFT\x1b[2J reads it."], "not a list", None):
        event = Event("exported", 0.0, {"notes": notes})
        lines = result_lines(run_dir, [event])
        assert any(line.startswith("for PEFT") for line in lines)
        told = [line for line in lines if line.startswith("note")]
        assert len(told) == isinstance(notes, list)
        assert not any("\x1b" in line for line in told)
