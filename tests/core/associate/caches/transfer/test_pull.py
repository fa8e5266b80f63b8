"""`loba cache pull` with the real client, against a hub on loopback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_layouts import listing
from hub_server import COMMIT, Fault, Hub, serve

from loba_tui.core.associate.caches.hub.cache import HubCache

LOBA = "from loba_tui.cli import main; main()"


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    pipeline = tmp_path_factory.mktemp("pipeline")
    index = {"_class_name": "P", "unet": ["diffusers", "U"], "vae": ["diffusers", "V"]}
    (pipeline / "model_index.json").write_text(json.dumps(index))
    for component in ("unet", "vae"):
        (pipeline / component).mkdir()
        (pipeline / component / "config.json").write_text("{}")
        for variant in ("", ".fp16"):
            weights = pipeline / component / f"diffusion_pytorch_model{variant}.safetensors"
            weights.write_bytes(os.urandom(3000 if variant else 6000))
    (pipeline / "single_file.safetensors").write_bytes(b"never fetched")
    adapter = tmp_path_factory.mktemp("adapter")
    (adapter / "slider.safetensors").write_bytes(b"weights")
    (adapter / "evil.pt").write_bytes(b"pickle")
    with serve({"org/pipeline": pipeline, "org/adapter": adapter}) as served:
        yield served


def loba(hub: Hub, home: Path, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", LOBA, "cache", *arguments],
        env={
            **os.environ,
            "HF_ENDPOINT": hub.endpoint,
            "HF_HOME": str(home),
            "XDG_STATE_HOME": str(home / "state"),
            "NO_PROXY": "*",
            **environ,
        },
        cwd=home,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_a_dry_run_tells_sizes_and_writes_nothing(hub, tmp_path):
    done = loba(hub, tmp_path, "pull", "org/pipeline", "--variant", "fp16", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "fp16.safetensors" in done.stdout
    assert "single_file" not in done.stdout
    assert "6.1 KB to fetch of 6.1 KB" in done.stdout
    assert not (tmp_path / "hub").exists()


def test_a_pull_fetches_what_was_chosen_and_stands_on_its_branch(hub, tmp_path):
    done = loba(hub, tmp_path, "pull", "org/pipeline", "--only", "unet")
    assert done.returncode == 0, done.stderr
    folder = Path(done.stdout.strip())
    assert folder.name == COMMIT
    assert sorted(path.name for path in folder.iterdir()) == ["model_index.json", "unet"]
    assert "[3/3]" in done.stderr
    (repository,) = HubCache(tmp_path / "hub").scan().repositories
    assert repository.refs == {"main": COMMIT}
    assert not repository.problems
    assert json.loads(loba(hub, tmp_path, "ls", "--json").stdout)[0]["marks"] == []


def test_one_file_of_a_repository_is_pulled_alone(hub, tmp_path):
    hub.requested.clear()
    done = loba(hub, tmp_path, "pull", "org/pipeline:single_file.safetensors")
    assert done.returncode == 0, done.stderr
    folder = Path(done.stdout.strip())
    assert [path.name for path in folder.iterdir()] == ["single_file.safetensors"]
    assert (folder / "single_file.safetensors").read_bytes() == b"never fetched"
    fetched = [path for path in hub.requested if "/resolve/" in path]
    assert fetched
    assert all(path.endswith("/single_file.safetensors") for path in fetched)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["org/pipeline:singel_file.safetensors"], "Did you mean single_file.safetensors?"),
        (["org/adapter:a/b/c/d/0123456789.safetensors"], "Such files in it: slider.safetensors."),
        (["org/pipeline:single_file.safetensors", "--only", "unet"], "Leave --only out."),
    ],
)
def test_a_file_that_cannot_be_pulled_is_said(hub, tmp_path, arguments, told):
    done = loba(hub, tmp_path, "pull", *arguments)
    assert done.returncode == 2
    assert told in done.stderr
    assert not (tmp_path / "hub").exists()


def test_a_second_pull_fetches_only_what_is_missing(hub, tmp_path):
    loba(hub, tmp_path, "pull", "org/pipeline", "--only", "unet")
    plan = json.loads(loba(hub, tmp_path, "pull", "org/pipeline", "--dry-run", "--json").stdout)
    missing = [file["path"] for file in plan["files"] if not file["is_there"]]
    assert missing == ["vae/config.json", "vae/diffusion_pytorch_model.safetensors"]
    hub.requested.clear()
    assert loba(hub, tmp_path, "pull", "org/pipeline").returncode == 0
    fetched = {path for path in hub.requested if "/resolve/" in path}
    assert not any("unet" in path for path in fetched)
    before = listing(tmp_path / "hub")
    assert loba(hub, tmp_path, "pull", "org/pipeline").returncode == 0
    assert listing(tmp_path / "hub") == before


def test_a_busy_hub_is_asked_for_the_index_again(hub, tmp_path):
    hub.faults = [Fault("model_index", "status", 503)]
    done = loba(hub, tmp_path, "pull", "org/pipeline", "--dry-run")
    assert done.returncode == 0, done.stderr
    assert not hub.faults.pop().times


def test_pickles_are_skipped_and_said_so(hub, tmp_path):
    done = loba(hub, tmp_path, "pull", "org/adapter")
    assert done.returncode == 0
    assert "evil.pt: a pickle" in done.stderr
    assert [path.name for path in Path(done.stdout.strip()).iterdir()] == ["slider.safetensors"]


@pytest.mark.parametrize(
    ("target", "code", "phrase"),
    [
        ("org/missing", 2, "shows no org/missing"),
        ("gated/model", 2, "hf auth login"),
        ("org/pipeline@nope", 2, "no revision 'nope'"),
        ("not a name", 2, "not a model name"),
    ],
)
def test_what_the_hub_refuses_is_explained(hub, tmp_path, target, code, phrase):
    done = loba(hub, tmp_path, "pull", target)
    assert done.returncode == code
    assert phrase in done.stderr
    assert "base_model" not in done.stderr
    assert "Traceback" not in done.stderr


def test_a_component_that_is_not_there_is_named(hub, tmp_path):
    done = loba(hub, tmp_path, "pull", "org/pipeline", "--only", "unte")
    assert done.returncode == 2
    assert "Did you mean unet" in done.stderr


def test_offline_it_says_so(hub, tmp_path):
    done = loba(hub, tmp_path, "pull", "org/pipeline", HF_HUB_OFFLINE="1")
    assert done.returncode == 4
    assert "cannot be reached" in done.stderr


def test_a_disk_that_is_too_small_is_found_before_anything_is_fetched(hub, tmp_path):
    too_small = (
        "import shutil; real = shutil.disk_usage; "
        "shutil.disk_usage = lambda p: real(p)._replace(free=1000); "
    )
    done = subprocess.run(
        [sys.executable, "-c", too_small + LOBA, "cache", "pull", "org/pipeline"],
        env={**os.environ, "HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path), "NO_PROXY": "*"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 4
    assert "1.0 KB free" in done.stderr
    assert not (tmp_path / "hub").exists()


RECIPE = """\
# My slider.
version: 1
base_model:
  id: org/pipeline      # the tiny one
  dtype: float32        # as it is
