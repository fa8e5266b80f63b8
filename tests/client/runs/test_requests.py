from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from loba_tui.cli import app
from loba_tui.client.runs.requests import about_several
from loba_tui.core.errors import LobaError
from loba_tui.core.run.directory import Ledger


def test_a_request_names_files_and_strengths(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.safetensors").write_bytes(b"")
    ledger = Ledger.of_user({"XDG_STATE_HOME": str(tmp_path / "state")})
    texts = [f"{tmp_path}/a.safetensors@2", f"{tmp_path}/b.safetensors"]
    wanted = about_several("merge", texts, ledger)
    assert wanted.several == (
        (str(tmp_path / "a.safetensors"), 2.0),
        (str(tmp_path / "b.safetensors"), 1.0),
    )
    assert wanted.run is None
    with pytest.raises(LobaError):
        about_several("merge", [f"{tmp_path}/c.safetensors@2"], ledger)


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
