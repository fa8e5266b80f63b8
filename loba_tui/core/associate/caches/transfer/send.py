"""Send repositories of this cache to a remote host's: contents first, then what points at them.

So a connection that breaks leaves nothing on the host that looks whole. Nothing that is there is
replaced, and at the end every content is read again there and compared.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from loba_tui.core.associate.caches.hub.cache import hold_repository
from loba_tui.core.associate.caches.hub.layout import Cache, Repository, Revision
from loba_tui.core.associate.caches.hub.requests import Target
from loba_tui.core.associate.caches.transfer.remote_host import Place, RemoteHost
from loba_tui.core.errors import CorruptError, RecipeError, RefusedError, ResourceError
from loba_tui.core.text import clean
from loba_tui.core.units import show_size

_RESERVE_BYTES = 256 * 2**20
_SHA256_LENGTH = 64
_MAX_NAMED = 5

_MAKE = """\
umask 022
mkdir -p -- "$1"
"""
# Of these, each prints a line for every path on its input.
_SUMS = """\
cd -- "$1" || exit 1
if command -v sha256sum >/dev/null; then sum() { sha256sum; }; else sum() { shasum -a 256; }; fi
while IFS= read -r path; do
  if [ -f "$path" ]; then sum <"$path"; else echo missing; fi
done
"""
_LINKS = """\
cd -- "$1" || exit 1
while IFS= read -r path; do
  if [ ! -e "$path" ]; then echo missing; else readlink -- "$path" || echo a file; fi
done
"""
_REFS = """\
cd -- "$1" || exit 1
while IFS= read -r path; do
  if [ -f "$path" ]; then head -n 1 -- "$path" && echo; else echo missing; fi
