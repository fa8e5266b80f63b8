"""Which images a recipe's sources hold, and where the caption and mask of each one lie.

Three layouts, told apart by what is there: a folder of images with caption files beside them; the
`imagefolder` layout of Hugging Face datasets, where metadata.jsonl or metadata.csv names the
images; and parquet tables with the images in them. Nothing is decoded here.
"""

from __future__ import annotations

import csv
import io
import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from loba_tui.core.foreign_json import parse_json
from loba_tui.core.program.data import parquet
from loba_tui.core.program.data.captions import BadCaption, caption_in, caption_of_json, decode_text
from loba_tui.core.program.data.images import IMAGE_SUFFIXES, UNREADABLE_SUFFIXES
from loba_tui.core.recipe.sections.data import CaptionSection, DataSection, DataSource
from loba_tui.core.user_folders import with_home
from loba_tui.models import BUILTIN_PREFIX, builtin_data, builtin_data_names

METADATA_NAMES = ("metadata.jsonl", "metadata.csv")
MAX_METADATA_BYTES = 512 * 2**20
_FILE_KEYS = ("file_name", "image")


@dataclass(frozen=True)
class BadFile:
    """Something of the data that cannot be used; `name` is as the recipe's source names it."""

    name: str
    problem: str


@dataclass(frozen=True)
class Item:
    """One image of a source, not opened yet.

    Attributes:
        name: As shown: the source's path and the file's place in it.
        source: Index of its source in the recipe.
        key: Its place in the source without the ending; pairs and masks are found by it.
        path: The image file, or the parquet file that it lies in.
        row: Of the parquet file; None for an image file.
        caption: From the source or its metadata; None where it is in a file of its own.
        caption_file: Where it is otherwise; None where there is no such file.
        mask_file: None where the source has no masks.
    """

    name: str
    source: int
    key: str
    path: Path
    row: int | None = None
    caption: str | None = None
    caption_file: Path | None = None
    mask_file: Path | None = None

    def read(self) -> bytes:
        """Return the image file's bytes.

        Raises:
            OSError: It cannot be read, or is no ordinary file.
        """
        if self.row is not None:
            return parquet.image_bytes(self.path, self.row)
        return read_file(self.path)

    def read_caption(self, settings: CaptionSection) -> str | None:
        """Return the caption as it is written, or None where there is none.

        Raises:
            BadCaption: It cannot be read as a caption.
            OSError: Its file cannot be read.
        """
        if self.caption is not None or self.caption_file is None:
            return self.caption
        text = decode_text(read_file(self.caption_file), settings.encoding)
        is_json = self.caption_file.suffix == ".json"
        return caption_of_json(text, settings) if is_json else text


@dataclass
class Listing:
    """Listing of a source: its images, and problems that show before any of them is opened."""

    items: list[Item] = field(default_factory=list)
    bad: list[BadFile] = field(default_factory=list)


def read_file(path: Path) -> bytes:
    """Return the bytes of an ordinary file; a pipe or device would block for ever.

    Raises:
        OSError: It cannot be read.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError("not an ordinary file")
        return file.read()


def list_items(data: DataSection) -> Listing:
    """Return every image that the recipe's sources hold, in an order that is always the same."""
    listing = Listing()
    for index, source in enumerate(data.sources):
        _SourceReader(listing, index, source, data.captions).add_all()
    return listing


def source_path(path: str) -> Path | None:
    """Return where a source lies; None for a built-in one that is not there."""
    if path.startswith(BUILTIN_PREFIX):
        return builtin_data(path.removeprefix(BUILTIN_PREFIX))
    return with_home(path)


