"""Names, records and metadata draw nothing on the terminal and forge no line of any command."""

from __future__ import annotations

import json
import os
import pty
import shutil
import struct
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
from loba_command import COMMAND, COMMAND_WITH_STAND_IN, Loba, slider_recipe

from loba_tui.core.run.directory import Ledger, RunDir

pytestmark = pytest.mark.slow

EVIL = "evil\x1b[2J\x1b]0;t\x07\x9b31m\u202e\x7f\nFORGED line\r\nFORGED two\u2028FORGED three\x85x"
RUN = "foreign"
BADLY_NAMED = f"run{EVIL}"
PLACE = "place"


def plain_and_honest(text: str) -> None:
    assert "Traceback" not in text, text
    kept = text.replace("\n", "").replace("\t", "")
    assert kept.isprintable(), ascii(text)
    assert not [line for line in text.split("\n") if line.lstrip().startswith("FORGED")], text


def adapter(path: Path, recipe: str) -> None:
    header = {
        "__metadata__": {"loba.recipe": recipe, "loba.merged": EVIL, EVIL: EVIL, "loba.step": EVIL},
        f"unet.{EVIL}.lora_A.weight": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]},
    }
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"x")


@pytest.fixture(scope="module")
def loba(tmp_path_factory: pytest.TempPathFactory) -> Loba:
    place = tmp_path_factory.mktemp("hostile") / PLACE
    place.mkdir()
    quoted = json.dumps(EVIL)
    (place / "evil.yaml").write_text(
        slider_recipe("fine", model=f"{{id: {quoted}, revision: {quoted}}}")
        + f"{quoted}: {quoted}\noptimizer: {{name: {quoted}}}\n"
    )
    (place / f"named{EVIL}.yaml").write_text(slider_recipe("fine", model=f"{{id: {quoted}}}"))
    (place / "old.yaml").write_text(f"pretrained_model: {quoted}\nnosuch: {quoted}\n")
    runs = RunDir(place / "output" / RUN)
    runs.path.mkdir(parents=True)
    (runs.path / "recipe.yaml").write_text((place / f"named{EVIL}.yaml").read_text())
    status = {"phase": EVIL, "step": 1, "total": 2, "heartbeat": 1.0, "pid": 1, "host": EVIL}
    (runs.path / "status.json").write_text(json.dumps({**status, EVIL: EVIL}))
    events = [
        {"event": kind, "time": 1.0, "message": EVIL, "path": EVIL, "device": EVIL, EVIL: EVIL}
        for kind in ("built", "warning", "saved", "steered", "failed", EVIL)
    ]
    (runs.path / "events.jsonl").write_text("".join(json.dumps(e) + "\n" for e in events))
    (runs.path / "log.txt").write_text(f"a log {EVIL}".translate({10: 32, 13: 32}) + "\n")
    (runs.path / "origin.json").write_text(json.dumps({"recipe": EVIL}))
    (runs.path / "report.json").write_text(json.dumps({"outcome": EVIL, "verdict": [EVIL]}))
    runs.path.joinpath("adapter").mkdir()
    adapter(runs.path / "adapter" / "adapter.safetensors", EVIL)
    adapter(place / f"stranger{EVIL}.safetensors", slider_recipe("fine") + f"# {EVIL}")
    hub = place / "hub" / f"models--a--b{EVIL}"
    (hub / "snapshots" / ("c" * 40)).mkdir(parents=True)
    (hub / "snapshots" / ("c" * 40) / f"f{EVIL}").write_text("x")
    (hub / "refs").mkdir()
    (hub / "refs" / f"main{EVIL}").write_text("c" * 40)
    plugins = place / "config" / "loba" / "plugins" / "losses"
    plugins.mkdir(parents=True, mode=0o700)
    (plugins / "evil.py").write_text(f'"""{EVIL.encode("unicode_escape").decode()}"""\n')
    environ = {
        "HF_HUB_CACHE": str(place / "hub"),
        "HF_HUB_OFFLINE": "1",
        "XDG_CONFIG_HOME": str(place / "config"),
        "XDG_CACHE_HOME": str(place / "cache"),
        "PYTHONIOENCODING": "utf-8",
    }
    made = Loba(place, COMMAND_WITH_STAND_IN, **environ)
    shutil.copytree(runs.path, place / "output" / BADLY_NAMED)
    for name in (RUN, BADLY_NAMED):
        Ledger.of_user(made.environ).register(RunDir(place / "output" / name))
    return made


