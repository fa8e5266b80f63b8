"""Scanning a cache: the same figures as the hub's client, and no broken thing hides the rest."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hub_layouts import add_revision, commit_of, folder_name, git_sha1, link, put_payload
from huggingface_hub import scan_cache_dir

from loba_tui.core.associate.caches.hub.cache import HubCache
from loba_tui.core.associate.caches.hub.layout import Cache, Repository
from loba_tui.core.associate.caches.hub.requests import Removal, Target

ONE, TWO = commit_of("one"), commit_of("two")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "hub"
    add_revision(root, "org/model", ONE, {"config.json": b"{}", "unet/w.safetensors": b"w" * 700})
    add_revision(
        root,
        "org/model",
        TWO,
        {"config.json": b"{}", "unet/w.safetensors": b"v" * 500, "a/b/c.txt": b"deep"},
        ref="main",
    )
    add_revision(root, "plain", ONE, {"w.safetensors": b"p" * 30}, ref="refs/pr/1")
    add_revision(root, "org/data", TWO, {"d.txt": b"d" * 9}, ref="main", kind="dataset")
    for repo in ("org/x", "org/y"):
        add_revision(root, repo, commit_of(repo), {"s.safetensors": b"s" * 900}, shared=True)
    return root


def found(cache: Cache, name: str) -> Repository:
    return next(each for each in cache.repositories if each.name == name)


def test_a_scan_says_what_the_hubs_own_scan_says(root):
    cache, judge = HubCache(root).scan(), scan_cache_dir(root)
    assert not judge.warnings
    assert cache.size == judge.size_on_disk
    ours = {each.folder: each for each in cache.repositories}
    theirs = {each.repo_path.name: each for each in judge.repos}
    assert ours.keys() == theirs.keys()
    for folder, repository in ours.items():
        judged = theirs[folder]
        assert (repository.id, repository.kind) == (judged.repo_id, judged.repo_type)
        assert repository.size == judged.size_on_disk
        assert repository.modified == pytest.approx(judged.last_modified)
        assert repository.refs == {ref: rev.commit_hash for ref, rev in judged.refs.items()}
        revisions = {each.commit: each for each in repository.revisions}
        assert revisions.keys() == {each.commit_hash for each in judged.revisions}
        for each in judged.revisions:
            assert revisions[each.commit_hash].size == each.size_on_disk
            assert set(revisions[each.commit_hash].refs) == each.refs
            assert len(revisions[each.commit_hash].files) == each.nb_files
        assert not repository.problems


def test_shared_contents_are_counted_once_and_logical_sizes_beside_them(root):
    cache = HubCache(root).scan()
    assert found(cache, "org/x").size == found(cache, "org/y").size == 900
    assert found(cache, "org/x").own_size == 0
    assert cache.size == sum(each.own_size for each in cache.repositories) + 900
    model = found(cache, "org/model")
    assert model.logical_size == model.size + len(b"{}")
    (payload,) = cache.payloads.values()
    assert payload.references is not None
    assert len(payload.references) == 2


def test_repositories_come_in_order_and_one_at_a_time(root):
    repositories = HubCache(root).repositories()
    first = next(repositories)
    assert isinstance(first, Repository)
    assert first.name == "dataset/org/data"
    assert len(list(repositories)) == 4


def test_broken_links_are_listed_and_hide_nothing(root):
    folder = root / folder_name("org/model")
    (folder / "blobs" / git_sha1(b"deep")).unlink()
    model = found(HubCache(root).scan(), "org/model")
    assert len(model.revisions) == 2
    (file,) = [file for file in model.revisions[0].files if file.problem] or [
        file for file in model.revisions[1].files if file.problem
    ]
    assert (file.path, file.problem) == ("a/b/c.txt", "a broken link")
    assert any("a/b/c.txt" in problem.path for problem in model.problems)


def test_links_that_lead_outside_or_round_are_data_and_not_followed(root, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "big").write_bytes(b"x" * 10_000)
    snapshot = root / folder_name("org/model") / "snapshots" / ONE
    (snapshot / "outside.bin").symlink_to(outside / "big")
    (snapshot / "folder").symlink_to(outside)
    (snapshot / "loop").symlink_to(snapshot / "loop")
    (snapshot / "up").symlink_to("../..")
    (root / folder_name("org/model") / "blobs" / "evil").symlink_to(outside / "big")
    (root / "models--linked--away").symlink_to(outside)
    cache = HubCache(root).scan()
    model = found(cache, "org/model")
    revision = model.revision(ONE)
    assert revision is not None
    problems = {file.path for file in revision.files if file.problem}
    assert problems == {"outside.bin", "folder", "loop", "up"}
    assert revision.size == 702
    assert "evil" not in model.blobs
    assert any(each.path == "models--linked--away" for each in cache.foreign)


def test_leftovers_foreign_folders_and_files_are_shown_as_such(root):
    folder = root / folder_name("org/model")
    (folder / "blobs" / "abc.1234.incomplete").write_bytes(b"half")
    (folder / "blobs" / ("e" * 64)).write_bytes(b"of no revision")
    (folder / "refs" / "gone").write_text("f" * 40)
    (folder / "refs" / "odd").write_bytes(b"\xff\xfe")
    (root / "my-notes").mkdir()
    (root / "models--just--a-file").write_text("")
    (root / "models--empty--one").mkdir()
    cache = HubCache(root).scan()
    model = found(cache, "org/model")
    assert [blob.size for blob in model.incomplete] == [4]
    assert [blob.name for blob in model.unreferenced] == ["e" * 64]
    assert {problem.path.rpartition("/")[2] for problem in model.problems} == {"gone", "odd"}
    assert {problem.path for problem in cache.foreign} == {"my-notes", "models--just--a-file"}
    assert found(cache, "empty/one").problems[0].what == "it has no revisions"


def test_an_unreadable_revision_keeps_every_content(root, monkeypatch):
    snapshot = root / folder_name("org/model") / "snapshots" / ONE / "unet"
    true_scandir = os.scandir

    def scandir(path):
        if Path(path) == snapshot:
            raise PermissionError(13, "Permission denied")
        return true_scandir(path)

    monkeypatch.setattr(os, "scandir", scandir)
    cache = HubCache(root)
    model = found(cache.scan(), "org/model")
    assert not model.is_readable
    assert model.unreferenced == ()
    plan = cache.plan(Removal((Target(model.folder, TWO),)))
    assert not any("/blobs/" in item.path for item in plan.items)


def test_names_of_any_bytes_are_scanned(root):
    name = os.fsdecode(b"caf\xe9\x1b[31m\n.txt")
    blob = root / folder_name("org/model") / "blobs" / git_sha1(b"{}")
    link(root / folder_name("org/model") / "snapshots" / ONE / name, blob)
    revision = found(HubCache(root).scan(), "org/model").revision(ONE)
    assert revision is not None
    assert name in {file.path for file in revision.files}


def test_a_payload_without_a_manifest_may_be_anybodys(root):
    orphan = put_payload(root, b"orphan")
    payload = HubCache(root).scan().payloads[orphan.name]
    assert payload.references is None


def test_a_folder_called_blobs_without_the_marker_is_foreign(root):
    (root / "blobs" / ".huggingface-shared-blobs").unlink()
    cache = HubCache(root).scan()
    assert not cache.payloads
    assert [problem.path for problem in cache.foreign] == ["blobs"]


def test_a_cache_that_is_not_there_is_empty(tmp_path):
    assert HubCache(tmp_path / "none").scan() == Cache(())


def test_a_cache_may_be_a_link_to_another_disk(root, tmp_path):
    (tmp_path / "elsewhere").symlink_to(root)
    assert HubCache(tmp_path / "elsewhere").scan() == HubCache(root).scan()
