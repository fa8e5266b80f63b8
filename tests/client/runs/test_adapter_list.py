from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from loba_tui.cli import app
from loba_tui.client.runs import foreground
from loba_tui.client.runs.adapter_list import request_of, split_strength
from loba_tui.core.errors import LobaError, RecipeError
from loba_tui.core.run.directory import RunDir
from loba_tui.core.run.records import Event


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("size@1.5", ("size", 1.5)),
        ("size@-1", ("size", -1.0)),
        ("size", ("size", 1.0)),
        ("runs/me@home/adapter.safetensors", ("runs/me@home/adapter.safetensors", 1.0)),
        ("runs/me@home@2", ("runs/me@home", 2.0)),
    ],
)
def test_the_strength_is_what_follows_the_last_at(text: str, expected: tuple[str, float]) -> None:
    assert split_strength(text) == expected


@pytest.mark.parametrize("text", ["size@21", "size@-1e9", "@1", "size@inf", "size@nan"])
def test_a_strength_out_of_range_is_said_so(text: str) -> None:
    with pytest.raises(RecipeError, match="strength"):
        split_strength(text)


def test_a_request_names_files_and_strengths(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.safetensors").write_bytes(b"")
    wanted = request_of(
        "merge", [f"{tmp_path}/a.safetensors@2", f"{tmp_path}/b.safetensors"], rank=4
    )
    assert wanted.several == (
        (str(tmp_path / "a.safetensors"), 2.0),
        (str(tmp_path / "b.safetensors"), 1.0),
    )
    assert wanted.run is None
    with pytest.raises(LobaError):
        request_of("merge", [f"{tmp_path}/c.safetensors@2"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["sample"], "give one RUN|ADAPTER"),
        (["sample", "x", "--adapter", "y@1"], "give one RUN|ADAPTER"),
        (["interfere", "x@1"], "it takes two adapters"),
        (["merge", "x@1", "--out", "both.pt"], "not a .safetensors file"),
    ],
)
def test_what_is_missing_is_said(arguments: list[str], message: str) -> None:
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2
    assert message in result.output


def test_what_other_tools_make_of_a_kind_is_said_at_the_end_of_a_run(tmp_path: Path) -> None:
    run_dir = RunDir.create(tmp_path, "run")
    run_dir.adapter_peft.mkdir(parents=True)
    for notes in (["Only PEFT\x1b[2J reads it."], "not a list", None):
        event = Event("exported", 0.0, {"notes": notes})
        lines = foreground.result_lines(run_dir, [event])
        assert any(line.startswith("for PEFT") for line in lines)
        told = [line for line in lines if line.startswith("note")]
        assert len(told) == isinstance(notes, list)
        assert not any("\x1b" in line for line in told)
