"""No access token is written down, wherever it comes from."""

from __future__ import annotations

import io
import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from loba_tui.core.redact import REDACTED, RedactingStream, Redactor
from loba_tui.core.run.directory import RunDir
from loba_tui.core.run.writer import RunWriter

CANARY = "canary-4711-not-like-any-token"
HUB_TOKEN = "hf_" + "x" * 34
RECIPE = """\
version: 1
name: canary
base_model: {id: "builtin:shapes-xl"}
method:
  name: text_slider
  rollout_steps: 3
  concepts: [{target: a circle, positive: a large circle, negative: a small circle}]
train: {steps: 3, batch_size: 1}
save: {every: 2}
sample: {steps: 1, scales: [-1, 1]}
proof: {seeds: [1]}
"""


def test_what_looks_like_a_token_is_taken_out():
    assert Redactor().text(f"url?token={HUB_TOKEN}&x") == f"url?token={REDACTED}&x"
    assert Redactor().text("no secret here: hf_short") == "no secret here: hf_short"


def test_secrets_of_the_environment_are_taken_out_whatever_they_look_like():
    redactor = Redactor.of(
        {"HF_TOKEN": CANARY, "WANDB_API_KEY": "key-of-12345", "HOME": "/home/me"}
    )
    assert redactor.text(f"{CANARY} key-of-12345 /home/me") == f"{REDACTED} {REDACTED} /home/me"


def test_a_switch_is_no_secret():
    assert Redactor.of({"HF_HUB_DISABLE_IMPLICIT_TOKEN": "1"}).text("step 1") == "step 1"


def test_values_keep_their_types():
    value = {"a": [1, 2.5, None, True, f"x {HUB_TOKEN}"], HUB_TOKEN: Path("/tmp/x")}
    redacted = Redactor().value(value)
    assert redacted == {"a": [1, 2.5, None, True, f"x {REDACTED}"], REDACTED: Path("/tmp/x")}


def test_a_stream_writes_no_secret():
    stream = io.StringIO()
    print(f"Authorization: Bearer {HUB_TOKEN}", file=RedactingStream(stream, Redactor()))
    assert stream.getvalue() == f"Authorization: Bearer {REDACTED}\n"


def test_events_and_status_hold_no_secret(tmp_path: Path):
    run_dir = RunDir.create(tmp_path, "run")
    with RunWriter.open(run_dir, Redactor([CANARY])) as writer:
        writer.event("failed", message=f"401 for {HUB_TOKEN}", traceback=f"…{CANARY}…")
        writer.status(phase="failed", why=CANARY)
    written = run_dir.events.path.read_text() + run_dir.status.path.read_text()
    assert CANARY not in written
    assert HUB_TOKEN not in written
    assert REDACTED in written


@pytest.mark.parametrize("fails", [False, True])
def test_no_file_of_a_real_run_holds_the_token(tmp_path: Path, fails: bool):
    """A canary in the environment, and in an exception's own text, is in no file of the run."""
    recipe = RECIPE
    if fails:
        # The name of a folder that is not there is echoed by the error.
        recipe = RECIPE.replace("builtin:shapes-xl", f"./{CANARY}/model")
    (tmp_path / "r.yaml").write_text(recipe)
    environ = {
        **os.environ,
        "HF_TOKEN": CANARY,
        "HF_HUB_OFFLINE": "1",
        "XDG_STATE_HOME": str(tmp_path / "state"),
        "OMP_NUM_THREADS": "1",
    }
    run_dir = RunDir.create(tmp_path / "runs", "canary")
    # As the resolved recipe of a run: what the user wrote himself is his own to keep.
    run_dir.recipe.path.write_text(recipe)
    command = [sys.executable, "-P", "-m", "loba_tui.core.program.main", "--run-dir"]
    with run_dir.log.path.open("wb") as log:
        ended = subprocess.run(
            [*command, str(run_dir.path)],
            env=environ,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=tmp_path,
            timeout=300,
            check=False,
        )
    assert ended.returncode == (2 if fails else 0), run_dir.log.path.read_text()
    files = [
        path for path in run_dir.path.rglob("*") if path.is_file() and path != run_dir.recipe.path
    ]
    assert len(files) > (3 if fails else 12)
    for path in files:
        content = path.read_bytes()
        assert CANARY.encode() not in content, path
    if fails:
        kinds = [json.loads(line)["event"] for line in run_dir.events.path.read_text().splitlines()]
        assert "failed" in kinds
        assert REDACTED in run_dir.events.path.read_text()
        assert REDACTED in run_dir.log.path.read_text()
    for path in [run_dir.path, *run_dir.path.rglob("*")]:
        if path not in (run_dir.recipe.path, run_dir.log.path):  # written by this test
            assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path
