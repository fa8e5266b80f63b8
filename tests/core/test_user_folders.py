"""Each kind of folder is found by one rule, and the hub's by its client's."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from loba_tui.core.errors import ResourceError
from loba_tui.core.user_folders import (
    FolderKind,
    hub_cache_folder,
    tensors_folder,
    user_folder,
    user_folder_if_any,
)


@pytest.mark.parametrize(
    ("kind", "variable", "default"),
    [
        ("config", "XDG_CONFIG_HOME", ".config"),
        ("cache", "XDG_CACHE_HOME", ".cache"),
        ("state", "XDG_STATE_HOME", ".local/state"),
    ],
)
def test_a_folder_is_where_the_xdg_specification_says(
    kind: FolderKind, variable: str, default: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert user_folder({variable: "/x"}, kind) == Path("/x/loba")
    for environ in ({}, {variable: "relative"}, {variable: ""}):
        assert user_folder(environ, kind) == tmp_path / default / "loba"


def test_a_user_without_a_home_is_told_what_to_set(monkeypatch: pytest.MonkeyPatch):
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", no_home)
    with pytest.raises(ResourceError, match="no home folder") as caught:
        user_folder({}, "state")
    assert caught.value.hint == "Set XDG_STATE_HOME to a folder."
    assert user_folder_if_any({}, "cache") is None
    assert tensors_folder({}) is None


def test_kept_tensors_are_elsewhere_or_nowhere_where_the_user_says_so():
    assert tensors_folder({"LOBA_CACHE": "off", "XDG_CACHE_HOME": "/x"}) is None
    assert tensors_folder({"LOBA_CACHE": "/fast", "XDG_CACHE_HOME": "/x"}) == Path("/fast/tensors")
    assert tensors_folder({"XDG_CACHE_HOME": "/x"}) == Path("/x/loba/tensors")


def test_the_hubs_cache_is_where_its_client_looks_for_it():
    found: Mapping[str, Mapping[str, str]] = {
        "/a": {"HF_HUB_CACHE": "/a", "HF_HOME": "/b"},
        "/c": {"HUGGINGFACE_HUB_CACHE": "/c"},
        "/b/hub": {"HF_HOME": "/b"},
        "/x/huggingface/hub": {"XDG_CACHE_HOME": "/x"},
        "/y/hub": {"HF_HOME": "$BIG/${SUB}", "BIG": "", "SUB": "y"},
        str(Path.home() / ".cache/huggingface/hub"): {},
    }
    for path, environ in found.items():
        assert hub_cache_folder(environ) == Path(path)
