"""`loba erase`: from a list of words to adapters and what they cost."""

from __future__ import annotations

from pathlib import Path

import pytest
from loba_command import Loba

WORDS = "erase,guide,retain,watch\nred,blue,orange,purple\npink,blue,circle,\n"


@pytest.fixture
def loba(tmp_path: Path) -> Loba:
    (tmp_path / "colors.csv").write_text(WORDS)
    return Loba(tmp_path)


def test_a_list_becomes_a_recipe_that_is_valid_and_is_never_written_over(loba: Loba) -> None:
    found = loba("erase", "colors.csv", "--write", "colors.yaml", "--rank", "2", "--place", "a {}")
    assert (found.returncode, found.stdout) == (0, "colors.yaml\n")
    assert "2 words to erase, 2 retained, 1 watched" in found.stderr
    assert loba("validate", "colors.yaml").returncode == 0
    assert (
        'target: "{before}red", neutral: "{before}blue", vary: {before: ["a "]}'
        in (loba.place / "colors.yaml").read_text()
    )
    again = loba("erase", "colors.csv", "--write", "colors.yaml")
    assert again.returncode == 2
    assert "exists already" in again.stderr


@pytest.mark.slow
def test_a_list_is_erased_by_one_command(loba: Loba) -> None:
    drawn = ["--set", "sample.prompts=[a red circle]", "--set", "sample.steps=2"]
    found = loba("erase", "colors.csv", "--adapters", "2", *drawn)
    assert found.returncode == 0, found.stderr
    for told in ("costs.csv", "adapter-1of2.safetensors", "Of the change of 2 concepts", "watched"):
        assert told in found.stdout
    (adapter,) = loba.place.glob("output/colors-*/adapter")
    names = {path.name for path in adapter.iterdir()}
    assert {"adapter-2of2.kohya.safetensors", "costs.png", "report.json"} <= names


def test_a_list_that_contradicts_itself_starts_nothing(loba: Loba) -> None:
    (loba.place / "colors.csv").write_text(WORDS.replace("orange", "red"))
    found = loba("erase", "colors.csv")
    assert found.returncode == 2
    assert "'red' is to be erased (line 2) and stands under retain" in found.stderr
    assert not (loba.place / "output").exists()
