"""`loba recipe import`, and the commands that name it where they meet another tool's file."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from import_files import TOKEN, copied
from loba_command import Loba

from loba_tui.core.plugins import SHIPPED
from loba_tui.core.recipe.load import check_recipe


def loba(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return Loba(cwd)(*arguments)


def test_a_recipe_is_written_and_what_was_left_is_a_table(tmp_path: Path) -> None:
    folder = copied("sliders", tmp_path)
    done = loba("recipe", "import", "config.yaml", "--out", "recipe.yaml", cwd=folder)
    assert (done.returncode, done.stdout) == (0, "recipe.yaml\n")
    assert "their key" in done.stderr
    assert "logging.use_wandb" in done.stderr
    assert check_recipe(folder / "recipe.yaml", plugins=SHIPPED) == []
    again = loba("recipe", "import", "config.yaml", "--out", "recipe.yaml", cwd=folder)
    assert again.returncode == 2
    assert "exists already" in again.stderr


def test_without_out_the_recipe_is_on_stdout_and_the_table_is_not(tmp_path: Path) -> None:
    words = ("--pretrained_model_name_or_path", "m", "--train_data_dir", "d", "--network_dim", "4")
    done = loba("recipe", "import", "--", *words, "--huggingface_token", TOKEN, cwd=tmp_path)
    assert done.returncode == 0
    assert "  rank: 4\n" in done.stdout
    assert "their key" not in done.stdout
    assert "huggingface_token" in done.stderr
    assert TOKEN not in done.stdout + done.stderr


@pytest.mark.parametrize(
    "command", [["validate"], ["run"], ["plan"], ["recipe", "migrate"]], ids=" ".join
)
def test_a_foreign_file_is_named_with_the_command_for_it(
    command: list[str], tmp_path: Path
) -> None:
    folder = copied("leco", tmp_path)
    done = loba(*command, "config.yaml", cwd=folder)
    assert done.returncode == 2
    assert done.stderr.strip() == (
        "config.yaml: this looks like a configuration of Concept Sliders or LECO;"
        " turn it into a recipe with: loba recipe import config.yaml"
    )


def test_what_is_no_tools_file_keeps_its_own_message(tmp_path: Path) -> None:
    (tmp_path / "list.yaml").write_text("- a\n- b\n")
    told = loba("validate", "list.yaml", cwd=tmp_path)
    assert "expected a section" in told.stderr
    refused = loba("recipe", "import", "list.yaml", cwd=tmp_path)
    assert refused.returncode == 2
    assert "Known are: ai-toolkit" in refused.stderr
    assert "Traceback" not in refused.stderr + told.stderr
