"""Tokenizers of CLIP's text encoders: read from a model's folder, or made of what is shipped.

transformers makes a tokenizer of a folder that lacks its files, and that one reads every prompt
wrong without a word. So each is checked for what its text encoder was trained with.
"""

from __future__ import annotations

import gzip
from importlib import resources
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, CLIPTokenizer

from loba_tui.core.errors import CorruptError
from loba_tui.core.file_sources import read_source
from loba_tui.core.foreign_json import parse_object
from loba_tui.core.text import clean

VOCABULARY_SIZE = 49_408
_MAX_CONFIG_BYTES = 8 * 2**20
_CONFIG_NAME = "tokenizer_config.json"
_FILES = ("tokenizer.json", "vocab.json")
_START, _END = "<|startoftext|>", "<|endoftext|>"
_KNOWN_PROMPT, _KNOWN_IDS = "a photo of a cat", [49406, 320, 1125, 539, 320, 2368, 49407]
_ADVICE = (
    "Fetch or save the model again, or name a folder with its tokenizers as base_model.config."
)


def has_tokenizer(folder: Path) -> bool:
    """Say whether a folder has a tokenizer, or a configuration that one can be made by."""
    return any((folder / name).is_file() for name in (_CONFIG_NAME, *_FILES))


def open_tokenizer(folder: Path) -> Any:
    """Return the tokenizer of a folder; CLIP's own where there is only its configuration.

    Raises:
        CorruptError: The configuration cannot be read.
        Exception: What transformers raises for files that are damaged.
    """
    if any((folder / name).is_file() for name in _FILES):
        return AutoTokenizer.from_pretrained(folder, local_files_only=True)
    try:
        config = parse_object(read_source(folder / _CONFIG_NAME, _MAX_CONFIG_BYTES))
    except (OSError, ValueError) as error:
        raise CorruptError(f"{folder.name}/{_CONFIG_NAME} cannot be read: {error}.", _ADVICE) from (
            error
        )
    pad = config.get("pad_token", _END)
    if isinstance(pad, dict):  # older versions wrote a token with how it takes up spaces
        pad = pad.get("content")
    length = config.get("model_max_length", 77)
    if not isinstance(pad, str) or type(length) is not int:
        raise CorruptError(f"{folder.name}/{_CONFIG_NAME} is of no CLIP tokenizer.", _ADVICE)
    return make_clip_tokenizer(pad_token=pad, model_max_length=length)


def make_clip_tokenizer(*, pad_token: str = _END, model_max_length: int = 77) -> CLIPTokenizer:
    """Return CLIP's tokenizer (https://arxiv.org/abs/2103.00020, section 2.4), from the package.

    Its vocabulary is defined by the merges: all bytes, all bytes at the end of a word, what each
    merge gives, and the two tokens that stand around a prompt.
    """
    packed = resources.files("loba_tui.models") / "configs" / "clip-tokenizer" / "merges.txt.gz"
    lines = gzip.decompress(packed.read_bytes()).decode().splitlines()
    merges = [tuple(line.split(" ")) for line in lines]
    letters = _byte_letters()
    tokens = [*letters, *(f"{letter}</w>" for letter in letters)]
    tokens += ["".join(pair) for pair in merges] + [_START, _END]
    return CLIPTokenizer(
        vocab={token: index for index, token in enumerate(tokens)},
        merges=merges,
        pad_token=pad_token,
        model_max_length=model_max_length,
    )


def check_tokenizer(tokenizer: Any, *, vocabulary: int, positions: int, what: str) -> None:
    """Check that a tokenizer is the one of its text encoder.

    Args:
        vocabulary: Tokens that the encoder knows.
        positions: Tokens that the encoder reads of a prompt.
        what: What the tokenizer is called in messages.

    Raises:
        CorruptError: It is another one.
    """
    if tokenizer.model_max_length != positions:
        raise CorruptError(
            f"{clean(what)} gives up to {tokenizer.model_max_length} tokens, and the text encoder"
            f" reads {positions}.",
            _ADVICE,
        )
    if len(tokenizer) != vocabulary:
        raise CorruptError(
            f"{clean(what)} has {len(tokenizer)} tokens, and the text encoder knows {vocabulary}.",
            _ADVICE,
        )
    if vocabulary == VOCABULARY_SIZE and tokenizer(_KNOWN_PROMPT).input_ids != _KNOWN_IDS:
        raise CorruptError(
            f"{clean(what)} is not CLIP's: it numbers the words of {_KNOWN_PROMPT!r} otherwise.",
            _ADVICE,
        )


def _byte_letters() -> list[str]:
    """Return one printable letter for each byte, in the order of the vocabulary.

    Bytes that are printable in Latin-1 stand for themselves and come first; the others take the
    letters from U+0100 on.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = 256 - len(printable)
    return [chr(each) for each in printable] + [chr(0x100 + each) for each in range(others)]
