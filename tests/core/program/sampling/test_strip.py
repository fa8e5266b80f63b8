import numpy as np
import pytest

from loba_tui.core.program.sampling.strip import ACCENT, strip


def images(num_prompts=2, num_seeds=2, num_scales=3, side=32):
    colors = np.linspace(0.2, 0.8, num_prompts * num_seeds * num_scales)
    shape = (num_prompts, num_seeds, num_scales)
    return np.tile(colors.reshape(*shape, 1, 1, 1), (1, 1, 1, side, side, 3))


def test_every_image_is_on_the_sheet_in_order():
    pictures = images()
    sheet = np.array(
        strip(pictures, scales=(-1, 0, 1), prompts=["a", "b"], seeds=[1, 2]).convert("L")
    )
    wanted = (pictures[..., 0, 0, 0] * 255 + 0.5).astype(int)
    places = [[np.argwhere(sheet == gray) for gray in row] for row in wanted.reshape(4, 3)]
    assert all(len(found) >= 96 * 96 for row in places for found in row)
    lefts = np.array([[np.median(found[:, 1]) for found in row] for row in places])
    tops = np.array([[np.median(found[:, 0]) for found in row] for row in places])
    assert (np.diff(lefts, axis=1) > 0).all()
    assert (np.diff(tops, axis=0) > 0).all()


def test_only_scale_zero_is_framed():
    def accents(scales):
        sheet = strip(images(1, 1, 2), scales=scales, prompts=["a"], seeds=[1])
        return int((np.array(sheet) == ACCENT).all(-1).sum())

    assert accents((0, 1)) > 100
    assert accents((1, 2)) == 0


@pytest.mark.parametrize("side", [8, 32, 100, 1024])
def test_tiny_images_are_enlarged_and_large_ones_reduced(side):
    sheet = strip(images(1, 1, 2, side), scales=(0, 1), prompts=["a"], seeds=[1])
    assert 100 < sheet.height < 400


def test_long_and_foreign_prompts_fit():
    prompts = ["wörter " * 100, "x" * 500]
    short = strip(images(2, 1), scales=(-1, 0, 1), prompts=["a", "\x1b[31mb"], seeds=[1])
    assert strip(images(2, 1), scales=(-1, 0, 1), prompts=prompts, seeds=[1]).size == short.size
