"""The recipe commands as a user runs them: streams, exit codes and speed."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from loba_tui.core.plugins import SHIPPED
from loba_tui.core.recipe.load import check_recipe
from loba_tui.core.recipe.schema import BaseModelSection
from loba_tui.core.recipe.shipped import folder

SLIDER = str(folder() / "slider_unet.yaml")
HEAVY = {"torch", "diffusers", "transformers", "peft", "accelerate", "numpy", "rich"}


def loba(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-P", "-m", "loba_tui.cli", *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        check=False,
    )


def test_a_valid_recipe_is_said_on_stdout() -> None:
    done = loba("validate", SLIDER)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{SLIDER}: valid\n", "")


def test_problems_go_to_stderr_and_end_with_2(tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("version: 1\nlr: 1\n")
    done = loba("validate", "bad.yaml", SLIDER, "bda.yaml", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout == f"{SLIDER}: valid\n"
    keys = ", ".join(BaseModelSection.model_fields)
    assert done.stderr.splitlines() == [
        f"bad.yaml:1:1: base_model: missing; expected a section ({keys})",
        "bad.yaml:1:1: method: missing; expected a section (name, concepts, preserve, watch)",
        "bad.yaml:2:1: lr: not a key of a recipe. Did you mean optimizer.lr?",
        "bda.yaml: there is no such file. Did you mean bad.yaml?",
    ]


def test_json_is_one_document_on_stdout(tmp_path: Path) -> None:
    done = loba("validate", SLIDER, "--set", "train.stepz=1", "--json")
    assert done.returncode == 2
    (report,) = json.loads(done.stdout)
    assert report["valid"] is False
    (problem,) = report["problems"]
    assert (problem["key"], problem["suggestion"]) == ("train.stepz", "steps")


def test_a_token_ends_with_8_and_is_not_shown(tmp_path: Path) -> None:
    token = "hf_" + "Ab1" * 12
    (tmp_path / "bad.yaml").write_text(f"version: 1\nname: {token}\n")
    done = loba("validate", "bad.yaml", cwd=tmp_path)
    assert done.returncode == 8
    assert token not in done.stderr + done.stdout
    assert "Traceback" not in done.stderr


def test_new_writes_a_recipe_that_validates_and_never_overwrites(tmp_path: Path) -> None:
    assert loba("recipe", "new", "mine", cwd=tmp_path).stdout == "mine.yaml\n"
    assert check_recipe(tmp_path / "mine.yaml", plugins=SHIPPED) == []
    again = loba("recipe", "new", "mine", cwd=tmp_path)
    assert again.returncode == 2
    assert "exists already" in again.stderr
    unwritable = loba("recipe", "new", "mine", "--out", "no/such/folder.yaml", cwd=tmp_path)
    assert unwritable.returncode == 4
    assert "Traceback" not in unwritable.stderr


def test_schema_prints_json() -> None:
    assert json.loads(loba("recipe", "schema").stdout)["title"] == "Recipe"


def test_migrate_writes_a_recipe_that_validates(tmp_path: Path) -> None:
    (tmp_path / "old.yaml").write_text("pretrained_model: builtin:shapes-xl  # base\nlr: 1e-4\n")
    told = loba("validate", "old.yaml", cwd=tmp_path)
    assert "loba recipe migrate old.yaml" in told.stderr
    done = loba("recipe", "migrate", "old.yaml", cwd=tmp_path)
    assert done.returncode == 0
    assert "  id: builtin:shapes-xl  # base\n" in done.stdout
    assert loba("recipe", "migrate", "old.yaml", "--out", "new.yaml", cwd=tmp_path).returncode == 0
    assert (tmp_path / "new.yaml").read_text() == done.stdout
    assert loba("validate", "new.yaml", cwd=tmp_path).returncode == 0


def test_migrate_tells_what_is_wrong_with_the_result(tmp_path: Path) -> None:
    (tmp_path / "old.yaml").write_text("pretrained_model: x\nlr: fast\n")
    done = loba("recipe", "migrate", "old.yaml", cwd=tmp_path)
    assert done.returncode == 2
    assert "lr: fast" in done.stdout
    assert "optimizer.lr: expected a number greater than 0, got 'fast'" in done.stderr


@pytest.mark.parametrize("command", [[], ["validate"], ["recipe", "new"], ["recipe", "migrate"]])
def test_help_shows_an_example(command: list[str]) -> None:
    done = loba(*command, "--help")
    assert done.returncode == 0
    assert "Example: loba" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "seconds"),
    [(["--help"], 0.35), (["validate", SLIDER], 0.5)],
    ids=["help", "validate"],
)
def test_a_command_is_quick_and_loads_nothing_heavy(arguments: list[str], seconds: float) -> None:
    # Half as much again: other work on the machine costs CPU time too. The best of three counts.
    used = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert loba(*arguments).returncode == 0
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        used.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(used) <= 1.5 * seconds
    code = (
        f"import sys; sys.argv = ['loba', *{arguments!r}]\n"
        "from loba_tui.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print(*sys.modules)"
    )
    listed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**os.environ}
    )
    assert not HEAVY & set(listed.stdout.splitlines()[-1].split())
