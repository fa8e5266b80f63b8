import pytest
from transformers import AutoTokenizer

from loba_tui.core.associate.containers.prompt_truncation import tokenizer_of
from loba_tui.core.associate.containers.tokenizers import (
    check_tokenizer,
    make_clip_tokenizer,
    open_tokenizer,
)
from loba_tui.core.associate.sources.shipped import KNOWN, shipped_folder
from loba_tui.core.errors import CorruptError

PUBLISHED = {
    "a photo of a cat": [49406, 320, 1125, 539, 320, 2368, 49407],
    "hello, world": [49406, 3306, 267, 1002, 49407],
    "": [49406, 49407],
}
"""Ids that CLIP's own tokenizer gives."""


@pytest.fixture(scope="module")
def clip():
    return make_clip_tokenizer()


def test_the_numbers_are_clip_s(clip):
    assert len(clip) == 49408
    assert clip.model_max_length == 77
    for prompt, ids in PUBLISHED.items():
        assert clip(prompt).input_ids == ids
    check_tokenizer(clip, vocabulary=49408, positions=77, what="it")


def test_it_is_the_one_that_is_read_from_its_files(clip, tmp_path):
    clip.save_pretrained(tmp_path)
    saved = AutoTokenizer.from_pretrained(tmp_path)
    prompts = ["très 日本 don't!! it's 100%", "x" * 400, "A  CAT\n\tand 🐈"]
    assert saved(prompts).input_ids == clip(prompts).input_ids
    assert clip.decode(clip(prompts[2]).input_ids[1:-1]).startswith("a cat and")


@pytest.mark.parametrize("model", [m for m in KNOWN if (shipped_folder(m) / "unet").is_dir()])
def test_each_shipped_configuration_has_its_tokenizers(model):
    folder = shipped_folder(model)
    pads = {"tokenizer": 49407, "tokenizer_2": 0}
    if "2-1" in model:
        pads = {"tokenizer": 0}
    for name, pad in pads.items():
        if (folder / name).is_dir():
            found = open_tokenizer(folder / name)
            check_tokenizer(found, vocabulary=49408, positions=77, what=name)
            assert found.pad_token_id == pad
    assert len(tokenizer_of(folder)) == 49408


def test_another_tokenizer_is_refused(clip):
    class Renumbered:
        model_max_length = 77

        def __len__(self):
            return 49408

        def __call__(self, prompt):
            return type("Ids", (), {"input_ids": [49406, 1, 2, 49407]})

    for wrong, vocabulary, positions in (
        (clip, 49409, 77),
        (clip, 49408, 78),
        (Renumbered(), 49408, 77),
    ):
        with pytest.raises(CorruptError, match="its tokenizer"):
            check_tokenizer(wrong, vocabulary=vocabulary, positions=positions, what="its tokenizer")


@pytest.mark.parametrize("content", ["", "[]", '{"pad_token": 3}', '{"model_max_length": "x"}'])
def test_a_damaged_configuration_is_corrupt(tmp_path, content):
    (tmp_path / "tokenizer_config.json").write_text(content)
    with pytest.raises(CorruptError):
        open_tokenizer(tmp_path)
