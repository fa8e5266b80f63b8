"""Grids of images: one that lies in another is cut out of it and not drawn a second time."""

from pathlib import Path

import numpy as np
import pytest
from program_runs import events, new_run, run_here, shape_slider

from loba_tui.core.program.sampling import run_strips
from loba_tui.core.program.sampling.recipe_images import DrawnGrid, Grid

WHOLE = Grid(("a", "b", "c"), (1, 2), (-1.0, 0.0, 1.0, 2.0))


def test_a_part_has_its_own_images_in_its_own_order() -> None:
    images = np.arange(24, dtype=np.float32).reshape(3, 2, 4, 1, 1, 1)
    part = Grid(["c", "a"], [2], [2, -1])
    assert part.lies_in(WHOLE)
    found = DrawnGrid(WHOLE, images).part(part)
    assert found.shape == (2, 1, 2, 1, 1, 1)
    assert found.flatten().tolist() == [23, 20, 7, 4]


@pytest.mark.parametrize(
    "other", [Grid("ad", (1,), (0,)), Grid("a", (3,), (0,)), Grid("a", (1,), (3,))]
)
def test_one_with_any_image_of_its_own_does_not_lie_in_another(other: Grid) -> None:
    assert not other.lies_in(WHOLE)


def test_the_last_strip_is_cut_out_of_the_proof(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = []

    def draw_grid(*_parts: object, **_settings: object) -> None:
        drawn.append(1)
        raise RuntimeError("not drawn")

    monkeypatch.setattr(run_strips, "draw_grid", draw_grid)
    sample = {"prompts": ["a shape"], "seeds": [1], "scales": [-1, 1], "steps": 1}
    for seeds, strips in (([2, 1], 0), ([2], 1)):
        recipe = shape_slider(
            1,
            sample=sample,
            train={"steps": 1, "efficacy_every": 0},
            proof={"prompts": ["a circle", "a shape"], "seeds": seeds},
        )
        run_dir = run_here(recipe, new_run(recipe, tmp_path))
        assert len(drawn) == strips
        assert len(events(run_dir, "sampled")) == 1 - strips
        assert run_dir.sample_strip(1).is_there() == (not strips)
