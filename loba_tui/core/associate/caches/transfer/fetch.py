"""Fetch files of one commit into the cache, each resumed where an earlier attempt broke off.

The hub's client starts a file anew in every process, asks once for a content whatever the answer,
and compares nothing but its size. So contents come here: into `blobs/<etag>.incomplete`, where any
later attempt goes on, and under their own name only once their checksum is what the hub lists. The
client links them into the revision. What the hub serves through Xet is left to the client: that
protocol checks every piece itself.
"""

from __future__ import annotations

import errno
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from huggingface_hub import (
    HfApi,
    get_hf_file_metadata,
    hf_hub_download,
    hf_hub_url,
    try_to_load_from_cache,
)
from huggingface_hub.errors import HfHubHTTPError, HTTPError
from huggingface_hub.file_download import http_get, is_xet_available
from huggingface_hub.utils import WeakFileLock, build_hf_headers
from tqdm import tqdm

from loba_tui.core import names
from loba_tui.core.associate.caches.hub.layout import LOCKS, folder_of
from loba_tui.core.associate.caches.hub.verify import checksum_of
from loba_tui.core.associate.caches.transfer.retry import WAITS_SECONDS, asked, is_passing
from loba_tui.core.errors import CorruptError, ResourceError
from loba_tui.core.text import clean
from loba_tui.core.units import show_size

_WORKERS = 4
# A disk that is filled to the last byte breaks more than this fetch.
_RESERVE_BYTES = 256 * 2**20
_DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_NOT_WRITABLE = frozenset({errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO})

Report = Callable[["WantedFile | None", int], None]
"""Told a file that is complete, or None and a number of bytes that came; from several threads."""


class WantedFile(NamedTuple):
    """A file that is wanted.

    Attributes:
        checksum: sha256 or git's sha1, whichever the hub lists; None where it lists none.
        is_there: Whether it is in the cache already.
        partial: Bytes that an earlier attempt left of it.
    """

    path: str
    size: int
    checksum: str | None = None
    is_there: bool = False
    partial: int = 0


class Stopped(Exception):
    """Another file failed, and so this one is not fetched further."""


def list_files(api: HfApi, model_id: str, commit: str) -> dict[str, WantedFile]:
    """Return all files of a commit by path, with size and checksum.

    Raises:
        RefusedError: A name leads out of the repository.
        Exception: What the hub's client raises.
    """
    names.check_repository(model_id)
    names.check_commit(commit)
    # Not the tree's listing: the client asks for that for half a minute where the hub is away.
    info = asked(lambda: api.model_info(model_id, revision=commit, files_metadata=True))
    for each in info.siblings or []:
        names.check_path(each.rfilename)
    return {
        each.rfilename: WantedFile(
            each.rfilename, each.size or 0, each.lfs.sha256 if each.lfs else each.blob_id
        )
        for each in info.siblings or []
    }


def with_state(root: Path, model_id: str, commit: str, file: WantedFile) -> WantedFile:
    """Return a wanted file with what the cache holds of it already."""
    _check_names(model_id, commit, file)
    found = try_to_load_from_cache(model_id, file.path, revision=commit, cache_dir=root)
    if isinstance(found, str):
        return file._replace(is_there=True)
    try:
        # The hub's etags are checksums; another server's partial files are found all the same when
        # it comes to fetching.
        partial = os.lstat(root / folder_of(model_id) / "blobs" / f"{file.checksum}.incomplete")
    except OSError:
        return file
    return file._replace(partial=min(partial.st_size, file.size))


def fetch_files(
    root: Path,
    model_id: str,
    commit: str,
    files: Sequence[WantedFile],
    report: Report,
    *,
    token: bool | None = None,
) -> None:
    """Fetch files of a commit, several at a time; those that are there already are passed over.

    Args:
        token: False fetches as anybody, without the login.

    Raises:
        RefusedError: A name leads out of the repository or the cache.
        ResourceError: The disk is too small, or filled up; what came is kept.
        CorruptError: A content is not what the hub lists.
        Exception: What the hub's client raises.
    """
    missing = [file for file in files if not file.is_there]
    for file in missing:
        _check_names(model_id, commit, file)
    _check_disk(root, total(missing))
    stop = threading.Event()

    class Counting(NoBar):
        def update(self, n: float | None = 1) -> None:
            if stop.is_set():
                raise Stopped
            report(None, int(n or 0))

    def fetch(file: WantedFile) -> WantedFile:
        _Fetch(root, model_id, commit, file, Counting, token=token).run()
        return file

    with ThreadPoolExecutor(_WORKERS) as pool:
        waiting = [pool.submit(fetch, file) for file in missing]
        try:
            for done in as_completed(waiting):
                report(done.result(), 0)
        except BaseException:
            stop.set()
            pool.shutdown(cancel_futures=True)
            raise


def _check_names(model_id: str, commit: str, file: WantedFile) -> None:
    names.check_repository(model_id)
    names.check_commit(commit)
    names.check_path(file.path)
    if file.checksum is not None:
        names.check_etag(file.checksum)


