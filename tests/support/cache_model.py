"""A model of a cache, as dictionaries, beside a real one: after every step both must agree."""

from __future__ import annotations

import os
import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hub_layouts import add_revision, commit_of, folder_name, listing
from huggingface_hub import scan_cache_dir

from loba_tui.core.associate.caches.hub.cache import HubCache
from loba_tui.core.associate.caches.hub.requests import Prune, Removal, Target
from loba_tui.core.errors import RecipeError, RefusedError

REPOS = ("org/a", "org/b", "org/c")
REVISIONS = ("one", "two", "three")
REFS = ("main", "refs/pr/1")
# Large ones of the same name are the same in all repositories, so the shared store is in play.
FILES = ("config.json", "unet/common.safetensors", "unet/own.safetensors", "same.safetensors")
SHARING = ("org/b", "org/c")
FAR_FUTURE = 4e9

Step = tuple[Any, ...]
Revisions = dict[tuple[str, str], set[str]]


def content_of(repo: str, revision: str, name: str) -> bytes:
    if name == "unet/common.safetensors":
        return b"common to all repositories" * 20
    if name == "same.safetensors":
        return f"same in all revisions of {repo}".encode() * 9
    return f"{repo} {revision} {name}".encode() * (7 if name.startswith("unet") else 1)


@dataclass
class Binned:
    entry: str
    revisions: Revisions
    refs: dict[tuple[str, str], str]


@dataclass
class Pair:
    """The real cache under `place`, and the model of it."""

    place: Path
    revisions: Revisions = field(default_factory=dict)
    refs: dict[tuple[str, str], str] = field(default_factory=dict)
    pins: set[tuple[str, str | None]] = field(default_factory=set)
    trash: list[Binned] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.root = self.place / "hub"
        self.root.mkdir(parents=True)
        self.outside = self.place / "outside"
        self.outside.mkdir()
        (self.outside / "precious.safetensors").write_bytes(b"never touched")
        self.before = listing(self.outside)
        self.cache = HubCache(self.root)

    def apply(self, step: Step) -> None:
        """Do one step to both, and compare them."""
        getattr(self, f"do_{step[0]}")(*step[1:])
        self.check()

    def do_pull(self, repo: str, revision: str, names: frozenset[str], ref: str | None) -> None:
        files = {name: content_of(repo, revision, name) for name in sorted(names)}
        commit = commit_of(f"{repo} {revision}")
        add_revision(self.root, repo, commit, files, ref=ref, shared=repo in SHARING)
        self.revisions.setdefault((repo, revision), set()).update(names)
        if ref is not None:
            self.refs[repo, ref] = revision

    def do_delete(self, repo: str, revision: str | None) -> None:
        gone = [key for key in self.revisions if key[0] == repo and revision in (None, key[1])]
        if not gone:
            return
        target = Target(folder_name(repo), commit_of(f"{repo} {revision}") if revision else None)
        is_whole = len(gone) == sum(key[0] == repo for key in self.revisions)
        self._remove(Removal((target,)), gone, refused=self._is_pinned(repo, gone, is_whole))

    def do_delete_file(self, repo: str, revision: str, name: str) -> None:
        key = (repo, revision)
        if name not in self.revisions.get(key, set()):
            return
        if self.revisions[key] == {name}:
            # A revision without files is none.
            is_whole = sum(each[0] == repo for each in self.revisions) == 1
            refused = self._is_pinned(repo, [key], is_whole)
        else:
            refused = self._is_pinned(repo, [key], is_whole=False)
        target = Target(folder_name(repo), commit_of(f"{repo} {revision}"), name)
        gone = [key] if self.revisions[key] == {name} else []
        self._remove(Removal((target,)), gone, refused=refused, file=None if gone else (key, name))

    def do_prune(self) -> None:
        standing = {(repo, revision) for (repo, _), revision in self.refs.items()}
        gone = [key for key in self.revisions if key not in standing]
        gone = [key for key in gone if not self._is_pinned(key[0], [key], is_whole=False)]
        request = Prune(
            now=FAR_FUTURE, detached=True, incomplete=True, unreferenced=True, grace_seconds=0
        )
        self._remove(request, gone, refused=False)

    def _is_pinned(self, repo: str, gone: list[tuple[str, str]], is_whole: bool) -> bool:
        if (repo, None) in self.pins or any(key in self.pins for key in gone):
            return True
        return is_whole and any(pin[0] == repo for pin in self.pins)

    def _remove(
        self,
        request: Removal | Prune,
        gone: list[tuple[str, str]],
        *,
        refused: bool,
        file: tuple[tuple[str, str], str] | None = None,
    ) -> None:
        plan = self.cache.plan(request)
        size = disk_size(self.root)
        try:
            entry = self.cache.execute(plan)
        except RefusedError:
            assert refused
            assert disk_size(self.root) == size
            return
        assert not refused
        assert size - disk_size(self.root) == plan.frees
        if entry is None:
            assert not gone
            return
        refs = {key: revision for key, revision in self.refs.items() if (key[0], revision) in gone}
        if file is not None:
            key, name = file
            self.revisions[key] = self.revisions[key] - {name}
            self.trash.append(Binned(entry.id, {key: {name}}, {}))
            return
        self.trash.append(Binned(entry.id, {key: self.revisions.pop(key) for key in gone}, refs))
        for key in refs:
            del self.refs[key]

    def do_undo(self, number: int) -> None:
        if not self.trash:
            try:
                self.cache.undo()
            except RecipeError:
                return
            raise AssertionError("an empty trash brought something back")
        number = len(self.trash) - 1 - number % len(self.trash)
        binned = self.trash.pop(number)
        is_last = number == len(self.trash)
        restored = self.cache.undo(None if is_last else binned.entry)
        assert restored.entry.id == binned.entry
        assert not restored.missing
        for key, names in binned.revisions.items():
            self.revisions.setdefault(key, set()).update(names)
        self.refs = {**binned.refs, **self.refs}

    def do_empty(self, number: int) -> None:
        if not self.trash:
            return
        binned = self.trash.pop(number % len(self.trash))
        entry = self.cache.find_entry(binned.entry)
        promised = self.cache.trash_size([entry])
        size = disk_size(self.place)
        assert self.cache.empty_trash([entry]) == promised
        assert size - disk_size(self.place) == promised

    def do_pin(self, repo: str, revision: str | None, keep: bool) -> None:
        commit = commit_of(f"{repo} {revision}") if revision else None
        self.cache.pin([Target(folder_name(repo), commit)], keep=keep)
        (self.pins.add if keep else self.pins.discard)((repo, revision))

    def do_foreign_delete(self, repo: str, revision: str) -> None:
        """Let the hub's own client delete a revision, which knows no trash and no pins."""
        if (repo, revision) not in self.revisions:
            return
        scan_cache_dir(self.root).delete_revisions(commit_of(f"{repo} {revision}")).execute()
        del self.revisions[repo, revision]
        self.refs = {
            key: value for key, value in self.refs.items() if (key[0], value) != (repo, revision)
        }

    def check(self) -> None:
        """Compare every revision, ref and content, with the hub's own scan as the judge."""
        assert listing(self.outside) == self.before
        scanned = self.cache.scan()
        there = {(r.id, rev.commit): rev for r in scanned.repositories for rev in r.revisions}
        commits = {(repo, commit_of(f"{repo} {rev}")): rev for repo, rev in self.revisions}
        assert there.keys() == commits.keys()
        for (repo, commit), revision in commits.items():
            names = self.revisions[repo, revision]
            found = {file.path: file for file in there[repo, commit].files}
            assert found.keys() == names
            snapshot = self.root / folder_name(repo) / "snapshots" / commit
            for name in names:
                assert found[name].problem is None
                assert (snapshot / name).read_bytes() == content_of(repo, revision, name)
        refs = {(r.id, ref): commit for r in scanned.repositories for ref, commit in r.refs.items()}
        assert refs == {
            (repo, ref): commit_of(f"{repo} {revision}")
            for (repo, ref), revision in self.refs.items()
        }
        # A link that its manifest does not name is one that the client collects from under it.
        for payload in scanned.payloads.values():
            manifest = (self.root / f"{payload.path}.refs").read_text().split()
            assert payload.references is not None
            assert payload.references <= set(manifest)
        judged = scan_cache_dir(self.root)
        assert [
            str(w) for w in judged.warnings if "Snapshots dir doesn't exist" not in str(w)
        ] == []
        assert {
            (repo.repo_id, rev.commit_hash): rev.size_on_disk
            for repo in judged.repos
            for rev in repo.revisions
        } == {key: revision.size for key, revision in there.items()}
        assert [entry.id for entry in self.cache.trash()] == [each.entry for each in self.trash]


