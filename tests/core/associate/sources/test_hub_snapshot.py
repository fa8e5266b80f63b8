"""The hub over real HTTP, on localhost: huggingface_hub reads its endpoint when it is imported, so
each case of server and cache is a process of its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hub_client import talking_to
from hub_locating import locate_in_child
from hub_server import COMMIT, Fault, Hub, serve

from loba_tui.core.associate.sources.hub_snapshot import fetch_snapshot
from loba_tui.core.errors import Interrupted


@pytest.fixture(scope="module")
def visited(
    tiny_sdxl_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Hub, Path, list[dict[str, Any]], str]:
    """A hub that was visited once, and is gone: hub, cache, answers and stderr."""
    home = tmp_path_factory.mktemp("hub-home")
    plain = tmp_path_factory.mktemp("plain")
    (plain / "adapter.safetensors").write_bytes(b"")
    (tiny_sdxl_folder / "sd_xl_single_file.safetensors").write_bytes(b"never fetched")
    cases = [
        ("me/tiny", None),
        ("me/tiny", "nope"),
        ("me/plain", None),
        ("gated/model", None),
        ("me/missing", None),
    ]
    with serve({"me/tiny": tiny_sdxl_folder, "me/plain": plain}) as hub:
        answers, stderr = locate_in_child(hub.endpoint, home, cases)
    (tiny_sdxl_folder / "sd_xl_single_file.safetensors").unlink()
    return hub, home, answers, stderr


def test_a_branch_is_pinned_to_its_commit(visited):
    _, _, answers, _ = visited
    assert answers[0]["revision"] == COMMIT
    assert Path(answers[0]["folder"]).name == COMMIT


def test_only_the_pipeline_is_fetched_and_by_commit(visited, tiny_sdxl_folder):
    hub, _, answers, _ = visited
    fetched = [path for path in hub.requested if "/resolve/" in path]
    assert fetched
    assert all(COMMIT in path for path in fetched)
    assert not any("single_file" in path for path in fetched)
    weights = "unet/diffusion_pytorch_model.safetensors"
    assert (Path(answers[0]["folder"]) / weights).read_bytes() == (
        tiny_sdxl_folder / weights
    ).read_bytes()


def test_a_download_prints_nothing(visited):
    assert visited[3] == ""


@pytest.mark.parametrize(
    ("index", "phrases"),
    [
        (1, ["no revision 'nope'"]),
        (2, ["not a diffusers pipeline", "model_index.json"]),
        (3, ["gated", "hf auth login"]),
        (4, ["me/missing", "no such folder", "builtin:", "hf auth login"]),
    ],
)
def test_what_the_hub_refuses_is_a_recipe_error_that_helps(visited, index, phrases):
    answer = visited[2][index]
    assert answer["exit_code"] == 2
    for phrase in phrases:
        assert phrase in answer["text"]


@pytest.mark.parametrize("environment", [{}, {"HF_HUB_OFFLINE": "1"}], ids=["down", "offline"])
def test_without_the_hub_the_cache_is_taken_and_said_so(visited, environment):
    hub, home, answers, _ = visited
    cases = [("me/tiny", None), ("me/tiny", COMMIT), ("me/other", None)]
    cached, stderr = locate_in_child(hub.endpoint, home, cases, **environment)
    assert cached[0] == cached[1] == answers[0]
    assert "taken from the cache" in stderr
    assert cached[2]["exit_code"] == 4
    assert "cannot be reached" in cached[2]["text"]


def test_an_incomplete_copy_is_not_taken_for_the_model(visited, tmp_path):
    hub, home, answers, _ = visited
    unet = Path(answers[0]["folder"]) / "unet"
    hidden = tmp_path / "unet"
    unet.rename(hidden)
    try:
        (answer,), _ = locate_in_child(hub.endpoint, home, [("me/tiny", None)])
    finally:
        hidden.rename(unet)
    assert answer["exit_code"] == 4
    assert "not complete" in answer["text"]


@pytest.fixture
def small_model(tmp_path: Path) -> Path:
    model = tmp_path / "model"
    (model / "unet").mkdir(parents=True)
    index = {"_class_name": "P", "unet": ["diffusers", "U"]}
    (model / "model_index.json").write_text(json.dumps(index))
    (model / "unet/weights.safetensors").write_bytes(b"0123456789" * 5_000)
    return model


def test_fetching_tells_how_far_it_is(small_model, tmp_path, monkeypatch):
    told: list[tuple[int, int]] = []
    with serve({"me/small": small_model}) as hub, talking_to(hub, tmp_path, monkeypatch):
        fetch_snapshot(
            "me/small", None, None, hint="", on_fetch=lambda done, total: told.append((done, total))
        )
    assert max(told) == (50_000, 50_000)
    assert {total for _, total in told} == {50_000}


@pytest.mark.parametrize("part", ["model_index", "weights", "/api/"])
def test_a_busy_hub_is_asked_again(small_model, tmp_path, monkeypatch, part):
    with serve({"me/small": small_model}) as hub, talking_to(hub, tmp_path, monkeypatch):
        hub.faults = [Fault(part, "status", 503), Fault(part, "status", 502)]
        folder, _ = fetch_snapshot("me/small", None, None, hint="")
        assert not [fault for fault in hub.faults if fault.times]
    assert (folder / "unet/weights.safetensors").is_file()


def test_a_stop_ends_the_fetching_and_keeps_what_came(small_model, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 1000)

    def stop(done: int, total: int) -> None:
        if done > 20_000:
            raise Interrupted("asked to")

    with serve({"me/small": small_model}) as hub, talking_to(hub, tmp_path, monkeypatch):
        with pytest.raises(Interrupted):
            fetch_snapshot("me/small", None, None, hint="", on_fetch=stop)
        (partial,) = (tmp_path / "hub").glob("models--me--small/blobs/*.incomplete")
        there = partial.stat().st_size
        assert 15_000 < there < 50_000
        folder, _ = fetch_snapshot("me/small", None, None, hint="")
        assert hub.downloads("weights")[-1].range == f"bytes={there}-"
    assert (folder / "unet/weights.safetensors").read_bytes() == b"0123456789" * 5_000
