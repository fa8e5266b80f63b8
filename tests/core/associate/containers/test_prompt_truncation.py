"""What of a prompt has no effect, because the text encoder does not read so far."""

from pathlib import Path

import pytest
import torch

from loba_tui.core.associate.containers.base import ModelContainer
from loba_tui.core.associate.containers.prompt_truncation import (
    describe_truncation,
    tokenizer_of,
    truncated_tails,
)
from loba_tui.core.associate.model_cache import ModelCache
from loba_tui.models.shapes_xl_parts import MAX_TOKENS, make_tokenizer

FITS = " ".join(["circle"] * (MAX_TOKENS - 2))


@pytest.fixture(scope="module")
def container(tiny_folder: Path) -> ModelContainer:
    return ModelCache("cpu", torch.float32).container(str(tiny_folder))


def test_only_what_is_too_long_is_named_with_its_end() -> None:
    tokenizer = make_tokenizer("!")
    too_long = f"{FITS} red square"
    assert truncated_tails(tokenizer, ["", "a circle", FITS, too_long]) == {too_long: "red square"}
    assert truncated_tails(tokenizer, []) == {}


def test_the_end_has_no_effect_and_what_comes_before_it_has(container: ModelContainer) -> None:
    assert container.most_tokens == MAX_TOKENS
    too_long = f"{FITS} red square"
    assert container.truncated_tails([FITS, too_long]) == {too_long: "red square"}
    one, other, shorter = (
        container.encode_prompts([prompt]).embeds
        for prompt in (FITS, too_long, FITS.removesuffix(" circle"))
    )
    assert torch.equal(one, other)
    assert not torch.equal(one, shorter)


def test_what_is_said_is_short_and_of_plain_text() -> None:
    ends = {f"\x1b[31m{number} {'x' * 500}": "y" * 500 for number in range(5)}
    told = describe_truncation(ends, 77)
    assert told.startswith("5 prompts are longer than the 75 tokens")
    assert told.endswith("and 2 more")
    assert "\x1b" not in told
    assert len(told) < 600
    assert describe_truncation({"a b": "b"}, 77).startswith("1 prompt is")


def test_a_tokenizer_is_found_without_its_model(tiny_folder: Path, tmp_path: Path) -> None:
    found = tokenizer_of(tiny_folder)
    assert found is not None
    assert found.model_max_length == MAX_TOKENS
    assert tokenizer_of(tmp_path) is None