def disk_size(root: Path) -> int:
    """Return the bytes of all contents below a folder, each inode once."""
    seen = {}
    for folder, _, names in os.walk(root):
        for name in names:
            path = os.path.join(folder, name)
            is_content = "blobs" in folder.split("/") or "trash" in folder.split("/")
            is_told_of = name.endswith((".refs", ".lock", ".json", ".huggingface-shared-blobs"))
            if is_content and not is_told_of and not os.path.islink(path):
                facts = os.lstat(path)
                seen[facts.st_ino] = facts.st_size
    return sum(seen.values())


def random_step(random: random.Random) -> Step:
    """Return one step of a random sequence."""
    repo, revision = random.choice(REPOS), random.choice(REVISIONS)
    kind = random.choice(
        ["pull"] * 5
        + ["delete", "delete_file"] * 3
        + ["undo"] * 3
        + ["prune", "empty", "pin", "foreign_delete"]
    )
    if kind == "delete_file":
        return (kind, repo, revision, random.choice(FILES))
    if kind == "pull":
        names = frozenset(random.sample(FILES, random.randint(1, len(FILES))))
        return (kind, repo, revision, names, random.choice([None, *REFS]))
    if kind == "delete":
        return (kind, repo, random.choice([None, revision, revision]))
    if kind in ("undo", "empty"):
        return (kind, random.choice([0, 0, 1, 2]))
    if kind == "pin":
        return (kind, repo, random.choice([None, revision]), random.random() < 0.4)
    return (kind,) if kind == "prune" else (kind, repo, revision)
