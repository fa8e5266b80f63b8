"""What each entry point really loads, seen from a fresh process."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

TORCH_STACK = {"torch", "diffusers", "transformers", "peft", "accelerate"}
TERMINAL = {"textual", "typer", "rich"}
PROGRAM = "loba_tui.core.program"

TELL = "import json, sys; print(json.dumps(sorted(sys.modules)))"
COMMAND = """
import contextlib, io, sys
from loba_tui.cli import main
sys.argv = ["loba", *{arguments!r}]
with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
    main()
"""


def modules_after(code: str, cwd: Path | None = None) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\n{TELL}"],
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=True,
    )
    return set(json.loads(done.stdout.splitlines()[-1]))


def shipped(name: str) -> str:
    from loba_tui.core.recipe import shipped

    return str(shipped.folder() / f"{name}.yaml")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["run", "--help"],
        ["run", "no-such-recipe"],
        ["validate", shipped("slider")],
        ["recipe", "schema"],
        ["plugins", "ls", "--json"],
        ["runs", "ls"],
        ["cache", "ls"],
        ["tui"],
    ],
    ids=" ".join,
)
def test_commands_load_neither_the_torch_stack_nor_the_program(
    arguments: list[str], tmp_path: Path
) -> None:
    loaded = modules_after(COMMAND.format(arguments=arguments), tmp_path)
    assert not loaded & TORCH_STACK
    assert not any(name == PROGRAM or name.startswith(f"{PROGRAM}.") for name in loaded)


def test_help_loads_no_terminal_toolkit_but_typer(tmp_path: Path) -> None:
    loaded = modules_after(COMMAND.format(arguments=["--help"]), tmp_path)
    assert not loaded & {"rich", "textual", "pydantic", "ruamel"}


@pytest.mark.parametrize("package", ["recipe.load", "run.reader", "run.launch", "plugins"])
def test_the_shared_core_loads_no_torch_stack_and_no_terminal(package: str) -> None:
    loaded = modules_after(f"import loba_tui.core.{package}")
    assert not loaded & (TORCH_STACK | TERMINAL)


def test_recipe_and_run_do_not_load_each_other() -> None:
    assert "loba_tui.core.run" not in modules_after("import loba_tui.core.recipe.load")
    assert "loba_tui.core.recipe" not in modules_after(
        "import loba_tui.core.run.launch, loba_tui.core.run.reader, loba_tui.core.run.control"
    )


def test_listing_packages_of_the_program_loads_nothing_heavy() -> None:
    loaded = modules_after("import loba_tui.core.program, loba_tui.core.associate.caches")
    assert not loaded & TORCH_STACK


@pytest.mark.slow
def test_the_program_loads_no_terminal_toolkit() -> None:
    modules = ["train", "training.trainer", "build", "finish", "main"]
    code = "\n".join(f"import {PROGRAM}.{module}" for module in modules)
    loaded = modules_after(code)
    assert "torch" in loaded
    assert not loaded & {"textual", "typer"}
    assert "loba_tui.cli" not in loaded


def test_the_programs_entry_is_up_before_torch_is() -> None:
    assert not modules_after(f"import {PROGRAM}.main") & TORCH_STACK


def test_the_dashboard_loads_no_torch_stack() -> None:
    code = """
from loba_tui.app import LobaApp
from loba_tui.screens.registry import SCREENS
for entry in SCREENS:
    entry.load()
"""
    loaded = modules_after(code)
    assert "textual" in loaded
    assert not loaded & TORCH_STACK
    assert not any(name.startswith(PROGRAM) for name in loaded)
