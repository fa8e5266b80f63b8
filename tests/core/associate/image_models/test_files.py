"""Where the files of image models are from: the cache by commit, the hub over HTTP, a folder."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from hub_client import talking_to
from hub_server import COMMIT, serve
from tiny_image_models import save_tiny_clip

from loba_tui.core.associate.image_models.files import find_files, to_download
from loba_tui.core.errors import RecipeError, RefusedError, ResourceError
from loba_tui.core.recipe.measure_models import MeasureModel

CLIP = MeasureModel("clip", "me/clip", COMMIT)


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("clip")
    save_tiny_clip(folder)
    (folder / "pytorch_model.bin").write_bytes(b"never fetched")
    (folder / "open_clip_model.safetensors").write_bytes(b"never fetched")
    return folder


def test_what_is_read_is_fetched_by_its_commit_and_then_taken_from_the_cache(
    clip_folder, tmp_path, monkeypatch
):
    told: list[tuple[int, int]] = []
    with serve({"me/clip": clip_folder}) as hub, talking_to(hub, tmp_path, monkeypatch):
        folder = find_files(CLIP, lambda done, total: told.append((done, total)))
        first = list(hub.requested)
        assert find_files(CLIP) == folder
        assert list(hub.requested) == first
        assert to_download(CLIP) is None
    assert folder.name == COMMIT
    found = {path.name for path in folder.iterdir()}
    assert {"model.safetensors", "config.json", "tokenizer.json"} <= found
    assert not found & {"pytorch_model.bin", "open_clip_model.safetensors"}
    fetched = [path for path in first if "/resolve/" in path]
    assert fetched
    assert all(COMMIT in path for path in fetched)
    assert max(told)[0] == max(told)[1] > 0


def test_without_hub_and_files_one_sentence_says_what_is_needed(clip_folder, tmp_path, monkeypatch):
    with serve({"me/clip": clip_folder}) as hub:
        pass
    with talking_to(hub, tmp_path, monkeypatch), pytest.raises(ResourceError) as caught:
        find_files(CLIP)
    assert caught.value.exit_code == 4
    message = caught.value.message
    assert message.startswith(f"proof.measure.model: me/clip at {COMMIT[:12]} is not in the cache")
    assert message.count(". ") == 0
    assert f"hf download me/clip --revision {COMMIT}" in caught.value.hint


@pytest.mark.parametrize(
    ("missing", "error", "phrase"),
    [
        ("model.safetensors", RefusedError, "pickle"),
        ("preprocessor_config.json", RecipeError, "preprocessor_config.json"),
        ("tokenizer.json", RecipeError, "tokenizer.json"),
    ],
)
def test_a_repository_or_folder_that_lacks_a_file_is_refused(
    clip_folder, tmp_path, monkeypatch, missing, error, phrase
):
    copy = tmp_path / "copy"
    shutil.copytree(clip_folder, copy)
    (copy / missing).unlink()
    (copy / "open_clip_model.safetensors").unlink()
    with pytest.raises(error, match=phrase):
        find_files(MeasureModel("clip", str(copy)))
    with (
        serve({"me/clip": copy}) as hub,
        talking_to(hub, tmp_path / "home", monkeypatch),
        pytest.raises(error, match=phrase),
    ):
        find_files(CLIP)


def test_a_model_of_another_architecture_is_refused_by_its_type(clip_folder):
    with pytest.raises(RecipeError, match="is of the type clip, not dinov2"):
        find_files(MeasureModel("dino", str(clip_folder)))


def test_a_folder_that_is_not_there_is_said_so():
    with pytest.raises(RecipeError, match="there is no folder"):
        find_files(MeasureModel("clip", "./no/such/folder"))


def test_the_size_of_known_models_is_told_before_they_are_fetched(tmp_path, monkeypatch):
    with serve({}) as hub, talking_to(hub, tmp_path, monkeypatch):
        known = to_download(MeasureModel("dino", "facebook/dinov2-base", COMMIT))
        unknown = to_download(MeasureModel("dino", "me/dino", COMMIT))
        assert not hub.requested
    assert known is not None
    assert known.num_bytes == 4 * 86_580_480
    assert unknown is not None
    assert unknown.num_bytes is None
