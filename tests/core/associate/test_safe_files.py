import contextlib
import json
import os
import struct
from pathlib import Path

import pytest
import torch
from any_json import JSON
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save, save_file

from loba_tui.core.associate.safe_files import (
    MAX_TENSORS,
    check_safetensors,
    refuse_pickle,
)
from loba_tui.core.errors import CorruptError, ExitCode, RefusedError

SOUND = save({"a": torch.ones(2, 3), "b": torch.zeros(4, dtype=torch.bfloat16)}, {"key": "value"})


def write(path: Path, header: object, data: bytes = b"") -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bool, torch.float8_e4m3fn])
def test_what_safetensors_writes_is_sound(tmp_path, dtype):
    path = tmp_path / "a.safetensors"
    save_file({"x": torch.zeros(3, 2).to(dtype), "empty": torch.zeros(0, 2)}, path, {"key": "v"})
    header = check_safetensors(path)
    assert header["x"]["shape"] == [3, 2]
    assert header["__metadata__"] == {"key": "v"}


@pytest.mark.parametrize(
    ("header", "data"),
    [
        (b"{", b""),
        (b"[]", b""),
        (b'{"a": {"dtype":"F32","shape":[1],"data_offsets":[0,4]}, "a": 1}', b"1234"),
        ({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}, b"1234"),
        ({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}, b"12345678"),
        ({"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}, b"12345678"),
        ({"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, -4]}}, b""),
        ({"a": {"dtype": "F32"}}, b""),
        ({"a": 3}, b""),
        (b"[" * 100_000, b""),
    ],
)
def test_contradictory_headers_are_corrupt(tmp_path, header, data):
    with pytest.raises(CorruptError) as caught:
        check_safetensors(write(tmp_path / "a.safetensors", header, data))
    assert caught.value.exit_code == ExitCode.CORRUPT


def test_a_header_that_claims_more_than_the_file_is_corrupt(tmp_path):
    path = tmp_path / "a.safetensors"
    path.write_bytes(struct.pack("<Q", 2**40) + b"{}")
    with pytest.raises(CorruptError, match="claims"):
        check_safetensors(path)


def test_too_many_tensors_are_refused_before_parsing(tmp_path):
    entry = {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]}
    header = {str(number): entry for number in range(MAX_TENSORS + 1)}
    with pytest.raises(CorruptError, match="more than"):
        check_safetensors(write(tmp_path / "a.safetensors", header))


@settings(max_examples=150, deadline=None)
@given(cut=st.integers(0, len(SOUND) - 1))
def test_every_truncation_is_found(tmp_path_factory, cut):
    path = tmp_path_factory.mktemp("cut") / "a.safetensors"
    path.write_bytes(SOUND[:cut])
    with pytest.raises(CorruptError):
        check_safetensors(path)


@settings(max_examples=150, deadline=None)
@given(position=st.integers(0, len(SOUND) - 1), value=st.integers(0, 255))
def test_a_changed_byte_never_raises_anything_else(tmp_path_factory, position, value):
    path = tmp_path_factory.mktemp("flip") / "a.safetensors"
    path.write_bytes(SOUND[:position] + bytes([value]) + SOUND[position + 1 :])
    with contextlib.suppress(CorruptError):
        check_safetensors(path)


@pytest.mark.parametrize("name", ["model.ckpt", "model.PT", "pytorch_model.bin"])
def test_pickles_are_refused_with_what_to_do(name):
    with pytest.raises(RefusedError) as caught:
        refuse_pickle(Path(name))
    assert caught.value.exit_code == ExitCode.REFUSED
    assert "safetensors" in caught.value.hint


ENTRY = {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}


@pytest.mark.parametrize(
    "metadata",
    [
        [],
        ["loba.recipe"],
        "text",
        7,
        {"loba.recipe": {"version": 1}},
        {"loba.recipe": None},
        {"loba.recipe": 1.5},
        {"loba.recipe": ["a"]},
        {"a": "fine", "b": True},
        {"half": "\ud800"},
        {"half \udfff": "a"},
    ],
)
def test_metadata_is_a_table_of_text_to_text(tmp_path, metadata):
    path = write(tmp_path / "a.safetensors", {"__metadata__": metadata, "t": ENTRY}, b"x")
    with pytest.raises(CorruptError, match="metadata") as caught:
        check_safetensors(path)
    assert caught.value.exit_code == ExitCode.CORRUPT


def test_metadata_that_is_nothing_is_none(tmp_path):
    path = write(tmp_path / "a.safetensors", {"__metadata__": None, "t": ENTRY}, b"x")
    assert check_safetensors(path) == {"t": ENTRY}


@pytest.mark.parametrize(
    "change",
    [
        {"data_offsets": [False, True]},
        {"data_offsets": [0.0, 1.0]},
        {"data_offsets": [0, 1, 1]},
        {"data_offsets": "01"},
        {"data_offsets": {"0": 1, "1": 2}},
        {"shape": [True]},
        {"shape": {"1": 1}},
        {"shape": "1"},
        {"shape": [10**4000] * 50},
        {"shape": [1] * 100_000},
        {"dtype": ["U8"]},
        {"dtype": None},
        {"dtype": "new", "data_offsets": [1, 0]},
    ],
    ids=lambda change: str(change)[:40],
)
def test_odd_entries_are_corrupt(tmp_path, change):
    path = write(tmp_path / "a.safetensors", {"t": {**ENTRY, **change}}, b"x")
    with pytest.raises(CorruptError):
        check_safetensors(path)


def test_a_name_in_a_message_does_nothing_to_the_screen(tmp_path):
    path = write(tmp_path / "a\nloba: done\x1b[2J.safetensors", {"t\n\u202e": 3})
    with pytest.raises(CorruptError) as caught:
        check_safetensors(path)
    assert caught.value.message.isprintable()


def test_a_named_pipe_is_answered_at_once(tmp_path):
    os.mkfifo(tmp_path / "a.safetensors")
    with pytest.raises(OSError, match="pipe"):
        check_safetensors(tmp_path / "a.safetensors")


@settings(max_examples=1000, deadline=None)
@given(
    metadata=JSON, entry=JSON, field=st.sampled_from(sorted(ENTRY)), value=JSON, data=st.binary()
)
def test_no_header_raises_anything_else(tmp_path_factory, metadata, entry, field, value, data):
    path = tmp_path_factory.getbasetemp() / "header.safetensors"
    for header in (
        {"__metadata__": metadata, "t": {**ENTRY, field: value}},
        {"__metadata__": {"key": metadata}, "t": entry},
    ):
        write(path, header, b"x")
        with contextlib.suppress(CorruptError):
            told = check_safetensors(path).get("__metadata__", {})
            assert all(isinstance(each, str) for each in (*told, *told.values()))