method: {name: text_slider, concepts: [{target: a, positive: b, negative: c}]}
"""


def test_the_commit_is_pinned_into_a_recipe_and_nothing_else_changes(hub, tmp_path):
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(RECIPE)
    recipe.chmod(0o640)
    done = loba(hub, tmp_path, "pull", "org/pipeline", "--only", "vae", "--pin-into", "mine.yaml")
    assert done.returncode == 0, done.stderr
    added = f"  revision: {COMMIT}\n"
    before, after = RECIPE.splitlines(True), recipe.read_text().splitlines(True)
    assert [line for line in after if line not in before] == [added]
    assert [line for line in after if line != added] == before
    assert f"+{added.rstrip()}" in done.stderr
    assert recipe.stat().st_mode & 0o777 == 0o640
    again = loba(hub, tmp_path, "pull", "org/pipeline", "--pin-into", "mine.yaml")
    assert "is that commit already" in again.stderr


def test_a_dry_run_shows_the_pinning_and_writes_nothing(hub, tmp_path):
    (tmp_path / "mine.yaml").write_text(RECIPE)
    done = loba(hub, tmp_path, "pull", "org/pipeline", "--pin-into", "mine.yaml", "--dry-run")
    assert f"+  revision: {COMMIT}" in done.stdout
    assert (tmp_path / "mine.yaml").read_text() == RECIPE


def test_a_recipe_of_another_model_is_refused_before_anything_is_fetched(hub, tmp_path):
    (tmp_path / "mine.yaml").write_text(RECIPE)
    done = loba(hub, tmp_path, "pull", "org/adapter", "--pin-into", "mine.yaml")
    assert done.returncode == 2
    assert "mine.yaml:4:7: base_model.id is" in done.stderr
    assert not (tmp_path / "hub").exists()
    assert (tmp_path / "mine.yaml").read_text() == RECIPE
