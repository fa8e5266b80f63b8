"""The shipped data sets are what their script draws."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from loba_tui.models import builtin_data, builtin_data_names
from loba_tui.models.draw_data import SETS, main, write_set


def test_every_set_is_shipped() -> None:
    assert builtin_data_names() == sorted(SETS)
    assert builtin_data("sizes/small") is not None
    assert builtin_data("sizes/none") is None
    assert builtin_data("sizes/..") is None


@pytest.mark.parametrize("name", sorted(SETS))
def test_a_shipped_set_is_what_the_script_draws(name: str, tmp_path: Path) -> None:
    shipped = builtin_data(name)
    assert shipped is not None
    drawn = write_set(name, tmp_path)
    files = sorted(path.relative_to(drawn) for path in drawn.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(shipped) for path in shipped.rglob("*.*"))
    images = [path for path in files if path.suffix == ".png" and "masks" not in path.parts]
    assert 16 <= len(images) <= 32
    for path in files:
        if path.suffix == ".png":  # packed files may differ with the library that packs them
            with Image.open(drawn / path) as one, Image.open(shipped / path) as other:
                assert np.array_equal(np.asarray(one), np.asarray(other))
        else:
            assert (drawn / path).read_bytes() == (shipped / path).read_bytes()


def test_the_command_names_the_sets(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path), "no-such-set"]) == 2
    assert "blueprints" in capsys.readouterr().err
    assert main([str(tmp_path), "sizes"]) == 0
    assert (tmp_path / "sizes" / "small" / "metadata.jsonl").is_file()
