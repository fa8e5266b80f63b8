"""Runs on images: killed, resumed, with and without workers, they end in the same bytes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from PIL import Image
from program_runs import adapter_hashes, events, new_run, run_here

from loba_tui.core.errors import DataError, ExitCode, RecipeError
from loba_tui.core.plugins import SHIPPED
from loba_tui.core.program.adapter_files.adapter import read_adapter
from loba_tui.core.program.data.open import BAD_DATA
from loba_tui.core.recipe.load import dump_recipe, load_recipe, parse_recipe
from loba_tui.core.recipe.schema import Recipe

STEPS = 8


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for i in range(5):
        pixels = rng.integers(0, 256, size=(40, 40 + 8 * i, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
        (folder / f"{i}.txt").write_text(f"red, number, {i}")
    return folder


def recipe_on(model: Path, images: Path, **data: Any) -> Recipe:
    section = {
        "sources": [{"path": str(images)}],
        "captions": {"shuffle": True, "dropout": 0.2, "variants": 2},
        "crop": "random",
        "cache": "none",
        "flip": True,
        **data,
    }
    return parse_recipe(
        {
            "version": 1,
            "name": "test",
            "base_model": {"id": str(model), "device": "cpu"},
            "adapter": {"layers": ["cross_attention"]},
            "method": {"name": "lora_finetune"},
            "data": section,
            "noise": [{"name": "offset"}, {"name": "perturbation"}],
            "loss": {"weighting": {"name": "min_snr"}},
            "train": {"steps": STEPS, "batch_size": 2},
            "save": {"every": 2},
            "sample": {"prompts": ["red"], "scales": [0, 1], "steps": 1},
            "proof": {"enabled": False},
        },
        plugins=SHIPPED,
    )


@pytest.mark.slow
def test_killed_with_workers_and_resumed_a_run_is_that_of_one_process(
    small_sdxl_folder: Path, images: Path, tmp_path: Path
) -> None:
    alone = recipe_on(small_sdxl_folder, images)
    expected = adapter_hashes(run_here(alone, new_run(alone, tmp_path)))

    shared = recipe_on(small_sdxl_folder, images, workers=2)
    run_dir = new_run(shared, tmp_path)
    command = ["-P", "-m", "loba_tui.core.program.main", "--run-dir", str(run_dir.path)]
    program = subprocess.Popen(
        [sys.executable, *command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    # Made when training is under way, and the workers with it.
    while not (run_dir.checkpoints.path / "step-000002").exists() and program.poll() is None:
        time.sleep(0.02)
    workers = psutil.Process(program.pid).children(recursive=True) if program.poll() is None else []
    program.kill()
    program.wait()
    _, left = psutil.wait_procs(workers, timeout=30)
    assert left == [], "a worker outlived its program"

    resumed = adapter_hashes(run_here(shared, run_dir, resume=True))
    assert events(run_dir, "resumed")
    assert resumed == expected
    again = adapter_hashes(run_here(shared, new_run(shared, tmp_path)))
    assert again == expected


def test_an_adapter_carries_the_images_fingerprint_and_no_folder(
    small_sdxl_folder: Path, images: Path, tmp_path: Path
) -> None:
    recipe = recipe_on(small_sdxl_folder, images, cache="memory", crop="center")
    recipe = recipe.model_copy(update={"train": recipe.train.model_copy(update={"steps": 1})})
    run_dir = new_run(recipe, tmp_path)
    run_here(recipe, run_dir)
    _, _, metadata = read_adapter(run_dir.adapter)
    assert len(metadata["loba.data"]) == 64
    assert f"path: {images.name}" in metadata["loba.recipe"]
    assert str(images) not in metadata["loba.recipe"]
    told = events(run_dir, "data")[0]
    assert told["images"] == 5
    assert sum(told["buckets"].values()) == 5


def test_a_checkpoint_of_other_images_is_refused(
    small_sdxl_folder: Path, images: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(images, tmp_path / "images")
    recipe = recipe_on(small_sdxl_folder, folder)
    run_dir = new_run(recipe, tmp_path)
    run_here(recipe, run_dir)
    (folder / "3.txt").write_text("something else")
    with pytest.raises(RecipeError, match=r"the checkpoint is of another recipe: data\.images"):
        run_here(recipe, run_dir, resume=True)


def test_bad_data_ends_a_run_before_the_model_is_loaded_and_can_be_left_out(
    small_sdxl_folder: Path, images: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(images, tmp_path / "images")
    (folder / "2.png").write_bytes(b"")
    (folder / "4.txt").unlink()
    recipe = recipe_on(small_sdxl_folder, folder)
    run_dir = new_run(recipe, tmp_path)
    with pytest.raises(DataError) as raised:
        run_here(recipe, run_dir)
    assert raised.value.exit_code == ExitCode.DATA
    assert "2 problems in the training data" in raised.value.message
    for words in ("2.png: the file is empty", "4.png: has no caption"):
        assert words in raised.value.message
        assert words in (run_dir.path / BAD_DATA).read_text()
    assert '"event":"built"' not in run_dir.events.path.read_text().replace(" ", "")

    lenient = recipe_on(small_sdxl_folder, folder, skip_bad=True)
    skipped = new_run(lenient, tmp_path)
    run_here(lenient, skipped)
    assert events(skipped, "bad_data")[0]["count"] == 2
    assert events(skipped, "data")[0]["images"] == 3


def test_paths_are_relative_to_the_recipe_and_to_the_folder_of_a_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipes = tmp_path / "recipes"
    recipes.mkdir()
    text = (
        "version: 1\nbase_model: {id: 'builtin:shapes-xl'}\nmethod: {name: lora_finetune}\n"
        "data: {sources: [{path: cats, masks: masks}, {path: 'builtin:sizes'}]}\n"
        "sample: {prompts: [x]}\n"
    )
    (recipes / "a.yaml").write_text(text)
    monkeypatch.chdir(tmp_path)
    plain = load_recipe("recipes/a.yaml", plugins=SHIPPED)
    given = load_recipe("recipes/a.yaml", ["data.sources.0.path=dogs"], plugins=SHIPPED)
    assert plain.data is not None
    assert given.data is not None
    assert plain.data.sources[0].path == os.fspath(recipes / "cats")
    assert plain.data.sources[0].masks == os.fspath(recipes / "masks")
    assert plain.data.sources[1].path == "builtin:sizes"
    assert given.data.sources[0].path == os.fspath(tmp_path / "dogs")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": None}, "data: missing; lora_finetune trains on images"),
        ({"sample": {}}, "sample.prompts: missing; lora_finetune has no concepts"),
        (
            {"data": {"sources": [{"path": "x", "scale": 1}]}},
            "data.sources.0.scale: lora_finetune trains one strength",
        ),
        (
            {"data": {"sources": [{"path": "x"}], "crop": "random"}},
            "data.crop: random crops need cache: none",
        ),
        (
            {"method": {"name": "image_slider"}, "data": {"sources": [{"path": "x"}]}},
            "data.sources: image_slider needs at least two sources",
        ),
        (
            {
                "method": {"name": "addift"},
                "data": {"sources": [{"path": "x", "scale": 0}, {"path": "y", "scale": 0}]},
            },
            "data.sources.1.scale: at strength 0 there is nothing to train",
        ),
    ],
)
def test_what_does_not_fit_the_method_is_told(changes: dict[str, Any], message: str) -> None:
    whole: dict[str, Any] = {
        "version": 1,
        "base_model": {"id": "builtin:shapes-xl"},
        "method": {"name": "lora_finetune"},
        "data": {"sources": [{"path": "x"}]},
        "sample": {"prompts": ["x"]},
        **changes,
    }
    with pytest.raises(RecipeError) as raised:
        parse_recipe(whole, plugins=SHIPPED)
    assert message in str(raised.value)


def test_a_slider_of_prompts_says_that_it_uses_no_images_or_noise() -> None:
    concept = {"target": "a", "positive": "b", "negative": "c"}
    with pytest.raises(RecipeError) as raised:
        parse_recipe(
            {
                "version": 1,
                "base_model": {"id": "builtin:shapes-xl"},
                "method": {"name": "text_slider", "concepts": [concept]},
                "data": {"sources": [{"path": "x"}]},
                "noise": [{"name": "offset"}],
                "loss": {"weighting": {"name": "debiased"}},
            },
            plugins=SHIPPED,
        )
    told = str(raised.value)
    assert "data: text_slider trains on prompts alone" in told
    assert "noise: text_slider makes no use of it" in told
    assert "loss.weighting: text_slider makes no use of it" in told


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="needs POSIX signals")
def test_workers_leave_the_programs_signals_alone() -> None:
    from loba_tui.core.program.data.loader import in_order

    class Handlers:
        def __getitem__(self, index: int) -> list[bool]:
            numbers = (signal.SIGINT, signal.SIGUSR1)
            return [signal.getsignal(number) == signal.SIG_IGN for number in numbers]

    assert list(in_order(Handlers(), range(2), num_workers=1)) == [[True, True]] * 2


def loba(*arguments: str, home: Path) -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, "XDG_STATE_HOME": str(home), "XDG_CACHE_HOME": str(home)}
    command = [sys.executable, "-P", "-c", "from loba_tui.cli import main; main()", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environ, check=False)


@pytest.mark.slow
def test_plan_with_data_opens_everything_and_trains_nothing(images: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(images, tmp_path / "images")
    (tmp_path / "a.yaml").write_text(dump_recipe(recipe_on(Path("builtin:shapes-xl"), folder)))
    fine = loba("plan", str(tmp_path / "a.yaml"), "--data", "--json", home=tmp_path)
    assert fine.returncode == ExitCode.DONE, fine.stderr
    found = json.loads(fine.stdout)
    assert (found["images"], found["bad"]) == (5, 0)
    assert sum(found["buckets"].values()) == 5
    assert found["cut_captions"] == {}
    long = f"{'a red circle ' * 10}with an end"
    (folder / "0.txt").write_text(long)
    told = loba("plan", str(tmp_path / "a.yaml"), "--data", home=tmp_path)
    assert f"with an end' of '{long}'" in told.stdout
    (folder / "1.txt").write_bytes(b"caf\xe9")
    bad = loba("plan", str(tmp_path / "a.yaml"), "--data", home=tmp_path)
    assert bad.returncode == ExitCode.DATA
    assert "1.txt: byte 0xe9 at 3 is not UTF-8" in bad.stderr
    assert "Traceback" not in bad.stderr
