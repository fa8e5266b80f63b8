"""One file of a repository as a base model, over real HTTP on localhost."""

from __future__ import annotations

from pathlib import Path

import pytest
from file_headers import ORDINARY, write_header
from hub_locating import locate_in_child
from hub_server import COMMIT, serve

from loba_tui.core.associate.caches.hub.usage import usage_of
from loba_tui.core.names import file_in_repository, repository_of
from loba_tui.core.run.directory import Ledger


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    repository, home = tmp_path_factory.mktemp("files"), tmp_path_factory.mktemp("home")
    shapes = {**ORDINARY["sdxl"], "model.diffusion_model.label_emb.0.0.weight": [8, 8]}
    write_header(repository / "model.safetensors", shapes)
    write_header(repository / "other.safetensors", shapes)
    cases = [
        ("me/files:model.safetensors", None),
        ("me/files:modle.safetensors", None),
        ("me/files", None),
        ("me/files:../model.safetensors", None),
    ]
    with serve({"me/files": repository}) as hub:
        found, _ = locate_in_child(hub.endpoint, home, cases)
        requested = list(hub.requested)
    again, _ = locate_in_child(hub.endpoint, home, cases[:1])
    return found, requested, again, home


def test_only_that_file_is_fetched_at_its_commit(answers):
    found, requested, again, home = answers
    assert found[0]["revision"] == COMMIT
    fetched = [path for path in requested if "/resolve/" in path]
    assert fetched
    assert all(path.endswith(f"{COMMIT}/model.safetensors") for path in fetched)
    assert [path.name for path in Path(home).rglob("*.safetensors")] == ["model.safetensors"]
    assert again == found[:1]  # the hub is gone by then


def test_a_wrong_name_says_what_there_is(answers):
    found = answers[0]
    assert found[1]["exit_code"] == 2
    assert "model.safetensors" in found[1]["text"]
    assert "name that: me/files:" in found[2]["text"]
    assert found[3]["exit_code"] in (2, 8)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("me/files:model.safetensors", ("me/files", "model.safetensors")),
        ("me/files:sub/model.SAFETENSORS", ("me/files", "sub/model.SAFETENSORS")),
        ("me/files", None),
        ("me/files:model.ckpt", None),
        ("me/files:../x.safetensors", None),
        ("C:/models/x.safetensors", None),
        ("https://host/x.safetensors", None),
        ("a/b/c:x.safetensors", None),
        ("/abs:x.safetensors", None),
    ],
)
def test_a_file_of_a_repository_is_told_from_other_ids(text, expected):
    assert file_in_repository(text) == expected
    assert repository_of(text) == (expected[0] if expected else text)


def test_a_recipe_needs_the_repository_of_its_file(tmp_path):
    recipe = tmp_path / "a.yaml"
    recipe.write_text("base_model: {id: 'me/files:model.safetensors'}\n")
    found = usage_of(Ledger(tmp_path / "none"), [recipe]).recipes
    assert [use.folder for use in found] == ["models--me--files"]
