"""`~` and `~user` in paths: the home folder, or a sentence where there is none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from loba_tui import cli
from loba_tui.core.associate.model_shapes import find_configuration
from loba_tui.core.associate.sources.locate import locate
from loba_tui.core.associate.sources.one_file import find_vae, given_folder
from loba_tui.core.errors import RecipeError
from loba_tui.core.plugins import SHIPPED
from loba_tui.core.program.data.items import source_path
from loba_tui.core.recipe.load import load_recipe
from loba_tui.core.recipe.shipped import folder
from loba_tui.core.run.directory import RunDir
from loba_tui.core.user_folders import hub_cache_folder, tensors_folder, with_home


@pytest.mark.parametrize(
    "use",
    [
        with_home,
        locate,
        source_path,
        lambda path: find_vae(f"{path}/vae"),
        lambda path: given_folder(path),
        lambda path: find_configuration(path, None),
        lambda path: RunDir.open(path),
        lambda path: hub_cache_folder({"HF_HOME": path}),
        lambda path: tensors_folder({"LOBA_CACHE": path}),
        lambda path: load_recipe(
            folder() / "slider_unet.yaml", [f"adapter.init_from={path}/a"], plugins=SHIPPED
        ),
    ],
)
def test_a_home_that_this_machine_does_not_know_is_a_mistake(use: Callable[[str], Any]) -> None:
    with pytest.raises(RecipeError, match="knows no home folder of ~nobody-of-that-name") as caught:
        use("~nobody-of-that-name/x")
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    "arguments",
    [
        ["adapter", "show", "{}"],
        ["extract", "{}", "{}", "--out", "x.safetensors"],
        ["extract", "a", "b", "--out", "{}"],
        ["merge", "a", "b", "--out", "{}"],
        ["bench", "--json", "{}"],
        ["run", "slider_unet", "--set", "adapter.init_from={}"],
    ],
)
def test_such_a_home_on_the_command_line_ends_with_2(arguments: list[str]) -> None:
    path = "~nobody-of-that-name/x.safetensors"
    done = CliRunner().invoke(cli.app, [each.format(path) for each in arguments])
    assert done.exit_code == 2, done.output
    assert "~nobody-of-that-name" in done.stderr


def test_a_known_home_is_put_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/of/me")
    assert with_home("~/x") == Path("/home/of/me/x")
    assert with_home("a/~b") == Path("a/~b")