STRANGER = f"stranger{EVIL}.safetensors"
NAMED = f"named{EVIL}.yaml"
COMMANDS: Sequence[Sequence[str]] = [
    ("validate", "evil.yaml", NAMED, EVIL),
    ("validate", "evil.yaml", NAMED, EVIL, "--json"),
    ("validate", NAMED, f"--{EVIL}"),
    ("run", "evil.yaml"),
    ("run", NAMED, "--detach", "--set", f"{EVIL}={EVIL}"),
    ("run", NAMED),
    ("run", f"hub://a/b/{EVIL}"),
    ("runs", "ls"),
    ("runs", "ls", "--json"),
    ("runs", "show", f"output/{RUN}"),
    ("runs", "show", f"output/{RUN}", "--json"),
    ("runs", "logs", f"output/{RUN}"),
    ("runs", "logs", f"output/{RUN}", "--json"),
    ("runs", "logs", EVIL),
    ("runs", "stop", f"output/{RUN}"),
    ("runs", "pause", f"output/{RUN}"),
    # Nothing pauses it from here on: whoever follows a paused run waits for its end.
    ("runs", "resume", f"output/{RUN}"),
    ("runs", "set", f"output/{RUN}", f"{EVIL}={EVIL}"),
    ("runs", "unload", f"output/{RUN}", EVIL),
    ("runs", "rm", f"output/{RUN}"),
    ("export", f"output/{RUN}", "--out", f"out{EVIL}.safetensors"),
    ("export", f"output/{RUN}", "--format", "kohya"),
    ("replay", STRANGER),
    ("replay", f"output/{RUN}/adapter/adapter.safetensors"),
    ("sample", STRANGER),
    ("eval", STRANGER, "--recipe", EVIL),
    ("merge", f"{STRANGER}@1", f"{EVIL}@2", "--out", f"both{EVIL}.safetensors"),
    ("interfere", f"{STRANGER}@1", f"output/{RUN}@2"),
    *((*command, f"output/{BADLY_NAMED}") for command in (("runs", "show"), ("export",))),
    ("runs", "rm", f"output/{BADLY_NAMED}"),
    ("queue", "ls"),
    ("queue", "rm", f"output/{RUN}"),
    ("push", f"output/{RUN}", "--repo", f"me/{EVIL}", "--dry-run"),
    ("cache", "ls"),
    ("cache", "ls", "--json"),
    ("cache", "verify"),
    ("cache", "rm", f"a/b{EVIL}", "--dry-run"),
    ("cache", "rm", EVIL),
    ("cache", "pin", f"a/b{EVIL}"),
    ("cache", "pull", f"a/{EVIL}", "--dry-run"),
    ("plugins", "ls"),
    ("plugins", "ls", "--json"),
    ("plugins", "show", EVIL),
    ("plugins", "trust", EVIL),
    ("plugins", "new", "losses", EVIL),
    ("recipe", "diff", NAMED, f"output/{RUN}"),
    ("recipe", "diff", "evil.yaml", EVIL),
    ("recipe", "new", EVIL),
    ("recipe", "migrate", "old.yaml"),
    ("recipe", "migrate", EVIL),
    ("tui",),
    ("tui", "--run", f"output/{RUN}"),
    ("tui", "--run", EVIL),
    (EVIL,),
]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda each: ascii(" ".join(each))[1:40])
def test_what_a_command_prints_is_plain_and_honest(loba: Loba, command: Sequence[str]) -> None:
    done = loba(*command)
    plain_and_honest(done.stdout)
    plain_and_honest(done.stderr)
    if "--json" in command and done.stdout:
        assert done.stdout.isascii()
        json.loads(done.stdout)


def test_on_a_terminal_it_is_the_same(loba: Loba) -> None:
    """A terminal gets no colours from these commands, and so no escape at all."""
    terminal, other = pty.openpty()
    command = [*COMMAND, "runs", "show", f"output/{RUN}"]
    environ = {**loba.environ, "TERM": "xterm-256color"}
    process = subprocess.Popen(
        command, stdin=other, stdout=other, stderr=other, cwd=loba.place, env=environ
    )
    os.close(other)
    written = b""
    try:
        while chunk := os.read(terminal, 65536):
            written += chunk
    except OSError:  # all of it was read and the other side is closed
        pass
    os.close(terminal)
    assert process.wait(60) == 0
    plain_and_honest(written.decode().replace("\r\n", "\n"))


@pytest.mark.parametrize("encoding", ["ascii", "latin-1:strict"])
def test_an_encoding_without_the_characters_ends_in_no_traceback(loba: Loba, encoding: str) -> None:
    poor = Loba(loba.place, COMMAND, **{**loba.environ, "LANG": "C", "PYTHONIOENCODING": encoding})
    for command in (("runs", "show", f"output/{RUN}"), ("validate", "日本.yaml"), ("--help",)):
        done = poor(*command)
        assert "Traceback" not in done.stdout + done.stderr
        assert done.stdout + done.stderr
