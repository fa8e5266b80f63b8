"""Configurations are strangers' files: whatever is in them, a recipe comes out or one sentence."""

from __future__ import annotations

import json
import os
import random
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from import_files import FILES, TOKEN, copied, imported, left

from loba_tui.client.recipes.imports.registry import (
    Imported,
    foreign_problem,
    import_recipe,
    recognised,
)
from loba_tui.client.recipes.imports.shell import read_shell
from loba_tui.client.recipes.imports.sources import find_named, read_foreign
from loba_tui.client.recipes.imports.written import table_lines
from loba_tui.core.errors import LobaError, RecipeError
from loba_tui.core.plugins import SHIPPED
from loba_tui.core.recipe.load import check_text
from loba_tui.core.recipe.yaml_tree import read_tree

HOSTILE: tuple[Any, ...] = (
    None, True, -1, 0, 10**400, 1e400, float("nan"), "", "x" * 5000, "\x1b[2J\x07", "\ud800",
    "{a", "a\nb: c\n# d", "../../etc/passwd", [], [[]], {}, {"a": {"b": []}}, [None, {"x": 1}],
    "$HOME", "1e999", "￥", "\u202eabc", TOKEN, "/dev/zero", "a: 'b", "--flag", "\0",
)  # fmt: skip


def _plain(path: Path) -> Any:
    text = path.read_text("utf-8")
    if path.suffix == ".json":
        return json.loads(text)
    if path.suffix == ".toml":
        return tomllib.loads(text)
    return read_tree(text, str(path))[0].plain()


def _places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    items: Any = ()
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    for key, item in items:
        yield (*path, key)
        yield from _places(item, (*path, key))


def _changed(value: Any, path: tuple[Any, ...], hostile: Any) -> Any:
    if not path:
        return hostile
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = _changed(value[path[0]], path[1:], hostile)
    return copy


def _imported_or_told(paths: list[Path]) -> Imported | None:
    try:
        return import_recipe(paths, [], SHIPPED)
    except LobaError as error:
        told = str(error)
    assert told
    assert TOKEN not in told
    return None


CASES = [
    path
    for path in sorted(FILES.glob("*/*"))
    if path.suffix in (".json", ".yaml", ".toml") and "prompts" not in path.name
]


@pytest.mark.parametrize("path", CASES, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_any_value_in_any_place_makes_a_valid_recipe_or_one_sentence(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = copied(path.parent.name, tmp_path)
    values = _plain(path)
    chance = random.Random(path.name)
    places = list(_places(values))
    file = folder / "changed.json"
    others = [each for each in folder.iterdir() if each.name != path.name]
    for _ in range(8):
        text = json.dumps(_changed(values, chance.choice(places), chance.choice(HOSTILE)))
        file.write_text(text, "utf-8")
        found = _imported_or_told([file, *others])
        if found is None:
            continue
        assert check_text(found.text, "found", plugins=SHIPPED) == []
        assert TOKEN not in found.text + "\n".join(table_lines(found.draft))
        assert all(letter.isprintable() or letter == "\n" for letter in found.text)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("deep.json", b'{"job":' + b"[" * 100_000),
        ("deep2.json", b'{"job":1,"config":' + b'{"process":' * 500 + b"1" + b"}" * 501),
        ("deep.toml", b"a = " + b"[" * 20_000),
        ("dots.toml", b"a." * 60_000 + b"a = 1"),
        ("run.toml", b"a" * 250_000),
        ("lines", b"\n" * 200_000 + b"x"),
        ("spaces.sh", b" " * 250_000 + b"x"),
        ("words.sh", b"A=" + b"x" * 1000 + b"\n" + b"$A " * 80_000),
        ("many.toml", b"x = 1\n" * 2),
        ("bomb.yaml", b"a: &a [x, x]\n" + b"".join(
            b"%c: &%c [*%c, *%c]\n" % (98 + i, 98 + i, 97 + i, 97 + i) for i in range(20))),
        ("tag.yaml", b"pretrained_model: !!python/object/apply:os.system [ls]\nnetwork: {}\n"),
        ("binary.toml", bytes(range(256)) * 10),
        ("large.yaml", b"# x\n" * 200_000),
        ("empty.yaml", b""),
        ("digits.json", b'{"network_dim":' + b"9" * 10_000 + b"}"),
        ("quote.sh", b"accelerate launch train_network.py --network_dim 'x\n"),
        ("double.sh", b"A=aa\n" + b"A=$A$A\n" * 60 + b"train_network.py --network_dim $A\n"),
        ("list.yaml", b"- 1\n- 2\n"),
        ("text.txt", b"hello\n"),
    ],
)  # fmt: skip
def test_a_broken_file_is_one_sentence(name: str, content: bytes, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    began = time.process_time()
    with pytest.raises(LobaError) as caught:
        import_recipe([path], [], SHIPPED)
    assert time.process_time() - began < 5
    assert caught.value.exit_code == 2
    foreign_problem(path)  # raises nothing


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes")
def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")
    assert recognised(tmp_path / "pipe.yaml") is None
    with pytest.raises(RecipeError, match="cannot be used"):
        read_foreign(tmp_path / "pipe.yaml")
    with pytest.raises(RecipeError, match="no such file"):
        read_foreign(tmp_path / "none.yaml")


def test_a_file_that_a_configuration_names_is_read_from_its_own_folder_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "there").mkdir()
    (tmp_path / "secret.txt").write_text("a secret\n")
    (tmp_path / "here" / "own.txt").write_text("own\n")
    (tmp_path / "here" / ".own.txt").write_text("hidden\n")
    (tmp_path / "here" / "link.txt").symlink_to(tmp_path / "secret.txt")
    monkeypatch.chdir(tmp_path / "there")
    config = tmp_path / "here" / "config.toml"
    assert find_named("far/away/own.txt", config) == tmp_path / "here" / "own.txt"
    for wanted in (
        "../secret.txt",
        str(tmp_path / "secret.txt"),
        "link.txt",
        "a\0b",
        "/etc/passwd",
        ".own.txt",
    ):
        assert find_named(wanted, config) is None


def test_tokens_are_dropped_and_said_without_being_shown(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    key = "0123456789abcdef" * 2
    config.write_text(
        'pretrained_model_name_or_path = "x"\ntrain_data_dir = "y"\nnetwork_dim = 4\n'
        f'wandb_api_key = "{key}"\nhuggingface_token = "{TOKEN}"\noutput_name = "{TOKEN}"\n'
    )
    _, found = imported([config], "--wandb_api_key", key, "--seed", "5")
    shown = found.text + "\n".join(table_lines(found.draft))
    assert {"wandb_api_key", "huggingface_token", "output_name"} <= set(left(found))
    assert key not in shown
    assert TOKEN not in shown
    assert found.draft.values["train.seed"] == 5


def test_a_script_is_read_and_nothing_of_it_is_run(tmp_path: Path) -> None:
    shell = read_shell(
        "X=$(touch made)\nDIR='C:\\my files'\n"
        'python train_network.py --train_data_dir "$DIR" --lr=1 --seed -1 --flag `touch made`\n'
    )
    flags = shell.flags()
    assert flags["train_data_dir"] == "C:\\my files"
    assert (flags["lr"], flags["seed"]) == ("1", "-1")
    assert not (tmp_path / "made").exists()
