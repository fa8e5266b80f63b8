"""`loba cache` as a user types it, on a cache in a folder of its own."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import hub_layouts as layouts
import pytest
from typer.testing import CliRunner, Result

from loba_tui import cli

ONE, TWO = layouts.commit_of("one"), layouts.commit_of("two")
Loba = Callable[..., Result]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root: Path = tmp_path / "home" / "hub"
    day = 86400
    layouts.add_revision(
        root, "org/model", ONE, {"c.json": b"{}", "w.safetensors": b"1" * 70_000}, age=90 * day
    )
    layouts.add_revision(root, "org/model", TWO, {"c.json": b"{}"}, ref="main", age=9 * day)
    layouts.add_revision(root, "org/data", TWO[::-1], {"d.txt": b"d"}, kind="dataset", age=day)
    return root


@pytest.fixture
def environ(tmp_path: Path, root: Path) -> dict[str, str]:
    return {
        "HF_HUB_CACHE": "",
        "HUGGINGFACE_HUB_CACHE": "",
        "HF_HOME": str(root.parent),
        "XDG_STATE_HOME": str(tmp_path / "state"),
    }


@pytest.fixture
def loba(environ: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Loba:
    monkeypatch.chdir(tmp_path)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)

    def run(*arguments: str) -> Result:
        return CliRunner().invoke(cli.app, ["cache", *arguments])

    return run


def test_ls_shows_size_age_marks_and_id(loba, root):
    (root / "models--org--model" / "blobs" / "x.1.incomplete").write_bytes(b"half")
    done = loba("ls")
    assert done.exit_code == 0
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["SIZE", "USED", "FETCHED", "REVS", "REFS", "MARKS", "ID"]
    assert lines[2].split() == ["70.0", "KB", "never", "9", "d", "2", "main", "incomplete",
                                "detached", "org/model"]  # fmt: skip
    assert "2 repositories, 3 revisions, 70.0 KB on disk" in done.stderr


def test_ls_filters_sorts_limits_and_speaks_json(loba):
    def names(*arguments: str) -> list[str]:
        return [each["id"] for each in json.loads(loba("ls", "--json", *arguments).stdout)]

    assert names() == ["dataset/org/data", "org/model"]
    assert names("--sort", "size") == ["org/model", "dataset/org/data"]
    assert names("--sort", "size", "--limit", "1") == ["org/model"]
    assert names("-f", "size>1KB") == ["org/model"]
    assert names("-f", "used<2d", "-f", "type=dataset") == ["dataset/org/data"]
    assert names("org/*") == ["org/model"]
    rows = json.loads(loba("ls", "--json", "--revisions", "org/*").stdout)
    assert {row["revision"] for row in rows} == {ONE, TWO}
    wrong = loba("ls", "-f", "siez>1GB")
    assert wrong.exit_code == 2
    assert "Did you mean size" in wrong.stderr


def test_names_of_the_cache_do_nothing_to_the_terminal(loba, root):
    evil = "models--org--\x1b]0;owned\x07\x1b[31m[bold]x"
    layouts.add_revision(root, "org/tmp", ONE[::-1], {"a\x1b[2J.txt": b"x"})
    (root / "models--org--tmp").rename(root / evil)
    (root / "strange\x1b[31m").mkdir()
    for arguments in (["ls"], ["show", evil], ["verify"], ["rm", evil, "--dry-run"]):
        done = loba(*arguments)
        assert done.exit_code == 0, done.stderr
        assert "\x1b" not in done.stdout + done.stderr
    json.loads(loba("ls", "--json").stdout)


def test_show_lists_files_problems_and_users(loba, root, tmp_path):
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "a.yaml").write_text("base_model:\n  id: org/model\n")
    (root / "models--org--model" / "blobs" / layouts.git_sha1(b"{}")).unlink()
    done = loba("show", "org/model")
    assert done.exit_code == 0
    for phrase in (ONE, TWO, "w.safetensors", "a broken link", "recipe recipes/a.yaml"):
        assert phrase in done.stdout
    record = json.loads(loba("show", "org/model@main", "--json").stdout)
    assert [each["revision"] for each in record["revisions"]] == [TWO]


def test_rm_without_a_terminal_needs_yes(loba, root):
    before = layouts.listing(root)
    done = loba("rm", "org/model")
    assert done.exit_code == 8
    assert "--yes" in done.stderr
    assert layouts.listing(root) == before


def test_rm_shows_frees_and_breaks_and_can_be_undone(loba, root, tmp_path):
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "a.yaml").write_text("base_model:\n  id: org/model\n")
    before = layouts.listing(root)
    dry = loba("rm", "org/model", "--dry-run")
    assert dry.exit_code == 0
    for phrase in ("org/model: all of it", "frees 70.0 KB", "breaks 1 recipe", "recipes/a.yaml"):
        assert phrase in dry.stdout
    assert layouts.listing(root) == before
    done = loba("rm", "org/model", "--yes")
    assert done.exit_code == 0
    assert "loba cache undo" in done.stdout
    assert not (root / "models--org--model").exists()
    (entry,) = json.loads(loba("trash", "ls", "--json").stdout)
    assert entry["removed"] == ["org/model"]
    assert "brought back org/model" in loba("undo").stdout
    assert layouts.listing(root) == before
    assert loba("undo").exit_code == 2


def test_rm_by_hash_and_for_good(loba, root):
    done = loba("rm", ONE[:10], "--yes", "--no-undo")
    assert done.exit_code == 0
    assert "freed 70.0 KB" in done.stdout
    assert [path.name for path in (root / "models--org--model/snapshots").iterdir()] == [TWO]
    assert loba("trash", "ls").stdout == ""


def test_pins_are_shown_and_held(loba):
    assert loba("pin", "org/model").exit_code == 0
    assert "pinned" in loba("ls", "org/*").stdout
    refused = loba("rm", "org/model", "--yes")
    assert refused.exit_code == 8
    assert "unpin" in refused.stderr
    assert "unpinned" in loba("unpin", "org/model").stdout
    assert "was not pinned" in loba("unpin", "org/model").stdout
    assert loba("rm", "org/model", "--yes").exit_code == 0


def test_prune_takes_the_detached_by_default_and_the_old_by_age(loba):
    plan = json.loads(loba("prune", "--dry-run", "--json").stdout)
    assert len(plan["removes"]) == 2
    old = json.loads(loba("prune", "--unused", "30d", "--dry-run", "--json").stdout)
    assert old["removes"] == [f"org/model@{ONE[:12]}"]
    done = loba("prune", "--unused", "30d", "--yes", "--json")
    assert json.loads(done.stdout)["trash"]
    assert "nothing to remove" in loba("prune", "--unused", "30d", "--yes").stdout


def test_emptying_the_trash_asks_and_frees(loba):
    loba("rm", "org/model", "--yes")
    assert loba("trash", "empty").exit_code == 8
    assert "nothing to empty" in loba("trash", "empty", "--older", "7d", "--yes").stdout
    assert "freed 70.0 KB" in loba("trash", "empty", "--yes").stdout
    assert loba("undo").exit_code == 2


def test_verify_ends_with_7_where_a_file_is_damaged(loba, root):
    good = loba("verify")
    assert good.exit_code == 0
    assert good.stdout.strip() == "3 good"
    blob = root / "models--org--model" / "blobs" / layouts.sha256(b"1" * 70_000)
    blob.write_bytes(b"2" * 70_000)
    bad = loba("verify", "org/model", "--json")
    assert bad.exit_code == 7
    assert json.loads(bad.stdout)["damaged"] == 1
    assert "w.safetensors" in loba("verify").stdout


@pytest.mark.parametrize(("answer", "is_gone"), [("y\n", True), ("n\n", False)])
def test_on_a_terminal_it_asks(environ, root, tmp_path, answer, is_gone):
    master, slave = pty.openpty()
    child = subprocess.Popen(
        [sys.executable, "-c", "from loba_tui.cli import main; main()", "cache", "rm", "org/model"],
        env={**os.environ, **environ},
        cwd=tmp_path,
        stdin=slave,
        stdout=slave,
        stderr=slave,
    )
    os.close(slave)
    shown = b""
    deadline = time.monotonic() + 30
    while b"?" not in shown and time.monotonic() < deadline:
        shown += os.read(master, 4096)
    assert b"frees 70.0 KB" in shown
    os.write(master, answer.encode())
    assert child.wait(30) == 0
    os.close(master)
    assert (root / "models--org--model").exists() is not is_gone


def test_a_cache_that_is_not_there_is_empty_and_said_so(loba, root):
    for path in sorted(root.rglob("*"), reverse=True):
        path.unlink() if path.is_symlink() or path.is_file() else path.rmdir()
    root.rmdir()
    assert loba("ls").exit_code == 0
    assert loba("rm", "org/model", "--yes").exit_code == 2
    assert loba("undo").exit_code == 2


# Latents and embeddings that runs keep.

GROUP = {"model": {"id": "org/model"}, "machine": {"device": "cpu", "threads": 1}}


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Entries as a store writes them: two of latents, one of embeddings."""
    import torch

    from loba_tui.core.associate.caches.tensors.store import TensorStore

    monkeypatch.setenv("LOBA_CACHE", str(tmp_path / "kept"))
    tensors = tmp_path / "kept" / "tensors"
    for kind, about in (
        ("latents", {"image": "a.png"}),
        ("latents", {"image": "b\x1b[31m.png"}),
        ("embeds", {"prompt": "a red circle"}),
    ):
        store = TensorStore(tensors, kind, GROUP, spare_bytes=0)  # type: ignore[arg-type]
        store.put(store.key(about), {"x": torch.zeros(1000)}, describe=about)
        store.close()
    return tensors