class _Fetch:
    """Fetches one file."""

    def __init__(
        self,
        root: Path,
        model_id: str,
        commit: str,
        file: WantedFile,
        bar: type[tqdm],
        *,
        token: bool | None,
    ) -> None:
        self._token = token
        self._root = root
        self._id = model_id
        self._commit = commit
        self._file = file
        self._bar = bar
        self._url = hf_hub_url(model_id, file.path, revision=commit)

    def run(self) -> None:
        try:
            self._fetch()
        except OSError as error:
            raise self._explained(error) from error

    def _fetch(self) -> None:
        facts = get_hf_file_metadata(self._url, retry_on_errors=True, token=self._token)
        blob = None
        if facts.xet_file_data is None or not is_xet_available():
            blob = self._blob(facts.etag)
        if blob is not None:
            self._fetch_blob(blob, facts.size)
        linked = hf_hub_download(
            self._id,
            self._file.path,
            revision=self._commit,
            cache_dir=self._root,
            tqdm_class=self._bar,
            token=self._token,
        )
        if blob is not None and not os.path.islink(linked):
            # A disk that knows no links: the client has made a copy.
            blob.unlink(missing_ok=True)
        there = Path(os.path.realpath(linked))
        if facts.xet_file_data is None and there != blob and not self._is_sound(there):
            # The server told the client of another content than it told before.
            Path(linked).unlink(missing_ok=True)
            there.unlink(missing_ok=True)
            raise self._altered()

    def _blob(self, etag: str | None) -> Path | None:
        """Return where a content belongs; None leaves it to the client, which has its own say."""
        if not etag:
            return None
        names.check_etag(etag)
        return self._root / folder_of(self._id) / "blobs" / etag

    def _fetch_blob(self, blob: Path, size: int | None) -> None:
        folder = self._root / LOCKS / folder_of(self._id)
        folder.mkdir(parents=True, exist_ok=True)
        blob.parent.mkdir(parents=True, exist_ok=True)
        with WeakFileLock(folder / f"{blob.name}.lock"):
            if os.path.lexists(blob):
                return
            partial = blob.with_name(f"{blob.name}.incomplete")
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            with open(os.open(partial, flags, 0o666), "r+b") as file:
                try:
                    was_resumed = self._fill(file, size)
                except OSError as error:
                    if error.errno is None and isinstance(self._explained(error), CorruptError):
                        partial.unlink()
                    raise
                is_sound = self._is_sound(partial)
                if not is_sound and was_resumed:
                    # The beginning may be from another server, or from before a power cut.
                    file.truncate(0)
                    self._fill(file, size)
                    is_sound = self._is_sound(partial)
                os.fsync(file.fileno())
            if not is_sound:
                partial.unlink()
                raise self._altered()
            os.replace(partial, blob)

    def _fill(self, file: BinaryIO, size: int | None) -> bool:
        """Fetch what is missing of a content, and say whether there was a beginning of it."""
        there = file.seek(0, os.SEEK_END)
        if size is not None and there > size:
            file.truncate(0)
            there = file.seek(0)
        begun = there > 0
        # A compressed answer could not be gone on with by a number of bytes.
        headers = {**build_hf_headers(token=self._token), "Accept-Encoding": "identity"}
        num_in_vain = 0
        while True:
            try:
                # The client goes on by itself where a connection ends early, but not where it is
                # reset, nor where an answer says that the server is busy.
                http_get(
                    self._url,
                    file,
                    resume_size=there,
                    headers=headers,
                    expected_size=size,
                    tqdm_class=self._bar,
                )
                file.flush()
                return begun
            except (HTTPError, ConnectionError) as error:
                status = error.response.status_code if isinstance(error, HfHubHTTPError) else 0
                if status == 416:
                    file.truncate(0)  # what is there is longer than the content
                elif not is_passing(error):
                    raise
                came = file.seek(0, os.SEEK_END)
                num_in_vain = 0 if came > there else num_in_vain + 1
                there = came
                if num_in_vain > (len(WAITS_SECONDS) if status else 1):
                    raise
                time.sleep(WAITS_SECONDS[max(0, num_in_vain - 1)])

    def _is_sound(self, path: Path) -> bool:
        expected = self._file.checksum
        return expected is None or checksum_of(path, expected) in (None, expected)

    def _altered(self) -> CorruptError:
        return CorruptError(
            f"{clean(self._id)}: what came as {clean(self._file.path)} is not what the hub lists: "
            "its checksum is another one.",
            "Nothing of it was kept. Start again; if it stays so, a proxy or mirror in between "
            "alters files.",
        )

    def _explained(self, error: OSError) -> Exception:
        if isinstance(error, HTTPError | ConnectionError | TimeoutError | FileNotFoundError):
            return error
        if error.errno is None:
            # The client says so of a content that ended well and has another size.
            return self._altered()
        what = f"{clean(self._file.path)} was fetched: {error.strerror or error}."
        if error.errno in _DISK_FULL:
            hint = "Free some and start again; what was fetched is kept."
            return ResourceError(f"The disk became full while {what}", hint)
        if error.errno in _NOT_WRITABLE:
            hint = "Check who owns the cache, or set HF_HUB_CACHE to a folder that can be written."
            return ResourceError(f"The cache could not be written while {what}", hint)
        return ResourceError(f"The system refused something while {what}", "Start again.")


def _check_disk(root: Path, needed: int) -> None:
    there = root
    while not there.exists():
        there = there.parent
    free = shutil.disk_usage(there).free
    if needed and free < needed + _RESERVE_BYTES:
        raise ResourceError(
            f"{show_size(needed)} are to be fetched, and {clean(there)} has {show_size(free)} "
            "free.",
            "Free some with `loba cache prune` and `loba cache trash empty`, or fetch less: "
            "--variant fp16, --only unet.",
        )


class NoBar(tqdm):
    """The progress bar that is not drawn; one would break the progress line and the log."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "disable": True})


def total(files: Iterable[WantedFile]) -> int:
    """Return the bytes that are still to be fetched."""
    return sum(file.size - file.partial for file in files if not file.is_there)
