"""Parts of a base model that are on the hub: its configuration, and its VAE."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from file_headers import ORDINARY, write_header
from hub_client import talking_to
from hub_server import serve

from loba_tui.core.associate.pipeline_files import INDEX_NAME
from loba_tui.core.associate.sources.locate import locate
from loba_tui.core.associate.sources.overrides import Overrides
from loba_tui.core.errors import RecipeError


@pytest.fixture
def hub(tiny_sd_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = shutil.copytree(tiny_sd_folder, tmp_path / "repository")
    with (
        serve({"me/tiny": folder}) as hub,
        talking_to(hub, tmp_path / "home", monkeypatch),
    ):
        yield hub


def test_a_configuration_of_the_hub_is_fetched_once_and_without_weights(hub, tmp_path):
    path = write_header(tmp_path / "model.safetensors", ORDINARY["sd1"])
    found = locate(str(path), overrides=Overrides(config="me/tiny"))
    assert (found.folder / INDEX_NAME).is_file()
    assert (found.folder / "unet" / "config.json").is_file()
    assert found.file == path
    assert [name for name in hub.requested if "/resolve/" in name]
    assert not [name for name in hub.requested if name.endswith(".safetensors")]
    hub.requested.clear()
    assert locate(str(path), overrides=Overrides(config="me/tiny")) == found
    assert not hub.requested


def test_a_configuration_that_the_hub_lacks_is_said(hub, tmp_path):
    path = write_header(tmp_path / "model.safetensors", ORDINARY["sd1"])
    with pytest.raises(RecipeError, match="me/none"):
        locate(str(path), overrides=Overrides(config="me/none"))


@pytest.mark.parametrize(
    ("vae", "told"),
    [("me/vae", "loba cache pull me/vae"), ("no/such/folder", "Name a diffusers folder")],
)
@pytest.mark.parametrize("model", ["me/tiny", "me/tiny:model.safetensors", "builtin:shapes-xl"])
def test_a_vae_that_is_not_here_is_said_before_anything_is_fetched(hub, model, vae, told):
    with pytest.raises(RecipeError, match=r"base_model\.vae") as caught:
        locate(model, overrides=Overrides(vae=vae))
    assert told in caught.value.hint
    assert not hub.requested
