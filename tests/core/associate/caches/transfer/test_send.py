"""`loba cache push-to` end to end: a real sshd on loopback, real ssh, real rsync."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_layouts import add_revision, commit_of, folder_name, listing, sha256
from huggingface_hub import scan_cache_dir
from ssh_host import SshHost, missing, ssh_host
from typer.testing import CliRunner, Result

from loba_tui import cli
from loba_tui.core.associate.caches.hub.cache import HubCache
from loba_tui.core.associate.caches.hub.requests import Prune
from loba_tui.core.associate.caches.transfer.remote_host import parse_remote
from loba_tui.core.errors import RecipeError

needs_ssh = pytest.mark.skipif(
    bool(missing()), reason=f"{', '.join(missing())} not installed: openssh-server and rsync"
)
ONE, TWO = commit_of("one"), commit_of("two")
LARGE = random.Random(0).randbytes(3_000_000)
ONE_FILES = {"config.json": b"{}", "unet/a b.safetensors": LARGE, "same.safetensors": b"same" * 99}
TWO_FILES = {"config.json": b'{"two": 2}', "same.safetensors": b"same" * 99}


@pytest.fixture
def remote(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshHost]:
    with ssh_host(tmp_path_factory.mktemp("remote")) as served:
        yield served


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path / "home" / "hub"
    add_revision(root, "org/model", ONE, ONE_FILES, ref="refs/pr/1")
    add_revision(root, "org/model", TWO, TWO_FILES, ref="main", shared=True)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)
    return root


def push_to(remote: SshHost, *arguments: str, host: str = "remote") -> Result:
    done = CliRunner().invoke(
        cli.app, ["cache", "push-to", host, "--ssh-config", str(remote.config), *arguments]
    )
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done


def contents(root: Path, commit: str) -> dict[str, bytes]:
    snapshot = root / folder_name("org/model") / "snapshots" / commit
    return {
        path.relative_to(snapshot).as_posix(): path.read_bytes()
        for path in snapshot.rglob("*")
        if path.is_file()
    }


def is_sound(root: Path) -> bool:
    """Say whether both scans find nothing wrong and every content is what it is named after."""
    assert not scan_cache_dir(root).warnings
    cache = HubCache(root)
    (repository,) = cache.scan().repositories
    assert not repository.problems
    assert not repository.incomplete
    return {each.verdict for each in cache.verify(repository)} == {"good"}


def cut_short(remote: SshHost) -> None:
    """Push with a connection that breaks, and wait until the other side has noticed."""
    remote.wire.cut_after = 1_500_000
    broken = push_to(remote, "org/model@refs/pr/1")
    assert broken.exit_code == 4, broken.stderr
    assert "what came is kept" in broken.stderr
    partial = remote.root / folder_name("org/model") / "blobs/.loba-incoming" / sha256(LARGE)
    deadline = time.monotonic() + 60
    while not partial.exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@needs_ssh
def test_a_repository_arrives_whole_and_a_second_time_nothing_is_sent(remote, root):
    done = push_to(remote, "org/model")
    assert done.exit_code == 0, done.stderr
    assert str(remote.root) in done.stdout
    assert "5 files of it, each read again" in done.stdout
    assert "sending 3.0 MB\nreading 3.0 MB again on remote\n" in done.stderr
    assert contents(remote.root, ONE) == ONE_FILES
    assert contents(remote.root, TWO) == TWO_FILES
    assert is_sound(remote.root)
    (repository,) = HubCache(remote.root).scan().repositories
    assert repository.refs == {"main": TWO, "refs/pr/1": ONE}
    before, sent = listing(remote.home), remote.wire.sent
    again = json.loads(push_to(remote, "org/model", "--json").stdout)
    assert again["to_send"] == 0
    assert again["kept_refs"] == []
    assert listing(remote.home) == before
    assert remote.wire.sent - sent < 200_000


@needs_ssh
def test_a_dry_run_tells_the_size_and_changes_nothing(remote, root):
    done = push_to(remote, "org/model@main", "--dry-run")
    assert done.exit_code == 0, done.stderr
    size = sum(map(len, TWO_FILES.values()))
    assert f"{size} B to send of {size} B, to remote:{remote.root}" in done.stdout
    assert listing(remote.home) == {}


@needs_ssh
def test_one_revision_takes_only_its_own(remote, root):
    assert push_to(remote, "org/model@main").exit_code == 0
    assert contents(remote.root, TWO) == TWO_FILES
    assert contents(remote.root, ONE) == {}
    assert is_sound(remote.root)


@needs_ssh
def test_a_cut_connection_leaves_nothing_that_looks_whole_and_is_gone_on_with(remote, root):
    cut_short(remote)
    blobs = remote.root / folder_name("org/model") / "blobs"
    assert not (blobs / sha256(LARGE)).exists()
    assert contents(remote.root, ONE) == {}
    assert not (remote.root / folder_name("org/model") / "refs").exists()
    (repository,) = HubCache(remote.root).scan().repositories
    assert [each.name for each in repository.incomplete] == [f".loba-incoming/{sha256(LARGE)}"]
    assert {each.what for each in repository.problems} <= {"it has no revisions"}
    there = repository.incomplete[0].size
    assert there > 0
    sent = remote.wire.sent
    done = push_to(remote, "org/model@refs/pr/1")
    assert done.exit_code == 0, done.stderr
    assert contents(remote.root, ONE) == ONE_FILES
    assert is_sound(remote.root)
    # What came before the cut is not sent again; how much that was lies with the sockets.
    assert remote.wire.sent - sent < len(LARGE) - there + 100_000


@needs_ssh
def test_what_was_left_by_a_cut_is_pruned_as_any_broken_download(remote, root):
    cut_short(remote)
    there = HubCache(remote.root)
    assert there.execute(there.plan(Prune(now=4e9, incomplete=True))) is not None
    assert not there.scan().repositories[0].incomplete
    there.undo()
    assert there.scan().repositories[0].incomplete


@needs_ssh
def test_nothing_there_is_replaced_and_what_differs_is_told(remote, root):
    other = commit_of("three")
    add_revision(remote.root, "org/model", other, {"config.json": b"{}"}, ref="main")
    before = listing(remote.root)
    done = push_to(remote, "org/model@main")
    assert done.exit_code == 0, done.stderr
    assert "refs/main stands on another commit there" in done.stdout
    after = listing(remote.root)
    assert {path: after[path] for path in before} == before
    assert contents(remote.root, TWO) == TWO_FILES


@needs_ssh
def test_a_damaged_content_over_there_is_found_and_not_linked_to(remote, root):
    blob = remote.root / folder_name("org/model") / "blobs" / sha256(LARGE)
    blob.parent.mkdir(parents=True)
    blob.write_bytes(b"damaged")
    done = push_to(remote, "org/model")
    assert done.exit_code == 7
    assert sha256(LARGE) in done.stderr
    assert blob.read_bytes() == b"damaged"
    assert contents(remote.root, ONE) == {}


@needs_ssh
@pytest.mark.parametrize("path", ["there's a; touch owned/$(id) cache", "~/x y", "tail"])
def test_a_named_folder_is_taken_as_it_is_written(remote, root, path, tmp_path):
    base = tmp_path / "elsewhere"
    base.mkdir()
    if path == "~/x y":
        done = push_to(remote, "org/model@main", "--dry-run", host=f"remote:{path}")
        assert done.exit_code == 0, done.stderr
        assert "/x y with" in done.stdout
        assert "~" not in done.stdout
        return
    done = push_to(remote, "org/model@main", host=f"remote:{base / path}")
    assert done.exit_code == 0, done.stderr
    assert contents(base / path, TWO) == TWO_FILES
    assert [each.name for each in base.iterdir()] == [path.split("/")[0]]


@needs_ssh
def test_a_full_disk_over_there_is_found_before(remote, root, monkeypatch):
    monkeypatch.setattr("loba_tui.core.associate.caches.transfer.send._RESERVE_BYTES", 2**60)
    done = push_to(remote, "org/model")
    assert done.exit_code == 4
    assert "free" in done.stderr
    assert listing(remote.home) == {}


@needs_ssh
def test_a_rig_that_cannot_be_reached_is_told(remote, root):
    remote.wire.close()
    done = push_to(remote, "org/model")
    assert done.exit_code == 4
    assert "connection to remote failed" in done.stderr
    assert "Traceback" not in done.stderr


@needs_ssh
def test_a_broken_revision_is_not_sent(remote, root):
    blob = root / folder_name("org/model") / "blobs" / sha256(LARGE)
    blob.unlink()
    done = push_to(remote, "org/model@refs/pr/1")
    assert done.exit_code == 7
    assert "not whole here" in done.stderr
    assert listing(remote.home) == {}


@pytest.mark.parametrize(
    "hostile",
    [
        "-oProxyCommand=touch owned",
        "remote -oProxyCommand=touch",
        "remote;touch owned",
        "$(touch owned)",
        "a@b@c",
        "",
        ":/path",
        "remote:/path\nwith a line",
        "remote\x00",
        "::1",
    ],
)
def test_a_host_that_could_be_an_option_or_a_command_is_refused(hostile):
    with pytest.raises(RecipeError):
        parse_remote(hostile)


def test_hosts_as_people_write_them_are_taken():
    assert parse_remote("gpu2") == ("gpu2", "")
    assert parse_remote("me@remote-2.local:/data/hub") == ("me@remote-2.local", "/data/hub")
    assert parse_remote("10.0.0.7:data: x") == ("10.0.0.7", "data: x")


def test_without_rsync_here_it_says_so(root, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    done = CliRunner().invoke(cli.app, ["cache", "push-to", "remote", "org/model"])
    assert done.exit_code == 4
    assert "not installed here" in done.stderr
