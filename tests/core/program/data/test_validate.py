"""Real files in real folders: every layout is read, and all that is bad is told at once."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from loba_tui.core.errors import DataError, ExitCode
from loba_tui.core.program.data.items import BadFile, list_items
from loba_tui.core.program.data.validate import MOST_SHOWN, Scan, data_error, scan
from loba_tui.core.recipe.sections.data import DataSection


def put(path: Path, *, size: tuple[int, int] = (8, 8), caption: str | None = "a dot") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, "red").save(path)
    if caption is not None:
        path.with_suffix(".txt").write_text(caption, encoding="utf-8")
    return path


def section(*paths: Path | str, **options: Any) -> DataSection:
    sources = [path if isinstance(path, dict) else {"path": str(path)} for path in paths]
    return DataSection.model_validate({"sources": sources, **options})


def problems(found: Scan, root: Path) -> dict[str, str]:
    """Return what is wrong by file, the folder's own path left out."""
    told: dict[str, str] = {}
    for bad in found.bad:
        name = bad.name.removeprefix(f"{root}/")
        told[name] = f"{told[name]}; {bad.problem}" if name in told else bad.problem
    return told


def captions(found: Scan) -> dict[str, str]:
    return {image.item.key: image.caption for image in found.images}


def test_a_folder_with_captions_beside_the_images(tmp_path: Path) -> None:
    put(tmp_path / "a.png", caption="one")
    put(tmp_path / "deep" / "b.jpg", caption="two\nlines")
    put(tmp_path / "c.PNG", caption=None)
    (tmp_path / "c.json").write_text(json.dumps({"text": ["x", "y"]}))
    put(tmp_path / ".hidden" / "d.png", caption=None)
    (tmp_path / "notes.md").write_text("not a caption")
    (tmp_path / "._e.png").write_bytes(b"left by a Mac")
    found = scan(section(tmp_path))
    assert found.bad == ()
    assert captions(found) == {"a": "one", "c": "x, y", "deep/b": "two lines"}


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_the_imagefolder_layout(kind: str, tmp_path: Path) -> None:
    put(tmp_path / "train" / "a.png", caption=None)
    put(tmp_path / "train" / "b.png", caption=None)
    if kind == "jsonl":
        lines = [{"file_name": "a.png", "prompt": "one"}, {"file_name": "b.png", "prompt": "two"}]
        text = "\n".join(map(json.dumps, lines))
    else:
        text = 'file_name,prompt\na.png,one\nb.png,"two"\n'
    (tmp_path / "train" / f"metadata.{kind}").write_text(text)
    found = scan(section(tmp_path, captions={"key": "prompt"}))
    assert found.bad == ()
    assert captions(found) == {"train/a": "one", "train/b": "two"}


def test_parquet_as_datasets_writes_it(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    images = [put(tmp_path / "x" / f"{i}.png", size=(8 + i, 8)).read_bytes() for i in range(5)]
    cells = [{"bytes": content, "path": f"{i}.png"} for i, content in enumerate(images)]
    cells[3] = {"bytes": None, "path": "elsewhere.png"}
    table = pyarrow.table({"image": cells, "text": ["a", "b", "c", "d", None]})
    parquet.write_table(table, tmp_path / "train.parquet", row_group_size=2)
    found = scan(section(tmp_path / "train.parquet"))
    assert [image.size for image in found.images] == [(8, 8), (9, 8), (10, 8)]
    assert [image.caption for image in found.images] == ["a", "b", "c"]
    assert problems(found, tmp_path) == {
        "train.parquet:3": "the row holds no bytes of an image",
        "train.parquet:4": "has no caption; data.captions.missing would give it one",
    }
    parquet.write_table(pyarrow.table({"text": ["a"]}), tmp_path / "none.parquet")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 but no more")
    bad = scan(section(tmp_path / "none.parquet", tmp_path / "broken.parquet"))
    assert ["no column of images" in each.problem for each in bad.bad] == [True, False]
    assert "not a parquet table" in bad.bad[1].problem


def test_everything_that_is_bad_is_told_at_once(tmp_path: Path) -> None:
    put(tmp_path / "good.png")
    put(tmp_path / "no-caption.png", caption=None)
    put(tmp_path / "empty-caption.png", caption=" \n")
    put(tmp_path / "codes.png", caption="red\x1b]0;title\x07")
    put(tmp_path / "windows.png").with_suffix(".txt").write_bytes(b"it\x92s red")
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "empty.txt").write_text("x")
    whole = put(tmp_path / "cut.jpg", size=(200, 200)).read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    put(tmp_path / "text.png").write_bytes(b"this is not a picture")
    put(tmp_path / "huge.png", size=(400, 400))
    (tmp_path / "phone.heic").write_bytes(b"?")
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere")
    os.symlink("x", tmp_path / "gone.txt")
    found = scan(section(tmp_path, max_megapixels=0.1))
    assert set(captions(found)) == {"good"}
    told = problems(found, tmp_path)
    expected = {
        "no-caption.png": "has no caption",
        "empty-caption.txt": "its caption is empty",
        "codes.txt": "control code U+001B",
        "windows.txt": "byte 0x92 at 2 is not UTF-8; it looks like Windows-1252",
        "empty.png": "empty (0 bytes)",
        "cut.jpg": "broken or cut off",
        "text.png": "plain text",
        "huge.png": "more than data.max_megapixels: 0.1",
        "phone.heic": ".heic files cannot be read",
        "pipe.png": "not an ordinary file",
        "gone.png": "No such file",
    }
    for name, words in expected.items():
        assert words in told[name], (name, told)
    assert set(told) - set(expected) <= {"pipe.txt", "gone.txt"}


