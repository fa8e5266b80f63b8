"""Whatever is printed passes the gate, in whatever pieces it comes."""

from __future__ import annotations

import io
import itertools
import logging
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loba_tui.core.output import PlainStream, RecordHandler, beneath, gated, ungated
from loba_tui.core.redact import REDACTED, Redactor

TOKEN = "hf_" + "x" * 34
SECRET = "canary-of-the-environment"
HOSTILE = "\x1b[2J\x1b]0;title\x07\x9b31m\u202e\x08\x7f\u2028\x85\r"


def written(pieces: list[str], *, is_log: bool) -> str:
    stream = io.StringIO()
    gate = PlainStream(stream, Redactor([SECRET]), is_log=is_log)
    for piece in pieces:
        gate.write(piece)
        gate.flush()
    gate.finish()
    return stream.getvalue()


@pytest.mark.parametrize("is_log", [False, True])
def test_only_plain_text_comes_through(is_log: bool) -> None:
    text = written([f"a\t{HOSTILE}b {TOKEN} {SECRET}\n"], is_log=is_log)
    assert text.replace("\n", "").replace("\t", "").isprintable()
    assert text.count(REDACTED) == 2


@settings(max_examples=200, deadline=None)
@given(cuts=st.lists(st.integers(1, 120), max_size=6))
def test_a_log_written_in_pieces_holds_no_secret_and_no_escape(cuts: list[int]) -> None:
    text = f"{SECRET} \x1b[31m {TOKEN} https://me:pass@host \x1b]0;title\x07 end\n"
    edges = [0, *sorted(cuts), len(text)]
    pieces = [text[a:b] for a, b in itertools.pairwise(edges)]
    assert written(pieces, is_log=True) == written([text], is_log=True)
    assert SECRET not in written(pieces, is_log=True)


def test_a_progress_bar_becomes_lines_of_the_log() -> None:
    assert written(["\r 1%", "\r 2%", "\r 3%\n"], is_log=True) == "\n 1%\n 2%\n 3%\n"


@pytest.mark.parametrize(
    "fake",
    ["2026-01-01 10:00:00,000 INFO saved", "  2026-01-01T10:00 x", "ERROR: no", "[WARNING] x"],
)
def test_a_printed_line_that_looks_like_a_record_is_marked(fake: str) -> None:
    assert written([f"model a\n{fake}\nnext\n"], is_log=True) == f"model a\n  | {fake}\nnext\n"


def test_a_message_with_line_ends_is_one_record(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", PlainStream(stream, Redactor([SECRET]), is_log=True))
    logger = logging.getLogger("a stranger's")
    logger.propagate = False
    logger.addHandler(RecordHandler())
    print("unfinished", end="", file=sys.stderr)
    logger.warning("the model\n2026-01-01 10:00:00,000 INFO done\x1b[2J %s", SECRET)
    try:
        raise ValueError("a\n2026-01-01 10:00:00,000 INFO fake")
    except ValueError:
        logger.exception("it failed")
    lines = stream.getvalue().splitlines()
    assert lines[0] == "unfinished"
    assert lines[1].endswith("WARNING the model")
    assert lines[2] == f"  | 2026-01-01 10:00:00,000 INFO done {REDACTED}"
    assert lines[3].endswith("ERROR it failed")
    assert all(line.startswith("  | ") for line in lines[4:])
    assert any("INFO fake" in line for line in lines[4:])


def test_threads_do_not_end_each_others_lines() -> None:
    stream = io.StringIO()
    gate = PlainStream(stream, Redactor(), is_log=True)

    def work(name: str) -> None:
        for _ in range(200):
            for part in (name, name, name, "\n"):
                gate.write(part)

    threads = [threading.Thread(target=work, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {line[0] * 3 for line in stream.getvalue().splitlines()} == {"aaa", "bbb", "ccc", "ddd"}
    assert all(len(line) == 3 for line in stream.getvalue().splitlines())


def test_bytes_have_no_way_around_the_gate() -> None:
    gate = PlainStream(io.TextIOWrapper(io.BytesIO()), Redactor())
    for name in ("buffer", "detach", "reconfigure"):
        assert not hasattr(gate, name)
    with pytest.raises(TypeError):
        gate.write(b"\x1b[2J")  # type: ignore[arg-type]


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_what_an_encoding_does_not_have_is_escaped(encoding: str) -> None:
    raw = io.BytesIO()
    gate = PlainStream(io.TextIOWrapper(raw, encoding=encoding), Redactor())
    gate.write("σ \ud800 日本\n")
    gate.flush()
    assert raw.getvalue().decode(encoding) in ("\\u03c3  \\u65e5\\u672c\n", "σ  日本\n")


def test_the_gate_is_taken_away_again(capsys: pytest.CaptureFixture[str]) -> None:
    before = sys.stdout, sys.stderr
    with gated({"A_TOKEN": SECRET}):
        print(f"{HOSTILE}{SECRET}")
        print("draws \x1b[2K", file=beneath(sys.stderr))
        with ungated():
            print("bar\r")
    assert (sys.stdout, sys.stderr) == before
    out, err = capsys.readouterr()
    assert out == f" {REDACTED}\nbar\r\n".replace(" [", "   [")
    assert err == "draws \x1b[2K\n"


PRINTS = r"""
import sys, warnings
from loba_tui.core.output import start_log
start_log({"A_TOKEN": "canary-of-the-environment"})
print("\x1b[2Jcanary-of-the-environ", end=""); sys.stdout.flush(); print("ment")
warnings.warn("w\x9b31m")
print("the last words", end="")
raise SystemExit("bye\n2026-01-01 10:00:00,000 INFO fake")
"""


def test_a_process_keeps_its_log_plain_to_its_last_word(tmp_path: Path) -> None:
    with (tmp_path / "log.txt").open("wb") as log:
        environ = {**os.environ, "LANG": "C", "PYTHONIOENCODING": "ascii"}
        command = [sys.executable, "-c", PRINTS]
        subprocess.run(command, stdout=log, stderr=log, env=environ, check=False, timeout=60)
    text = (tmp_path / "log.txt").read_text("ascii")
    assert "canary" not in text
    assert REDACTED in text
    assert "the last words\n" in text
    assert "\n  | 2026-01-01 10:00:00,000 INFO fake" in text
    assert text.replace("\n", "").isprintable()
