"""Nothing but `core.owned_files` opens what lies below a run's folder."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from loba_command import COMMAND, Loba, slider_recipe

import loba_tui
from loba_tui.core.run.directory import FileBelow, FolderBelow, RunDir

PACKAGE = Path(loba_tui.__file__).parent
# Python reports each of these with its path before it is done; a path below a run is a fault.
WATCH = """
import os, sys

ROOT, REPORT = os.environ["RUNS"], os.environ["FAULTS"]
CALLS = ("open", "os.listdir", "os.scandir", "os.mkdir", "os.rmdir", "os.remove", "os.rename",
         "os.link", "os.symlink", "os.chmod", "os.utime", "os.truncate", "shutil.rmtree",
         "shutil.copyfile")

def watch(event, arguments):
    if event not in CALLS:
        return
    for path in arguments[:2]:
        if isinstance(path, (str, bytes, os.PathLike)):
            text = os.fsdecode(path)
            # The folder of a run itself, or of a request about one, is opened by its path.
            parts = text.removeprefix(ROOT).strip("/").split("/") if text.startswith(ROOT) else []
            is_root = len(parts) < 2 or (parts[1] == "requests" and len(parts) < 4)
            if parts and not is_root:
                with_descriptor = os.open(REPORT, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
                os.write(with_descriptor, f"{event} {text} {sys.argv[:3]}\\n".encode())
                os.close(with_descriptor)

sys.addaudithook(watch)
"""
SECTIONS = """\
train: {steps: 3}
save: {every: 1, keep: 2}
sample: {prompts: [a red circle], seeds: [0], scales: [0, 1], steps: 2}
proof: {prompts: [a red circle], seeds: [0]}
"""


def test_no_command_and_no_program_opens_a_path_below_a_run(
    small_sdxl_folder: Path, tmp_path: Path
) -> None:
    watched = tmp_path / "watched"
    watched.mkdir()
    (watched / "sitecustomize.py").write_text(WATCH)
    recipe = slider_recipe("watched", model=f"{{id: {small_sdxl_folder}}}") + SECTIONS
    (tmp_path / "recipe.yaml").write_text(recipe)
    faults, runs = tmp_path / "faults", tmp_path / "output"
    loba = Loba(
        tmp_path,
        COMMAND,
        timeout=240,
        PYTHONPATH=str(watched),
        RUNS=str(runs),
        FAULTS=str(faults),
        OMP_NUM_THREADS="1",
    )
    loba.says("run", "recipe.yaml")
    (run_folder,) = runs.iterdir()
    for arguments in (
        ["runs", "ls"],
        ["runs", "show", "last"],
        ["runs", "logs", "last"],
        ["export", "last", "--format", "kohya"],
        ["sample", str(run_folder), "--scales", "0,1"],
        ["doctor", "last"],
        ["tui", "--run", "last"],
        ["replay", "last"],
        ["runs", "rm", "last", "--yes"],
    ):
        done = loba(*arguments)
        assert done.returncode == 0, (arguments, done.stderr)
    assert not faults.exists(), faults.read_text()


def test_the_watch_sees_a_path_below_a_run(tmp_path: Path) -> None:
    """So that the test above cannot pass because nothing is watched."""
    (tmp_path / "sitecustomize.py").write_text(WATCH)
    (tmp_path / "output" / "run").mkdir(parents=True)
    faults = tmp_path / "faults"
    code = f"open({str(tmp_path / 'output' / 'run' / 'log.txt')!r}, 'w')"
    environ = {"PYTHONPATH": str(tmp_path), "RUNS": str(tmp_path / "output"), "FAULTS": str(faults)}
    subprocess.run([sys.executable, "-c", code], env={**os.environ, **environ}, check=True)
    assert "log.txt" in faults.read_text()


def attributes() -> set[str]:
    return {
        name for name, value in vars(RunDir).items() if isinstance(value, FileBelow | FolderBelow)
    }


def joined_paths(tree: ast.AST) -> Iterator[ast.AST]:
    """Yield what joins a name to a run's path, or calls a method of the path of an attribute."""
    for node in ast.walk(tree):
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
            left = ast.unparse(node.left)
            if left.endswith(("run_dir.path", "run.path", "folder.path")):
                yield node
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            taken = node.func.value
            is_path = isinstance(taken, ast.Attribute) and taken.attr == "path"
            owner = taken.value if is_path and isinstance(taken, ast.Attribute) else None
            if isinstance(owner, ast.Attribute) and owner.attr in attributes():
                yield node


def test_no_code_makes_a_path_below_a_run() -> None:
    found = [
        f"{path.relative_to(PACKAGE)}:{node.lineno} {ast.unparse(node)}"
        for path in sorted(PACKAGE.rglob("*.py"))
        for node in joined_paths(ast.parse(path.read_text("utf-8")))
    ]
    assert found == []
    assert list(joined_paths(ast.parse("(run_dir.path / 'log.txt').open()")))
    assert list(joined_paths(ast.parse("run_dir.log.path.read_text()")))
