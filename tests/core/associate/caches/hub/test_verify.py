"""Contents against their own checksums, offline."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hub_layouts import add_revision, commit_of, folder_name, git_sha1, sha256

from loba_tui.core.associate.caches.hub.cache import HubCache

ONE = commit_of("one")
FILES = {"config.json": b"{}", "unet/w.safetensors": b"w" * 10_000}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "hub"
    add_revision(root, "org/a", ONE, FILES, ref="main")
    add_revision(root, "org/a", commit_of("two"), FILES)
    add_revision(root, "org/shared", commit_of("s"), FILES, shared=True)
    return root


def verdicts(root: Path, repo: str) -> dict[str, str]:
    cache = HubCache(root)
    repository = cache.scan().repository(folder_name(repo))
    assert repository is not None
    return {each.path.partition("/")[2]: each.verdict for each in cache.verify(repository)}


@pytest.mark.parametrize("repo", ["org/a", "org/shared"])
def test_sound_contents_are_good_each_read_once(root, repo):
    assert verdicts(root, repo) == dict.fromkeys(FILES, "good")


def test_git_checksums_are_those_of_git():
    # The empty blob's name is known to everybody who uses git.
    assert git_sha1(b"") == "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"


@pytest.mark.parametrize("name", FILES)
def test_one_changed_bit_is_damage(root, name):
    digest = git_sha1 if name.endswith("json") else sha256
    blob = root / folder_name("org/a") / "blobs" / digest(FILES[name])
    content = bytearray(blob.read_bytes())
    content[-1] ^= 1
    blob.write_bytes(content)
    assert verdicts(root, "org/a")[name] == "damaged"


def test_a_content_that_is_gone_is_missing(root):
    (root / folder_name("org/a") / "blobs" / git_sha1(b"{}")).unlink()
    assert verdicts(root, "org/a")["config.json"] == "missing"


def test_a_file_in_the_snapshot_itself_is_checked_against_the_listing(root):
    folder = root / folder_name("org/a")
    for name, content in {"own.bin": b"own", "odd.bin": b"odd", "new.bin": b"new"}.items():
        (folder / "snapshots" / ONE / name).write_bytes(content)
    (folder / "trees").mkdir()
    files = {
        "own.bin": {"size": 3, "blob_id": git_sha1(b"own")},
        "odd.bin": {"size": 3, "blob_id": git_sha1(b"x"), "lfs_sha256": sha256(b"even")},
    }
    listing = {"format_version": 1, "files": files}
    (folder / "trees" / f"{ONE}.json").write_text(json.dumps(listing))
    found = verdicts(root, "org/a")
    assert [found[f"{name}.bin"] for name in ("own", "odd", "new")] == [
        "good",
        "damaged",
        "unknown",
    ]


def test_a_link_that_leads_outside_is_not_read(root, tmp_path):
    (tmp_path / "secret").write_bytes(b"secret")
    blob = root / folder_name("org/a") / "blobs" / sha256(FILES["unet/w.safetensors"])
    blob.unlink()
    blob.symlink_to(tmp_path / "secret")
    assert verdicts(root, "org/a")["unet/w.safetensors"] in ("missing", "unknown")
