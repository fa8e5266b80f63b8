import hashlib
import os
import time
from pathlib import Path

import pytest

from loba_tui.core.associate.caches.tensors import file_hashes
from loba_tui.core.associate.caches.tensors import prune as tensor_prune
from loba_tui.core.associate.caches.tensors.file_hashes import FileHashes


@pytest.fixture
def settled(monkeypatch):
    """Files that were written just now count as old ones."""
    monkeypatch.setattr(file_hashes, "_SETTLED_SECONDS", -1.0)


def expected(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def remembered(root: Path) -> list[Path]:
    return [path for path in root.rglob("*") if path.is_file()]


@pytest.mark.usefixtures("settled")
def test_a_file_is_read_once(tmp_path, monkeypatch):
    path, root = tmp_path / "weights", tmp_path / "root"
    path.write_bytes(b"one")
    assert FileHashes(root).sha256(path) == expected(b"one")
    monkeypatch.setattr(hashlib, "file_digest", lambda *_: pytest.fail("it was read again"))
    assert FileHashes(root).sha256(path) == expected(b"one")
    moved = path.rename(tmp_path / "moved")  # a new status time, and so another file
    monkeypatch.undo()
    assert FileHashes(root).sha256(moved) == expected(b"one")


@pytest.mark.usefixtures("settled")
def test_a_change_of_the_same_size_under_the_same_time_is_seen(tmp_path):
    path, root = tmp_path / "weights", tmp_path / "root"
    path.write_bytes(b"one")
    before = path.stat()
    FileHashes(root).sha256(path)
    time.sleep(0.05)  # a tick of the clock, which is what a settled file has behind it
    path.write_bytes(b"two")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert FileHashes(root).sha256(path) == expected(b"two")
    other = tmp_path / "other"
    other.write_bytes(b"six")
    os.replace(other, path)
    assert FileHashes(root).sha256(path) == expected(b"six")


def test_what_was_written_just_now_is_not_remembered(tmp_path):
    path, root = tmp_path / "weights", tmp_path / "root"
    path.write_bytes(b"one")
    assert FileHashes(root).sha256(path) == expected(b"one")
    assert remembered(root) == []
    assert FileHashes().sha256(path) == expected(b"one")


@pytest.mark.usefixtures("settled")
@pytest.mark.parametrize("damage", [b"", b"0" * 63, b"Z" * 64, b"0" * 65])
def test_a_damaged_memory_is_not_believed(tmp_path, damage):
    path, root = tmp_path / "weights", tmp_path / "root"
    path.write_bytes(b"one")
    FileHashes(root).sha256(path)
    (known,) = remembered(root)
    known.write_bytes(damage)
    assert FileHashes(root).sha256(path) == expected(b"one")
    assert known.read_bytes().decode() == expected(b"one")


@pytest.mark.usefixtures("settled")
def test_a_memory_that_cannot_be_written_costs_time_only(tmp_path):
    path, root = tmp_path / "weights", tmp_path / "root"
    path.write_bytes(b"one")
    root.write_bytes(b"in the way")
    assert FileHashes(root).sha256(path) == expected(b"one")


@pytest.mark.usefixtures("settled")
def test_prune_forgets_old_ones(tmp_path):
    path, root = tmp_path / "weights", tmp_path / "root"
    for content in (b"one", b"other"):
        path.write_bytes(content)
        FileHashes(root).sha256(path)
    os.utime(remembered(root)[0], (1e9, 1e9))
    tensor_prune.tidy(root)
    assert len(remembered(root)) == 1


def test_parts_count_by_name_and_content(tmp_path):
    (tmp_path / "vae").mkdir()
    (tmp_path / "vae" / "a").write_bytes(b"1")
    (tmp_path / "index").write_bytes(b"{}")
    first = FileHashes().of_parts(tmp_path, ["vae", "index"])
    assert FileHashes().of_parts(tmp_path, ["index", "vae"]) == first
    assert FileHashes().of_parts(tmp_path, ["vae"]) != first
    (tmp_path / "vae" / "a").rename(tmp_path / "vae" / "b")
    assert FileHashes().of_parts(tmp_path, ["vae", "index"]) != first
