"""`loba bench` from the command to the figures, with the real program."""

import json
from pathlib import Path

import pytest
from loba_command import Loba, slider_recipe

pytestmark = pytest.mark.slow


def test_a_recipe_is_measured_and_shared(tmp_path: Path, small_sdxl_folder: Path) -> None:
    loba = Loba(tmp_path, timeout=300)
    (tmp_path / "mine.yaml").write_text(
        slider_recipe("mine", model=f"{{id: {small_sdxl_folder}, device: cpu, threads: 1}}")
    )
    short = ["--quick", "--minutes", "0.1", "--try", "optimizer.name=sgd"]
    done = loba("bench", "mine.yaml", *short, "--share", "--json", "figures.json")
    assert done.returncode == 0, done.stderr
    assert str(tmp_path) not in done.stdout
    assert "random weights" in done.stdout
    assert "as the recipe says" in done.stderr, "each row is told as soon as it is there"
    found = json.loads((tmp_path / "figures.json").read_text())
    assert found["version"] == 1
    own, other = found["configurations"]
    assert own["seconds_per_step"]["median"] > 0
    assert other["name"] == "optimizer.name: sgd"
    assert not list(tmp_path.glob("output")), "nothing is left behind"


def test_what_does_not_fit_the_recipe_is_said_at_once(tmp_path: Path) -> None:
    loba = Loba(tmp_path)
    (tmp_path / "mine.yaml").write_text(slider_recipe("mine"))
    done = loba("bench", "mine.yaml", "--try", "train.batch_sice=4")
    assert done.returncode == 2
    assert "batch_size" in done.stderr