def test_what_runs_keep_is_listed_after_the_repositories(loba, kept):
    done = loba("ls")
    latents, embeds = done.stdout.splitlines()[-2:]
    assert latents.split()[-1].startswith("latents:org/model@")
    assert embeds.split()[-1].startswith("embeds:org/model@")
    assert latents.split()[:2] == ["8.6", "KB"]
    assert "3 latents and embeddings, 12.9 KB" in done.stderr
    rows = json.loads(loba("ls", "--json", "-f", "type=latents").stdout)
    assert [(row["kind"], row["entries"], row["marks"]) for row in rows] == [("latents", 2, [])]
    assert rows[0]["made_by"] == GROUP
    names = [row["id"] for row in json.loads(loba("ls", "--json", "--sort", "size").stdout)]
    assert [name.partition(":")[0] for name in names[:2]] == ["org/model", "latents"]
    assert json.loads(loba("ls", "--json", "-f", "used>1d", "latents:*").stdout) == []


def test_show_tells_what_is_in_it_and_does_nothing_to_the_terminal(loba, kept):
    done = loba("show", "latents:org/model")
    assert done.exit_code == 0
    assert "a.png" in done.stdout
    assert "threads 1" in done.stdout
    assert "\x1b" not in done.stdout
    record = json.loads(loba("show", "embeds", "--json").stdout)
    assert [each["about"] for each in record["entries"]] == [{"prompt": "a red circle"}]
    missing = loba("show", "latents:org/modle")
    assert missing.exit_code == 2
    assert "Did you mean latents:org/model@" in missing.stderr