def test_bad_metadata_is_told_with_its_line(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        put(tmp_path / f"{name}.png", caption=None)
    lines = [
        '{"file_name": "a.png", "text": "fine"}',
        "{not json",
        '{"file_name": "../outside.png", "text": "x"}',
        '{"file_name": "/etc/passwd", "text": "x"}',
        '{"file_name": "missing.png", "text": "x"}',
        '{"file_name": "a.png", "text": "again"}',
        '{"text": "nameless"}',
        '{"file_name": "b.png", "label": 3}',
        "[1]",
    ]
    (tmp_path / "metadata.jsonl").write_text("\n".join(lines))
    told = problems(scan(section(tmp_path)), tmp_path)
    words = {
        2: "not valid JSON",
        3: "lies outside",
        4: "lies outside",
        5: "missing.png is not there",
        6: "a.png is named twice",
        7: "it has no file_name",
        8: "it has no 'text' (it has label)",
        9: "expected a JSON table",
    }
    for line, what in words.items():
        assert what in told[f"metadata.jsonl:{line}"]
    assert told["c.png"].startswith("has no caption")


def test_masks_that_do_not_fit_are_told(tmp_path: Path) -> None:
    for name in ("fits", "small", "black", "none"):
        put(tmp_path / "images" / f"{name}.png")
    masks = tmp_path / "masks"
    masks.mkdir()
    white = Image.fromarray(np.full((8, 8), 255, dtype=np.uint8))
    white.save(masks / "fits.png")
    white.resize((4, 8)).save(masks / "small.png")
    Image.new("L", (8, 8)).save(masks / "black.png")
    found = scan(section({"path": str(tmp_path / "images"), "masks": str(masks)}))
    assert set(captions(found)) == {"fits"}
    told = problems(found, tmp_path)
    assert told["masks/small.png"] == "is 4x8, and its image is 8x8"
    assert "all black" in told["masks/black.png"]
    assert told["images/none.png"] == f"has no mask in {masks}"


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("nowhere", "does not exist"),
        ("file.txt", "is neither a folder nor a .parquet file"),
        ("empty", "holds no image"),
        ("builtin:size", "there is no such data set; there is blueprints"),
        ("builtin:sizes/../../shapes-xl", "there is no such data set"),
    ],
)
def test_a_source_that_is_none_is_told(path: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file.txt").write_text("x")
    named = path if path.startswith("builtin:") else str(tmp_path / path)
    found = scan(section(named))
    assert found.images == ()
    assert len(found.bad) == 1
    assert message in found.bad[0].problem


def test_names_that_are_not_utf8_are_read_and_told(tmp_path: Path) -> None:
    folder = os.fsencode(tmp_path)
    png = put(tmp_path / "a.png").read_bytes()
    for name in (b"caf\xe9.png", b"\xff\n.png"):
        with open(os.path.join(folder, name), "wb") as file:
            file.write(png)
    found = scan(section(tmp_path, captions={"missing": "a dot"}))
    assert len(found.images) == 3
    assert len(found.fingerprint()) == 64
    without = scan(section(tmp_path))
    message = str(data_error(without.bad))
    assert "2 problems in the training data" in message
    assert message.isprintable() or "\n" in message
    message.encode("utf-8")


def test_the_error_lists_files_and_how_many_more(tmp_path: Path) -> None:
    error = data_error([BadFile(f"{i}.png\x1b[2J", "broken") for i in range(MOST_SHOWN + 7)])
    assert isinstance(error, DataError)
    assert error.exit_code == ExitCode.DATA
    assert "0.png: broken" in error.message
    assert "and 7 more" in error.message
    assert "\x1b" not in error.message


def test_workers_find_the_same(tmp_path: Path) -> None:
    for i in range(6):
        put(tmp_path / f"{i}.png", size=(8 + i, 8), caption=f"number {i}" if i != 3 else None)
    (tmp_path / "4.png").write_bytes(b"")
    alone, shared = scan(section(tmp_path)), scan(section(tmp_path, workers=2))
    assert alone == shared
    assert alone.fingerprint() == shared.fingerprint()


def test_the_fingerprint_is_of_pixels_and_captions_and_not_of_places(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        put(tmp_path / folder / "a.png", caption="a dot")
    one, two = (scan(section(tmp_path / folder)).fingerprint() for folder in ("one", "two"))
    assert one == two
    (tmp_path / "two" / "a.txt").write_text("another dot")
    assert scan(section(tmp_path / "two")).fingerprint() != one
    put(tmp_path / "one" / "a.png", size=(9, 8), caption="a dot")
    assert scan(section(tmp_path / "one")).fingerprint() != one


def test_the_listing_is_in_one_order_whatever_the_file_system_says(tmp_path: Path) -> None:
    for name in ("b", "a", "Z", "10", "9"):
        put(tmp_path / f"{name}.png")
    keys = [item.key for item in list_items(section(tmp_path)).items]
    assert keys == ["10", "9", "Z", "a", "b"]
