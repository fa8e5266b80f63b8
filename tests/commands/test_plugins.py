"""`loba plugins` as a user runs it: nothing is imported, nothing runs before it is trusted."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
from loba_command import Loba

RECIPE = """\
version: 1
base_model: {id: builtin:shapes-xl}
method:
  name: text_slider
  concepts: [{target: a shape, positive: a large shape, negative: a small shape}]
scheduler:
  timestep: {name: mine, center: 0.3}
"""
BOOM = "raise SystemExit('it was imported')\n"


class Plugging(Loba):
    """Runs the command beside a folder of the user's own drop-ins."""

    def __init__(self, place: Path) -> None:
        config = place / "config"
        super().__init__(place, timeout=60, XDG_CONFIG_HOME=str(config), HOME=str(place))
        self.folder = config / "loba" / "plugins"

    def on_a_terminal(self, answer: bytes, *arguments: str) -> subprocess.CompletedProcess[bytes]:
        parent, child = pty.openpty()
        os.write(parent, answer)
        try:
            return subprocess.run(
                [*self.command, *arguments],
                env=self.environ,
                stdin=child,
                capture_output=True,
                timeout=60,
            )
        finally:
            os.close(parent)
            os.close(child)

    def states(self) -> dict[str, str]:
        records = json.loads(self("plugins", "ls", "--json").stdout)
        return {f"{r['kind']}/{r['name']}": r["state"] for r in records if r["state"] != "shipped"}


@pytest.fixture
def loba(tmp_path: Path) -> Plugging:
    return Plugging(tmp_path)


def test_from_new_to_a_recipe_that_validates_to_a_changed_file(loba: Plugging) -> None:
    made = loba("plugins", "new", "timestep", "mine")
    assert made.returncode == 0, made.stderr
    path, test = map(Path, made.stdout.split())
    assert (path, test) == (
        loba.folder / "timestep" / "mine.py",
        loba.folder / "timestep" / "test_timestep_mine.py",
    )
    (loba.place / "recipe.yaml").write_text(RECIPE)

    told = loba("validate", "recipe.yaml")
    assert told.returncode == 8
    assert told.stderr.startswith("recipe.yaml:7:14: scheduler.timestep.name: it is not trusted")
    assert "loba plugins trust timestep/mine" in told.stderr
    assert loba("run", "recipe.yaml").returncode == 8
    assert not (loba.place / "output").exists()

    trusted = loba("plugins", "trust", "mine", "--yes")
    assert trusted.returncode == 0
    assert trusted.stdout.startswith("trusted    timestep/mine  ")
    for said in (str(path), "timestep scheduler mine", "center", "sha256"):
        assert said in trusted.stderr
    assert loba("validate", "recipe.yaml").stdout == "recipe.yaml: valid\n"

    wrong = loba("validate", "recipe.yaml", "--set", "scheduler.timestep.centre=1")
    assert wrong.returncode == 2
    assert "Did you mean center?" in wrong.stderr
    assert '"mine"' in loba("recipe", "schema").stdout

    path.write_text(path.read_text() + "\n")
    told = loba("validate", "recipe.yaml", "--json")
    assert told.returncode == 8
    assert json.loads(told.stdout)[0]["problems"][0]["refused"] is True
    assert "changed since you trusted it" in loba("validate", "recipe.yaml").stderr
    assert loba.states() == {"timestep/mine": "changed"}

    assert loba("plugins", "trust", str(path), "--yes").returncode == 0
    assert loba.states() == {"timestep/mine": "trusted"}
    assert loba("plugins", "untrust", "mine").stdout == "untrusted  timestep/mine\n"
    assert loba("validate", "recipe.yaml").returncode == 8
    assert loba("plugins", "untrust", "mine").returncode == 2


@pytest.mark.slow
def test_the_test_that_new_writes_passes_and_fails(loba: Plugging) -> None:
    path, test = map(Path, loba("plugins", "new", "timestep", "mine").stdout.split())
    command = [sys.executable, "-m", "pytest", "-q", str(test)]
    assert subprocess.run(command, env=loba.environ, capture_output=True).returncode == 0
    path.write_text(path.read_text().replace(".exp()", ""))
    failed = subprocess.run(command, env=loba.environ, capture_output=True, text=True)
    assert failed.returncode == 1
    assert "a weight is negative" in failed.stdout


def test_trust_asks_on_a_terminal_and_refuses_without_one(loba: Plugging) -> None:
    loba("plugins", "new", "losses", "mine")
    refused = loba("plugins", "trust")
    assert refused.returncode == 8
    assert "--yes" in refused.stderr
    assert loba.states() == {"losses/mine": "untrusted"}
    assert loba.on_a_terminal(b"n\n", "plugins", "trust").returncode == 0
    assert loba.states() == {"losses/mine": "untrusted"}
    assert b"trusted    losses/mine" in loba.on_a_terminal(b"y\n", "plugins", "trust").stdout
    assert loba.states() == {"losses/mine": "trusted"}
    again = loba("plugins", "trust")
    assert (again.returncode, again.stdout) == (0, "")


def test_everything_in_the_folder_is_listed_and_nothing_is_imported(loba: Plugging) -> None:
    loba("plugins", "new", "losses", "mine")
    folder = loba.folder / "losses"
    texts = {
        "boom": f'"""Bad \x1b[31mred."""\n{BOOM}def get_loss(**cfg): ...\n',
        "mse": BOOM,
        "broken": "def get_loss(:\n",
        "empty": "",
        "open": "def get_loss(): ...\n",
    }
    for name, text in texts.items():
        (folder / f"{name}.py").write_text(text)
        (folder / f"{name}.py").chmod(0o666 if name == "open" else 0o600)
    assert loba.states() == {
        "losses/mine": "untrusted",
        "losses/boom": "untrusted",
        "losses/mse": "shadowed",
        "losses/broken": "broken",
        "losses/empty": "broken",
        "losses/open": "unsafe",
    }
    listed = loba("plugins", "ls", "losses")
    assert listed.returncode == 0
    assert "\x1b" not in listed.stdout
    shown = loba("plugins", "show", "losses", "boom")
    assert "further options of any name, which cannot be checked" in shown.stdout
    assert json.loads(loba("plugins", "show", "boom", "--json").stdout)["takes_any_option"]
    for name, code, said in (
        ("mse", 2, "mse.py to use it"),
        ("broken", 2, "broken.py:1"),
        ("open", 8, "chmod go-w"),
        ("adamw", 2, "needs no trust"),
        ("mien", 2, "Did you mean mine?"),
        ("elsewhere.py", 2, "copy it"),
    ):
        told = loba("plugins", "trust", name, "--yes")
        assert (told.returncode, said in told.stderr) == (code, True), told.stderr
    assert loba("plugins", "show", "losses/mse").stdout.startswith("losses/mse\n\n")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("timestep", "uniform"), "cannot be replaced"),
        (("timestp", "mine"), "Did you mean timestep?"),
        (("timestep", "test_mine"), "cannot be the name"),
        (("timestep", "../mine"), "cannot be the name"),
    ],
)
def test_new_makes_no_file_that_could_not_be_used(
    loba: Plugging, arguments: tuple[str, str], said: str
) -> None:
    told = loba("plugins", "new", *arguments)
    assert told.returncode == 2
    assert said in told.stderr
    assert not list(loba.place.rglob("*.py"))


def test_new_never_overwrites(loba: Plugging) -> None:
    loba("plugins", "new", "noise", "mine")
    again = loba("plugins", "new", "noise", "mine")
    assert again.returncode == 2
    assert "exists already" in again.stderr