def test_kept_tensors_are_removed_after_a_plan_and_a_question(loba, kept):
    files = list(kept.rglob("*.safetensors"))
    dry = loba("rm", "latents", "--dry-run")
    assert "all of it, 8.6 KB" in dry.stdout
    assert loba("rm", "latents").exit_code == 8  # there is no terminal to ask on
    assert loba("rm", "latents", "org/model", "--yes").exit_code == 2
    assert list(kept.rglob("*.safetensors")) == files
    done = loba("rm", "latents", "--yes", "--json")
    assert json.loads(done.stdout)["freed"] == json.loads(done.stdout)["frees"] > 8000
    assert [path.parts[-4] for path in kept.rglob("*.safetensors")] == ["embeds"]


def test_what_a_run_uses_stays(loba, kept):
    import fcntl

    with (next((kept / "locks").glob("latents-*"))).open() as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        refused = loba("rm", "latents", "--yes")
        assert refused.exit_code == 6
        assert "a run uses latents:org/model@" in refused.stderr
        assert "in-use" in loba("ls").stdout
        pruned = loba("prune", "--type", "latents", "--type", "embeds", "--unused", "0d", "--yes")
        assert "stays: latents" in pruned.stderr
    assert [path.parts[-4] for path in kept.rglob("*.safetensors")] == ["latents"] * 2


