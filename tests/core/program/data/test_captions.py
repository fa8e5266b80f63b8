"""Captions of every encoding, and their variants."""

from __future__ import annotations

import json

import pytest

from loba_tui.core.program.data.captions import (
    BadCaption,
    caption_of_json,
    decode_text,
    num_variants,
    tidy,
    variant,
)
from loba_tui.core.recipe.sections.data import CaptionSection

TEXT = "ein rötliches Quadrat, 猫"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_marked_and_plain_unicode_is_read_without_being_told(encoding: str) -> None:
    assert decode_text(TEXT.encode(encoding), "auto") == TEXT


def test_other_encodings_are_named_with_the_byte_and_read_when_told() -> None:
    content = "it\u2019s red".encode("cp1252")
    with pytest.raises(
        BadCaption, match=r"byte 0x92 at 2 is not UTF-8; it looks like Windows-1252"
    ):
        decode_text(content, "auto")
    assert decode_text(content, "cp1252") == "it\u2019s red"
    unmarked = "wörter".encode("utf-16-le")
    with pytest.raises(BadCaption, match="it looks like UTF-16"):
        decode_text(unmarked, "auto")


@pytest.mark.parametrize(
    ("table", "caption"),
    [({"text": "a cat"}, "a cat"), ({"text": ["a", "b c"]}, "a, b c")],
)
def test_a_json_caption_is_text_or_tags(table: dict[str, object], caption: str) -> None:
    assert caption_of_json(json.dumps(table), CaptionSection()) == caption


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        ("[]", "expected a JSON table"),
        ('{"caption": "x"}', r"no 'text' \(it has caption\); set data.captions.key"),
        ('{"text": 3}', "'text' is not text"),
        ('{"text": ["x", 3]}', "'text' is not text"),
    ],
)
def test_a_wrong_json_caption_is_told(text: str, message: str) -> None:
    with pytest.raises(BadCaption, match=message):
        caption_of_json(text, CaptionSection())


def test_a_caption_is_one_line_of_printable_text() -> None:
    assert tidy("  a cat,\r\n\tsitting \n") == "a cat, sitting"
    for hostile, place in (("a\x1b[31m red", 2), ("nul\0", 4), ("half \ud800", 6)):
        with pytest.raises(BadCaption, match=f"character {place} is the control code"):
            tidy(hostile)


def test_variants_keep_the_front_and_shuffle_the_rest() -> None:
    settings = CaptionSection(shuffle=True, keep=1, trigger="zog")
    tags = ["first", *"abcdefgh"]
    made = {variant(", ".join(tags), settings, 0, "image", i) for i in range(20)}
    assert len(made) > 15
    for text in made:
        assert text.startswith("zog first, ")
        assert sorted(text.removeprefix("zog first, ").split(", ")) == list("abcdefgh")
    assert variant("a, b", settings, 0, "x", 1) == variant("a, b", settings, 0, "x", 1)


def test_tags_are_dropped_at_the_asked_rate() -> None:
    settings = CaptionSection(drop_tags=0.25, variants=4)
    tags = ", ".join(f"t{i}" for i in range(40))
    left = [len(variant(tags, settings, 0, i).split(", ")) for i in range(50)]
    assert 27 < sum(left) / len(left) < 33
    kept = settings.model_copy(update={"keep": 40})
    assert variant(tags, kept, 0, 1) == tags


def test_without_shuffling_there_is_one_variant_and_it_is_the_caption() -> None:
    assert num_variants(CaptionSection()) == 1
    assert num_variants(CaptionSection(shuffle=True, variants=5)) == 5
    assert variant("a cat, on a mat", CaptionSection(), 0, 3) == "a cat, on a mat"


def test_of_wildcards_one_is_drawn_for_each_variant_and_the_same_again() -> None:
    settings = CaptionSection(wildcards=True, trigger="zog", variants=64)
    assert num_variants(settings) == 64
    caption = "a {red|dark blue| } {one} {{x}} {cat|dog}, {a"
    made = {variant(caption, settings, 0, "image", i) for i in range(200)}
    assert made == {
        f"zog a {colour}{{one}} {{x}} {animal}, {{a"
        for colour in ("red ", "dark blue ", "")
        for animal in ("cat", "dog")
    }
    assert variant(caption, settings, 0, "x", 1) == variant(caption, settings, 0, "x", 1)
    assert variant(caption, CaptionSection(), 0, "x", 1) == caption


def test_wildcards_are_drawn_evenly_and_before_tags_are_shuffled() -> None:
    settings = CaptionSection(wildcards=True, shuffle=True)
    made = [variant("{a|b, c|d}", settings, 0, i) for i in range(300)]
    assert set(made) == {"a", "b, c", "c, b", "d"}
    assert 70 < made.count("a") < 130
