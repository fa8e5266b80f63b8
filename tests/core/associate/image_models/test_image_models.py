"""Readers of images against transformers' own outputs, and against LPIPS' formula written out."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from tiny_image_models import save_random_vgg, save_tiny_clip, save_tiny_dino
from transformers import CLIPTokenizer
from transformers.models.bit.image_processing_pil_bit import BitImageProcessorPil
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from loba_tui.core.associate.image_models.clip import Clip
from loba_tui.core.associate.image_models.dino import Dino
from loba_tui.core.associate.image_models.lpips import Lpips, channel_weights
from loba_tui.core.associate.image_models.pixels import Processor
from loba_tui.core.errors import CorruptError

CPU = torch.device("cpu")
TEXTS = ["a large red circle", "a dark square on a gray background", ""]


def images_of(height: int, width: int, num: int = 3) -> np.ndarray:
    return np.random.default_rng(0).random((num, height, width, 3)).astype(np.float32)


def pictures(images: np.ndarray) -> list[Image.Image]:
    return [Image.fromarray(np.rint(image * 255).astype(np.uint8)) for image in images]


@pytest.mark.parametrize(("height", "width"), [(32, 32), (40, 57), (61, 30), (12, 12), (224, 300)])
@pytest.mark.parametrize("size", [{"shortest_edge": 24}, {"height": 20, "width": 30}])
@pytest.mark.parametrize("crop", [24, 17, 33])
def test_pixels_are_those_of_transformers_processor(tmp_path, height, width, size, crop):
    theirs = CLIPImageProcessorPil(size=size, crop_size={"height": crop, "width": crop})
    theirs.save_pretrained(tmp_path)
    images = images_of(height, width)
    wanted = theirs(pictures(images), return_tensors="pt").pixel_values
    mine = Processor.read(tmp_path / "preprocessor_config.json")(images)
    assert mine.shape == wanted.shape
    assert torch.allclose(mine, wanted, atol=1e-5, rtol=0)


def test_a_processor_of_2021_gives_its_sides_as_numbers(tmp_path):
    config = {"size": 24, "crop_size": 24, "do_center_crop": True, "do_resize": True}
    config |= {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.2, 0.3], "resample": 3}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(config))
    images = images_of(30, 50)
    wanted = CLIPImageProcessorPil(**config)(pictures(images), return_tensors="pt").pixel_values
    mine = Processor.read(tmp_path / "preprocessor_config.json")(images)
    assert torch.allclose(mine, wanted, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "change",
    [
        {"size": {"shortest_edge": 10**9}},
        {"size": {"shortest_edge": -1}},
        {"image_std": [0, 1, 1]},
        {"image_mean": [0.5]},
        {"resample": 99},
        {"crop_size": "big"},
    ],
)
def test_a_processor_that_no_image_fits_is_refused(tmp_path, change):
    theirs = CLIPImageProcessorPil().to_dict() | {"do_center_crop": True} | change
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(theirs, default=str))
    with pytest.raises(CorruptError, match="preprocessor_config"):
        Processor.read(tmp_path / "preprocessor_config.json")


def test_clip_is_transformers_own(tmp_path):
    model = save_tiny_clip(tmp_path)
    images = images_of(40, 30, num=70)  # more than a batch
    processor = CLIPImageProcessorPil.from_pretrained(tmp_path)
    pixels = processor(pictures(images), return_tensors="pt")
    tokens = CLIPTokenizer.from_pretrained(tmp_path)(TEXTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        output = model(pixel_values=pixels.pixel_values, **tokens)
    clip = Clip(tmp_path, CPU)
    assert torch.allclose(clip.of_images(images), output.image_embeds, atol=1e-5, rtol=0)
    assert torch.allclose(clip.of_texts(TEXTS), output.text_embeds, atol=1e-5, rtol=0)


def test_a_text_longer_than_the_context_is_cut(tmp_path):
    save_tiny_clip(tmp_path)
    clip = Clip(tmp_path, CPU)
    assert clip.of_texts(["red " * 50]).isfinite().all()


def test_dino_is_transformers_own(tmp_path):
    model = save_tiny_dino(tmp_path)
    images = images_of(40, 52)
    processor = BitImageProcessorPil.from_pretrained(tmp_path)
    pixels = processor(pictures(images), return_tensors="pt").pixel_values
    with torch.no_grad():
        wanted = F.normalize(model(pixel_values=pixels).pooler_output, dim=-1)
    assert torch.allclose(Dino(tmp_path, CPU).of_images(images), wanted, atol=1e-5, rtol=0)


def lpips_by_the_paper(
    state: dict[str, torch.Tensor], image: np.ndarray, other: np.ndarray
) -> float:
    """Equation 1 of arXiv 1801.03924, in float64, written from torchvision's layer numbers."""
    shift, scale = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])

    def features(pixels: np.ndarray) -> list[torch.Tensor]:
        x = torch.from_numpy(pixels).double() * 2 - 1
        x = ((x - shift) / scale).permute(2, 0, 1)[None]
        found = []
        for number in range(30):
            if number in (4, 9, 16, 23):
                x = F.max_pool2d(x, 2, 2)
            elif f"features.{number}.weight" in state:
                weight, bias = (
                    state[f"features.{number}.{n}"].double() for n in ("weight", "bias")
                )
                x = F.conv2d(x, weight, bias, padding=1).clamp(min=0)
            if number in (3, 8, 15, 22, 29):
                found.append(x)
        return found

    total = 0.0
    for one, two, weights in zip(features(image), features(other), channel_weights(), strict=True):
        one, two = (each / each.norm(dim=1, keepdim=True).clamp(min=1e-10) for each in (one, two))
        squared = ((one - two) ** 2)[0] * weights.double()[:, None, None]
        total += float(squared.sum(0).mean())
    return total


def test_lpips_is_the_papers_distance(tmp_path):
    torch.manual_seed(0)
    state = save_random_vgg(tmp_path)
    images = images_of(32, 40)
    found = Lpips(tmp_path, CPU).to_one(images, images[1])
    wanted = [lpips_by_the_paper(state, image, images[1]) for image in images]
    assert found.tolist() == pytest.approx(wanted, abs=1e-5)
    assert found[1] < 1e-9
    assert min(found[0], found[2]) > 1e-3


def test_the_channel_weights_are_those_that_were_published():
    weights = channel_weights()
    assert [len(each) for each in weights] == [64, 128, 256, 512, 512]
    assert all(bool((each >= 0).all()) for each in weights)


def test_weights_of_another_model_are_corrupt(tmp_path):
    save_tiny_clip(tmp_path / "clip")
    save_tiny_dino(tmp_path / "dino")
    with pytest.raises(CorruptError, match="Dinov2Model"):
        Dino(tmp_path / "clip", CPU)
    with pytest.raises(CorruptError, match="VGG-16"):
        Lpips(tmp_path / "dino", CPU)