def test_prune_by_age_and_size(loba, kept):
    assert "nothing to remove" in loba("prune", "--type", "latents", "--unused", "30d").stdout
    for path in sorted(kept.rglob("latents/*/*/*.safetensors"))[:1]:
        os.utime(path, (1e9, 1e9))
    dry = json.loads(
        loba("prune", "--type", "latents", "--unused", "30d", "--dry-run", "--json").stdout
    )
    assert [each["entries"] for each in dry["removes"]] == [1]
    assert loba("prune", "--type", "latents", "--keep-under", "5KB", "--yes").exit_code == 0
    assert len(list(kept.rglob("latents/*/*/*.safetensors"))) == 1
    wrong = loba("prune", "--type", "latent")
    assert (wrong.exit_code, "Did you mean latents" in wrong.stderr) == (2, True)
    assert loba("prune", "--type", "latents", "--detached").exit_code == 2


def test_verify_finds_a_flipped_bit(loba, kept):
    assert loba("verify", "latents", "embeds").stdout == "3 good\n"
    path = next(kept.rglob("embeds/*/*/*.safetensors"))
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    done = loba("verify", "embeds")
    assert done.exit_code == 7
    assert "checksum does not fit" in done.stdout


def test_one_file_of_a_revision_goes_and_comes_back(loba, root):
    before = layouts.listing(root)
    name = f"org/model@{ONE}:w.safetensors"
    planned = json.loads(loba("rm", name, "--dry-run", "--json").stdout)
    assert planned["removes"] == [f"org/model@{ONE[:12]}:w.safetensors"]
    assert planned["frees"] == 70_000
    assert layouts.listing(root) == before
    refused = loba("rm", name)
    assert refused.exit_code == 8
    done = loba("rm", name, "--yes")
    assert done.exit_code == 0, done.stderr
    assert "70.0 KB" in done.stderr
    gone = set(before) - set(layouts.listing(root))
    assert {Path(path).name for path in gone} == {
        "w.safetensors",
        layouts.sha256(b"1" * 70_000),
    }
    assert loba("undo").exit_code == 0
    assert {path: what for path, what in layouts.listing(root).items() if path in before} == before


def test_a_file_that_other_revisions_share_keeps_its_content(loba, root):
    planned = json.loads(loba("rm", "org/model@main:c.json", "--dry-run", "--json").stdout)
    # It is the only file of that revision, so the revision itself goes, and its branch.
    assert planned["removes"] == [f"org/model@{TWO[:12]}"]
    planned = json.loads(loba("rm", f"{ONE}:c.json", "--dry-run", "--json").stdout)
    assert planned["frees"] == 0
    assert planned["paths"] == [f"models--org--model/snapshots/{ONE}/c.json"]


@pytest.mark.parametrize(
    ("target", "phrase"),
    [
        (f"org/model@{ONE}:w.safetensor", "Did you mean w.safetensors"),
        ("org/model:c.json", "@REVISION:c.json"),
        ("org/model@main:../../../etc/passwd", "is not in the cache"),
    ],
)
def test_a_file_that_cannot_be_meant_is_told(loba, target, phrase):
    done = loba("rm", target, "--yes")
    assert done.exit_code == 2
    assert phrase in done.stderr


def test_a_single_file_of_what_is_pinned_stays_and_cannot_be_pinned_itself(loba):
    assert loba("pin", f"org/model@{ONE}:w.safetensors").exit_code == 2
    assert loba("pin", f"org/model@{ONE}").exit_code == 0
    assert loba("rm", f"org/model@{ONE}:w.safetensors", "--yes").exit_code == 8


def test_quiet_lists_ids_alone(loba):
    assert loba("ls", "-q").stdout.splitlines() == ["dataset/org/data", "org/model"]
    assert set(loba("ls", "-q", "--revisions", "org/model").stdout.splitlines()) == {
        f"org/model@{ONE}",
        f"org/model@{TWO}",
    }


def test_one_revision_is_verified_alone(loba):
    files = json.loads(loba("verify", "org/model@main", "--json").stdout)["files"]
    assert [each["path"] for each in files] == [f"{TWO[:12]}/c.json"]


@pytest.mark.parametrize("uri", ["hf://models/org/model", "hf://org/model@main", "model/org/model"])
def test_the_hubs_own_addresses_are_taken(loba, uri):
    assert loba("show", uri).exit_code == 0
    assert "org/data" in loba("show", "hf://datasets/org/data").stdout