@dataclass(frozen=True)
class _SourceReader:
    """Lists one source of a recipe."""

    listing: Listing
    index: int
    source: DataSource
    settings: CaptionSection

    def add_all(self) -> None:
        """Add what the source holds to the listing; one without images is a problem."""
        path, listing = self.source.path, self.listing
        before = len(listing.items), len(listing.bad)
        root = source_path(path)
        if root is None:
            known = ", ".join(builtin_data_names())
            self._refuse(path, f"there is no such data set; there is {known}")
        elif root.suffix.lower() == ".parquet" and root.is_file():
            self._list_parquet(root, path)
        elif root.is_dir():
            self._list_folder(root)
        else:
            what = "is neither a folder nor a .parquet file" if root.exists() else "does not exist"
            self._refuse(path, what)
        if before == (len(listing.items), len(listing.bad)):
            self._refuse(path, f"holds no image ({', '.join(IMAGE_SUFFIXES)})")

    def _refuse(self, name: str, problem: str) -> None:
        self.listing.bad.append(BadFile(name, problem))

    def _list_folder(self, root: Path) -> None:
        source, settings = self.source, self.settings
        files = self._files_below(root)
        tables = {path: files[path] for path in files if PurePosixPath(path).name in METADATA_NAMES}
        masks = self._masks()
        named: dict[str, str] = {}
        for place, path in tables.items():
            named |= self._read_metadata(place, path, files)
        for place, path in files.items():
            suffix = path.suffix.lower()
            name = f"{source.path}/{place}"
            if suffix == ".parquet":
                self._list_parquet(path, name)
            if suffix in UNREADABLE_SUFFIXES:
                self._refuse(name, f"{suffix} files cannot be read; convert it to PNG")
            if suffix not in IMAGE_SUFFIXES:
                continue
            key = place[: -len(suffix)]
            caption = source.caption if source.caption is not None else named.get(place)
            beside = (f"{key}{settings.extension}", f"{key}.json", f"{place}{settings.extension}")
            caption_file = next((files[other] for other in beside if other in files), None)
            mask_file = None
            if masks is not None:
                mask_file = masks.get(key)
                if mask_file is None:
                    self._refuse(name, f"has no mask in {source.masks}")
            self.listing.items.append(
                Item(name, self.index, key, path, None, caption, caption_file, mask_file)
            )

    def _files_below(self, root: Path) -> dict[str, Path]:
        """Return the files of a folder by their place in it; what is hidden is left alone."""

        def failed(error: OSError) -> None:
            where = error.filename or self.source.path
            self._refuse(os.fsdecode(where), f"cannot be listed: {error.strerror}")

        found: dict[str, Path] = {}
        for folder, folders, names in os.walk(root, onerror=failed):
            folders[:] = sorted((f for f in folders if not f.startswith(".")), key=os.fsencode)
            for name in sorted(names, key=os.fsencode):
                if not name.startswith("."):
                    path = Path(folder) / name
                    found[path.relative_to(root).as_posix()] = path
        return found

    def _masks(self) -> dict[str, Path] | None:
        """Return the masks of a source by the images' keys, or None where it has no masks."""
        if self.source.masks is None:
            return None
        root = source_path(self.source.masks)
        if root is None or not root.is_dir():
            self._refuse(self.source.masks, "there is no such folder of masks")
            return None
        files = self._files_below(root)
        return {
            place[: -len(path.suffix)]: path
            for place, path in files.items()
            if path.suffix.lower() in IMAGE_SUFFIXES
        }

    def _read_metadata(self, place: str, path: Path, files: Mapping[str, Path]) -> dict[str, str]:
        """Return the captions in a metadata file by the images' places in the source."""
        source, settings = self.source, self.settings
        name = f"{source.path}/{place}"
        try:
            if path.stat().st_size > MAX_METADATA_BYTES:
                raise BadCaption(f"it is larger than {MAX_METADATA_BYTES // 2**20} MiB")
            text = decode_text(read_file(path), settings.encoding)
        except (BadCaption, OSError) as error:
            self._refuse(name, reason(error))
            return {}
        captions: dict[str, str] = {}
        rows = _jsonl_rows(text) if path.suffix == ".jsonl" else _csv_rows(text)
        for line, row in rows:
            where = f"{name}:{line}"
            file_name = next((row[key] for key in _FILE_KEYS if key in row), None)
            if isinstance(row.get(""), str):
                self._refuse(where, row[""])
                continue
            if not isinstance(file_name, str) or not file_name:
                self._refuse(where, "it has no file_name")
                continue
            image = os.path.normpath(PurePosixPath(place).parent / file_name)
            if file_name.startswith("/") or image.startswith(".."):
                self._refuse(where, f"{file_name} lies outside of the source")
            elif image not in files:
                self._refuse(where, f"{file_name} is not there")
            elif image in captions:
                self._refuse(where, f"{file_name} is named twice")
            elif settings.key in row and row[settings.key] is not None:
                try:
                    captions[image] = caption_in(row, settings)
                except BadCaption as error:
                    self._refuse(where, str(error))
            elif settings.missing is None and source.caption is None:
                keys = ", ".join(key for key in row if key not in _FILE_KEYS) or "nothing else"
                self._refuse(
                    where, f"it has no {settings.key!r} (it has {keys}); data.captions.key"
                )
        return captions

    def _list_parquet(self, path: Path, name: str) -> None:
        source, settings = self.source, self.settings
        try:
            captions = parquet.captions(path, settings.key)
        except parquet.BadTable as error:
            self._refuse(name, str(error))
            return
        for row, caption in enumerate(captions):
            if source.caption is not None:
                caption = source.caption
            elif isinstance(caption, list):
                caption = f"{settings.separator} ".join(map(str, caption))
            where = f"{name}:{row}"
            if source.masks is not None:
                self._refuse(where, "masks are for folders of images")
            self.listing.items.append(
                Item(where, self.index, f"{path.stem}:{row}", path, row, caption)
            )


def _jsonl_rows(text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield line number and table of each line; what is wrong with a line is under the key ""."""
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = parse_json(line)
        except ValueError as error:
            yield number, {"": f"not valid JSON: {error}"}
            continue
        yield number, row if isinstance(row, dict) else {"": "expected a JSON table"}


def _csv_rows(text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    reader = csv.DictReader(io.StringIO(text, newline=""))
    try:
        for row in reader:
            # Cells beyond the header are under None.
            plain = {key: value for key, value in row.items() if isinstance(key, str) and key}
            extra = {"": "it has more cells than the header"} if None in row else {}
            yield reader.line_num, {**plain, **extra}
    except csv.Error as error:
        yield reader.line_num, {"": f"not valid CSV: {error}"}


def reason(error: Exception) -> str:
    """Return what an exception says, without a path that the name has already said."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__