done
"""


@dataclass(frozen=True)
class SendPlan:
    """Files that are to be sent.

    Attributes:
        contents: Paths of contents, relative to the cache, with their sizes.
        links: For each file of the revisions, the path of its link and the link's text.
        refs: Branches and tags, each with its commit.
        to_send: Bytes that are not there yet.
    """

    place: Place
    targets: tuple[Target, ...]
    contents: dict[str, int]
    links: dict[str, str]
    refs: dict[str, str]
    to_send: int

    @property
    def size(self) -> int:
        """Return the bytes of all contents."""
        return sum(self.contents.values())


def plan_send(
    cache: Cache, root: Path, targets: Sequence[Target], remote: RemoteHost, path: str
) -> SendPlan:
    """Ask the remote host what sending would take; nothing is changed there.

    `path` is the cache's folder there, "" for the one that its client uses.

    Raises:
        CorruptError: Something of it is broken here.
        ResourceError: The remote host cannot be reached, or its disk is too small.
    """
    contents: dict[str, int] = {}
    links: dict[str, str] = {}
    refs: dict[str, str] = {}
    for target in targets:
        repository = cache.repository(target.folder)
        assert repository is not None
        for revision in repository.revisions:
            if target.commit in (None, revision.commit):
                _add(repository, revision, contents, links, refs)
    if not links:
        raise RecipeError("There is nothing whole to send.", "`loba cache show ID` lists it.")
    place = remote.look(path)
    listed = remote.rsync(
        root, place, list(contents), ["--copy-links", "--dry-run", "--out-format=%l %n"]
    )
    files = [line.split(b" ", 1) for line in listed.splitlines() if not line.endswith(b"/")]
    to_send = sum(int(each[0]) for each in files if each[0].isdigit())
    if to_send and place.free < to_send + _RESERVE_BYTES:
        raise ResourceError(
            f"{show_size(to_send)} are to be sent, and {remote.host} has {show_size(place.free)} "
            "free.",
            "Free some there, or send one revision: ID@REVISION.",
        )
    return SendPlan(place, tuple(targets), contents, links, refs, to_send)


def send(
    plan: SendPlan,
    root: Path,
    remote: RemoteHost,
    screen: TextIO | None = None,
    *,
    say: Callable[[str], None] = lambda text: None,
) -> list[str]:
    """Send what a plan lists, and return branches and tags that stand elsewhere there.

    Args:
        root: This cache's folder.
        screen: A terminal to draw progress on.
        say: Told what is being done.

    Raises:
        ResourceError: The connection broke, or the disk is full; what came is kept.
        CorruptError: A content on the host is not what it should be.
        InUseError: It is being deleted here.
    """
    remote.run(_MAKE, plan.place.root)
    say(f"sending {show_size(plan.to_send)}")
    with ExitStack() as stack:
        for folder in sorted({target.folder for target in plan.targets}):
            stack.enter_context(hold_repository(root, folder))
        remote.rsync(root, plan.place, list(plan.contents), ["--copy-links"], screen=screen)
        expected = {path: _sha256_of(root, path) for path in plan.contents}
    say(f"reading {show_size(plan.size)} again on {remote.host}")
    found = _lines_for(remote, plan, _SUMS, list(plan.contents))
    _refuse_differences(remote, expected, {path: sum_.split()[0] for path, sum_ in found.items()})
    with tempfile.TemporaryDirectory(prefix="loba-") as staged:
        stage = Path(staged)
        for path, text in plan.links.items():
            (stage / path).parent.mkdir(parents=True, exist_ok=True)
            os.symlink(text, stage / path)
        remote.rsync(stage, plan.place, list(plan.links), ["--links"])
        for path, commit in plan.refs.items():
            (stage / path).parent.mkdir(parents=True, exist_ok=True)
            (stage / path).write_text(commit)
        remote.rsync(stage, plan.place, list(plan.refs), [])
    links = _lines_for(remote, plan, _LINKS, list(plan.links))
    # Where a disk knows no links, a file of that name may stand there since before.
    _refuse_differences(remote, plan.links, links, "a file")
    there = _lines_for(remote, plan, _REFS, list(plan.refs))
    return [path for path, commit in plan.refs.items() if there[path] != commit]


def _add(
    repository: Repository,
    revision: Revision,
    contents: dict[str, int],
    links: dict[str, str],
    refs: dict[str, str],
) -> None:
    broken = [file for file in revision.files if file.problem or file.blob is None]
    if broken or not revision.is_readable:
        what = clean(broken[0].path, limit=120) if broken else "a folder of it"
        raise CorruptError(
            f"{clean(repository.name)}@{revision.commit[:12]} is not whole here: {what}.",
            "Fetch it again with `loba cache pull`, then send it.",
        )
    folder = repository.folder
    for file in revision.files:
        assert file.blob is not None
        contents[f"{folder}/blobs/{file.blob}"] = file.size
        up = "../" * (2 + file.path.count("/"))
        if "\n" in file.path:
            raise RefusedError(f"{clean(file.path, limit=120)}: a name of several lines.")
        links[f"{folder}/snapshots/{revision.commit}/{file.path}"] = f"{up}blobs/{file.blob}"
    for ref in revision.refs:
        refs[f"{folder}/refs/{ref}"] = revision.commit


def _sha256_of(root: Path, path: str) -> str:
    """Return what a content's sha256 is to be: large ones carry it as their name."""
    name = path.rpartition("/")[2]
    if len(name) == _SHA256_LENGTH:
        return name
    with (root / path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _refuse_differences(
    remote: RemoteHost, expected: Mapping[str, str], there: Mapping[str, str], *also: str
) -> None:
    wrong = [path for path, value in expected.items() if there[path] not in (value, *also)]
    if wrong:
        named = ", ".join(clean(path, limit=120) for path in wrong[:_MAX_NAMED])
        more = f" and {len(wrong) - _MAX_NAMED} more" if len(wrong) > _MAX_NAMED else ""
        raise CorruptError(
            f"{remote.host} holds other contents than it should: {named}{more}.",
            "What was there before is never replaced: remove it there, and send again.",
        )


def _lines_for(
    remote: RemoteHost, plan: SendPlan, script: str, paths: Sequence[str]
) -> dict[str, str]:
    lines = [os.fsencode(path) + b"\n" for path in paths]
    answer = remote.run(script, plan.place.root, lines=lines).decode("utf-8", "surrogateescape")
    said = [line for line in answer.split("\n") if line]
    if len(said) != len(paths):
        raise ResourceError(
            f"{remote.host} cannot say what it holds.", "It needs sha256sum and readlink."
        )
    return dict(zip(paths, said, strict=True))
