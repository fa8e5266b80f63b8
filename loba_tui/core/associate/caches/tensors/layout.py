"""How computed tensors lie on disk, and by what they are known; nothing heavy is loaded here.

    <root>/<kind>/<group>/shelf.json                      what all its entries have in common
    <root>/<kind>/<group>/<2 hex>/<key>.safetensors       one entry
    <root>/locks/<kind>-<group>.lock                      held shared by whoever uses a group

A group holds what one model computed on one kind of machine; its name is the hash of that
producer's fingerprint, which stands in its file as "shelf". A key is the hash of what went in.
Entries are only ever made anew, so that losing one costs time alone.
"""

from __future__ import annotations

import hashlib
import json
import re
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

from loba_tui.core.foreign_json import parse_json

TensorKind = Literal["latents", "embeds"]
KINDS: tuple[str, ...] = get_args(TensorKind)

GROUP_FILE = "shelf.json"
LOCKS = "locks"
SUFFIX = ".safetensors"
GROUP = re.compile(r"[0-9a-f]{32}")
KEY = re.compile(r"[0-9a-f]{64}")
PREFIX = re.compile(r"[0-9a-f]{2}")
LAYOUT_VERSION = 1

_LENGTH = struct.Struct("<Q")
_MAX_HEADER_BYTES = 2**20
# safetensors wants the data to start at a multiple of eight bytes.
_ALIGNMENT = 8


def digest(parts: Mapping[str, Any]) -> str:
    """Return the sha256 of plain values, the same for the same values in whatever order.

    Raises:
        TypeError: One is not what JSON can hold, so that it has no one way to be written.
    """
    return hashlib.sha256(_canonical(parts)).hexdigest()


def _canonical(parts: Mapping[str, Any]) -> bytes:
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return text.encode("ascii")


def group_name(fingerprint: Mapping[str, Any]) -> str:
    """Return the folder name of the group with this producer fingerprint."""
    return digest({"layout": LAYOUT_VERSION, "shelf": fingerprint})[:32]


def entry_path(folder: Path, key: str) -> Path:
    """Return where an entry lies below its group's folder."""
    return folder / key[:2] / f"{key}{SUFFIX}"


def lock_path(root: Path, kind: str, group: str) -> Path:
    """Return the lock file of a group; it stays when the group goes."""
    return root / LOCKS / f"{kind}-{group}.lock"


def pack(plain: bytes, key: str, about: Mapping[str, Any]) -> bytes:
    """Return a safetensors file with key, description and checksum put into its header.

    Args:
        plain: A safetensors file without metadata.
        about: What a listing says of it; plain values.
    """
    table, data = split(plain)
    table.pop("__metadata__", None)
    told = {"loba.key": key, "loba.about": json.dumps(about, sort_keys=True)}
    table["__metadata__"] = {**told, "loba.sha256": _checksum(table, told, data)}
    header = _canonical(table)
    header += b" " * (-len(header) % _ALIGNMENT)
    return b"".join((_LENGTH.pack(len(header)), header, data))


def check(content: bytes, key: str) -> None:
    """Check that a file is the entry of this key and not a bit of it has changed.

    Raises:
        ValueError: It is not, with what is wrong.
    """
    table, data = split(content)
    told = table.pop("__metadata__", None)
    try:
        wanted = told.pop("loba.sha256") if isinstance(told, dict) else None
        is_whole = wanted is not None and wanted == _checksum(table, told, data)
    except LookupError:
        is_whole = False
    if not is_whole:
        raise ValueError("its checksum does not fit")
    if told.get("loba.key") != key:
        raise ValueError("it is another entry")


def about(content: bytes) -> dict[str, Any]:
    """Return what an entry says of itself, from the beginning of its file; {} where it cannot."""
    try:
        table, _ = split(content)
        found = parse_json(table["__metadata__"]["loba.about"])
    except (ValueError, LookupError, TypeError):
        return {}
    return found if isinstance(found, dict) else {}


def split(content: bytes) -> tuple[dict[str, Any], memoryview]:
    """Return a safetensors file's header and what comes after it.

    Raises:
        ValueError: It has none.
    """
    if len(content) < _LENGTH.size:
        raise ValueError(f"it has {len(content)} bytes")
    (length,) = _LENGTH.unpack_from(content)
    if length > min(_MAX_HEADER_BYTES, len(content) - _LENGTH.size):
        raise ValueError(f"its header claims {length} bytes")
    end = _LENGTH.size + length
    table = parse_json(content[_LENGTH.size : end])
    if not isinstance(table, dict):
        raise ValueError("its header is not a table")
    return table, memoryview(content)[end:]


def _checksum(table: Mapping[str, Any], told: Mapping[str, Any], data: memoryview) -> str:
    sum_ = hashlib.sha256(_canonical({"tensors": table, "told": told}))
    sum_.update(data)
    return sum_.hexdigest()
