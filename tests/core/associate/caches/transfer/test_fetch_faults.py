"""What goes wrong between a hub and a cache, over real HTTP with the real client."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hub_client import talking_to
from hub_layouts import git_sha1, listing, sha256
from hub_server import COMMIT, Fault, Hub, KeptRepo, serve
from huggingface_hub import constants
from typer.testing import CliRunner, Result

from loba_tui import cli
from loba_tui.core.associate.caches.hub.cache import HubCache
from loba_tui.core.associate.caches.hub.requests import Prune

# The client buffers 10 MB before it writes any; and waiting is not what is tested.
IN_CHILD = """
import time
from huggingface_hub import constants
constants.DOWNLOAD_CHUNK_SIZE = 1000
real_sleep = time.sleep
time.sleep = lambda seconds: real_sleep(min(seconds, 0.01))
from loba_tui.cli import main
main()
"""
WEIGHTS = b"".join(hashlib.sha256(bytes([n])).digest() for n in range(250)) * 10
SHA256 = sha256(WEIGHTS)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    home = tmp_path / "home"
    home.mkdir()
    return home


@pytest.fixture
def hub(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    model = tmp_path / "model"
    model.mkdir()
    (model / "weights.safetensors").write_bytes(WEIGHTS)
    (model / "config.json").write_text("{}")
    with serve({"org/model": model}) as served, talking_to(served, home, monkeypatch):
        monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1000)
        yield served


def loba(*arguments: str) -> Result:
    done = CliRunner().invoke(cli.app, ["cache", *arguments])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done


def pull() -> tuple[int, str]:
    """Pull the model; return the exit code and what was said."""
    done = loba("pull", "org/model")
    return done.exit_code, done.stderr


def start(hub: Hub, home: Path, first: str = "") -> subprocess.Popen[str]:
    """Start a pull as a process of its own, with code that is run first."""
    return subprocess.Popen(
        [sys.executable, "-c", first + IN_CHILD, "cache", "pull", "org/model"],
        env={**os.environ, "HF_ENDPOINT": hub.endpoint, "HF_HOME": str(home)},
        cwd=home,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def pull_in_child(hub: Hub, home: Path, first: str) -> tuple[int, str]:
    child = start(hub, home, first)
    _, errors = child.communicate(timeout=120)
    assert "Traceback" not in errors
    return child.returncode, errors


def blobs(home: Path) -> Path:
    return home / "hub/models--org--model/blobs"


def is_whole(home: Path) -> bool:
    """Say whether the revision is there, every content sound and nothing left over."""
    (repository,) = HubCache(home / "hub").scan().repositories
    snapshot = home / "hub/models--org--model/snapshots" / COMMIT
    assert (snapshot / "weights.safetensors").read_bytes() == WEIGHTS
    assert {each.verdict for each in HubCache(home / "hub").verify(repository)} == {"good"}
    return not repository.problems and not repository.incomplete


def looks_missing(home: Path) -> bool:
    """Say whether nothing of the weights could be taken for the whole."""
    snapshot = home / "hub/models--org--model/snapshots" / COMMIT
    return (
        not os.path.lexists(snapshot / "weights.safetensors")
        and not (blobs(home) / SHA256).exists()
    )


@pytest.mark.parametrize("kind", ["cut", "reset"])
def test_a_broken_connection_is_gone_on_with_where_it_broke(hub, home, kind):
    hub.faults = [Fault("weights", kind, 30_000), Fault("weights", kind, 20_000)]
    code, errors = pull()
    assert code == 0, errors
    assert is_whole(home)
    first, *later = hub.downloads("weights")
    assert first.range == ""
    assert later
    starts = [int(each.range.removeprefix("bytes=").removesuffix("-")) for each in later]
    # A reset drops what the kernel had not handed over yet.
    assert starts == [30_000, 50_000] if kind == "cut" else starts == sorted(starts)


def test_a_connection_that_stays_down_leaves_what_came_and_is_gone_on_with(hub, home):
    hub.faults = [Fault("weights", "cut", 30_000), Fault("weights", "cut", 0, times=1000)]
    code, errors = pull()
    assert code == 4
    assert "connection to the hub broke" in errors
    assert "what was fetched is kept" in errors
    assert looks_missing(home)
    assert (blobs(home) / f"{SHA256}.incomplete").stat().st_size == 30_000
    hub.faults = []
    hub.requests.clear()
    planned = json.loads(loba("pull", "org/model", "--dry-run", "--json").stdout)
    assert {each["path"]: each["partial"] for each in planned["files"]} == {
        "weights.safetensors": 30_000,
        "config.json": 0,
    }
    assert planned["to_fetch"] == sum(
        each["size"] for each in planned["files"] if not each["is_there"]
    ) - (30_000)
    assert pull()[0] == 0
    assert [each.range for each in hub.downloads("weights")] == ["bytes=30000-"]
    assert is_whole(home)


def test_a_killed_pull_is_gone_on_with(hub, home):
    hub.faults = [Fault("weights", "stall", 40_000)]
    child = start(hub, home)
    assert hub.stalled.wait(60)
    partial = blobs(home) / f"{SHA256}.incomplete"
    # What is there by now but the last of it, which a buffer holds.
    while not partial.exists() or partial.stat().st_size < 30_000:
        assert child.poll() is None
    child.kill()
    child.communicate(timeout=60)
    hub.may_go_on.set()
    assert looks_missing(home)
    there = partial.stat().st_size
    assert pull()[0] == 0
    assert hub.downloads("weights")[-1].range == f"bytes={there}-"
    assert is_whole(home)


@pytest.mark.parametrize("part", ["/api/models/org/model", "/resolve/"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_busy_hub_is_asked_again(hub, home, part, method):
    hub.faults = [Fault(part, "status", status, method=method) for status in (503, 500, 429)]
    code, errors = pull()
    assert code == 0, errors
    assert is_whole(home)


def test_a_hub_that_stays_down_is_named_with_its_answer(hub, home):
    hub.faults = [Fault("weights", "status", 503, times=1000)]
    code, errors = pull()
    assert code == 4
    assert "answered 503" in errors
    assert looks_missing(home)


def incomplete(home: Path) -> Path:
    """Where a beginning of the weights waits; the small file beside them may be under way too."""
    return blobs(home) / f"{SHA256}.incomplete"


def test_contents_that_are_altered_on_the_way_are_refused_and_not_kept(hub, home):
    hub.faults = [Fault("weights", "alter")]
    code, errors = pull()
    assert code == 7
    assert "weights.safetensors" in errors
    assert "checksum" in errors
    assert looks_missing(home)
    assert not incomplete(home).exists()
    assert pull()[0] == 0
    assert is_whole(home)


def test_a_content_of_another_size_is_refused_and_not_kept(hub, home):
    hub.faults = [Fault("weights", "shorten", 500)]
    code, errors = pull()
    assert code == 7, errors
    assert looks_missing(home)
    assert not incomplete(home).exists()
    assert pull()[0] == 0
    assert is_whole(home)


def test_a_small_file_is_checked_too(hub, home):
    hub.faults = [Fault("config.json", "alter")]
    code, errors = pull()
    assert code == 7
    assert "config.json" in errors
    assert not (blobs(home) / git_sha1(b"{}")).exists()


def test_a_beginning_that_is_not_the_contents_is_fetched_anew(hub, home):
    blobs(home).mkdir(parents=True)
    (blobs(home) / f"{SHA256}.incomplete").write_bytes(b"from a disk that lost power" * 100)
    code, errors = pull()
    assert code == 0, errors
    assert [each.range for each in hub.downloads("weights")] == ["bytes=2700-", ""]
    assert is_whole(home)


def test_a_beginning_longer_than_the_content_is_fetched_anew(hub, home):
    blobs(home).mkdir(parents=True)
    (blobs(home) / f"{SHA256}.incomplete").write_bytes(WEIGHTS + b"more")
    assert pull()[0] == 0
    assert is_whole(home)


def test_a_content_that_changed_between_attempts_is_not_mixed(hub, home):
    model = hub.folders["org/model"]
    old = bytes(reversed(WEIGHTS))
    (model / "weights.safetensors").write_bytes(old)
    hub.faults = [Fault("weights", "cut", 30_000), Fault("weights", "cut", 0, times=1000)]
    assert pull()[0] == 4
    hub.faults = []
    hub.requests.clear()
    (model / "weights.safetensors").write_bytes(WEIGHTS)
    assert pull()[0] == 0
    assert [each.range for each in hub.downloads("weights")] == [""]
    assert not is_whole(home)  # the old one's beginning is left …
    cache = HubCache(home / "hub")
    cache.execute(cache.plan(Prune(now=4e9, incomplete=True)))
    assert is_whole(home)  # … and goes as any other leftover


def test_an_etag_that_is_no_checksum_does_not_hide_an_altered_content(hub, home):
    hub.etags = {"weights.safetensors": "mirror-17"}
    hub.faults = [Fault("weights", "alter")]
    code, errors = pull()
    assert code == 7, errors
    assert not (blobs(home) / "mirror-17").exists()
    assert pull()[0] == 0
    assert (blobs(home) / "mirror-17").read_bytes() == WEIGHTS


def test_where_there_are_no_links_a_content_lies_there_once(hub, home, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_SYMLINKS", True)
    code, errors = pull()
    assert code == 0, errors
    snapshot = home / "hub/models--org--model/snapshots" / COMMIT
    assert (snapshot / "weights.safetensors").read_bytes() == WEIGHTS
    assert not (snapshot / "weights.safetensors").is_symlink()
    assert not (blobs(home) / SHA256).exists()
    hub.requests.clear()
    assert pull()[0] == 0
    assert not hub.downloads("weights")


@pytest.mark.parametrize("etag", ["../../escaped", ".hidden", "x" * 500])
def test_an_etag_is_never_a_path_out_of_the_cache(hub, home, etag):
    hub.etags = {"weights.safetensors": etag}
    before = set(listing(home.parent))
    pull()
    new = {path for path in set(listing(home.parent)) - before if "escaped" in path}
    assert all(path.startswith("home/hub/") for path in new)


def test_a_listed_path_out_of_the_repository_is_refused(hub, home):
    repo = hub.kept["org/evil"] = KeptRepo()
    repo.commit("main", {"../../escaped.safetensors": b"x"}, "evil")
    assert loba("pull", "org/evil").exit_code == 8
    assert not list(home.parent.rglob("escaped*"))


LIMITED = """
import resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
"""


def test_a_disk_that_fills_up_is_told_and_gone_on_with(hub, home):
    code, errors = pull_in_child(hub, home, LIMITED)
    assert code == 4
    assert "disk became full" in errors
    assert looks_missing(home)
    there = (blobs(home) / f"{SHA256}.incomplete").stat().st_size
    assert 40_000 < there <= 50_000
    hub.requests.clear()
    assert pull()[0] == 0
    assert [each.range for each in hub.downloads("weights")] == [f"bytes={there}-"]
    assert is_whole(home)


def test_a_really_full_disk_leaves_nothing_that_looks_whole(hub, home):
    small = home / "hub"
    small.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(small)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("only root can mount a small disk")
    roomy = (
        "import shutil; real = shutil.disk_usage; "
        "shutil.disk_usage = lambda p: real(p)._replace(free=10**12)\n"
    )
    try:
        code, errors = pull_in_child(hub, home, roomy)
        assert code == 4, errors
        assert "disk became full" in errors
        assert looks_missing(home)
        subprocess.run(["mount", "-o", "remount,size=1m", str(small)], check=True)
        code, errors = pull_in_child(hub, home, roomy)
        assert code == 0, errors
        assert is_whole(home)
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_a_cache_that_cannot_be_written_is_told(hub, home, monkeypatch):
    real = os.open

    def refuse(path: str, *arguments: Any, **more: Any) -> int:
        if str(path).endswith(".incomplete"):
            raise OSError(errno.EROFS, "Read-only file system")
        return real(path, *arguments, **more)

    monkeypatch.setattr(os, "open", refuse)
    code, errors = pull()
    assert code == 4
    assert "could not be written" in errors


def test_a_login_goes_to_the_hub_and_is_never_shown(hub, home, monkeypatch):
    token = "hf_" + "a" * 34
    hub.faults = [
        Fault(
            "/resolve/",
            "status",
            401,
            headers={"X-Error-Message": "Invalid credentials in Authorization header"},
            method="HEAD",
        )
    ]
    monkeypatch.setenv("HF_TOKEN", token)
    code, errors = pull()
    assert code == 4
    assert "hf auth login" in errors
    assert token not in errors
    of_model = [each for each in hub.requests if "org/model" in each.path]
    assert [each for each in of_model if not each.has_token] == []
