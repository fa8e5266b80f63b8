"""A list of words to erase, with what they become and what is to stay, and the recipe it makes."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from loba_tui.core.errors import RecipeError
from loba_tui.core.file_sources import open_source
from loba_tui.core.files import UnsafeFileError
from loba_tui.core.text import clean, counted, did_you_mean, quote

MAX_BYTES = 1024 * 1024
MAX_WORDS = 5000
PLACES = ("{}", "a photo of {}", "a painting of {}")
COLUMNS = ("erase", "guide", "retain", "watch")
_MARK = "{}"
_ARROW = "->"
_MOST_TOLD = 20
_NUM_DRAWN = 4


@dataclass(frozen=True)
class Word:
    """A word to erase, what it becomes, and the line of the list that says so."""

    text: str
    guide: str
    line: int


@dataclass(frozen=True)
class WordList:
    """Words to erase, words that are to stay, and words that are only looked at."""

    erase: tuple[Word, ...]
    retain: tuple[str, ...]
    watch: tuple[str, ...]


@dataclass(frozen=True)
class Erasing:
    """How a list of words becomes a recipe.

    Attributes:
        name: Of the run.
        model: Id of the base model.
        method: A closed-form eraser.
        places: Templates that each word is put into; each ends with {}.
        rank: What each layer's update is cut to; None for no cut.
        adapters: How many adapters the edit is split into.
    """

    name: str
    model: str
    method: str
    places: tuple[str, ...]
    rank: int | None
    adapters: int


def read_words(path: Path, *, guide: str = "") -> WordList:
    """Return the list in a .csv or .tsv file with a header, or in a text file of a word a line.

    A text file may say `word -> guide`; # begins a comment, and [retain] or [watch] in a line of
    its own begins the words that are to stay, or that are only looked at.

    Args:
        guide: What a word becomes of which the list does not say so; empty: nothing.

    Raises:
        RecipeError: It cannot be read, or contradicts itself; all that is wrong is told.
    """
    text, problems = _read(path), []
    rows = _table_rows(text, path) if path.suffix.lower() in (".csv", ".tsv") else _text_rows(text)
    words: list[Word] = []
    others: dict[str, dict[str, None]] = {"retain": {}, "watch": {}}
    for line, row in rows:
        if row.get("guide") and not row.get("erase"):
            problems.append(f"line {line}: a guide without a word to erase")
        if word := row.get("erase"):
            words.append(Word(word, row.get("guide") or guide, line))
        for kind, found in others.items():
            if other := row.get(kind):
                found[other] = None
    problems += _contradictions(words, others)
    if not words:
        problems.append("no word to erase")
    if len(words) > MAX_WORDS:
        problems.append(f"{len(words)} words to erase; at most {MAX_WORDS}")
    if problems:
        told = [f"  {each}" for each in problems[:_MOST_TOLD]]
        if len(problems) > len(told):
            told.append(f"  … and {len(problems) - len(told)} more")
        raise RecipeError(
            f"{clean(path)} cannot be used: {counted(len(problems), 'problem')}", lines=told
        )
    return WordList(tuple(words), tuple(others["retain"]), tuple(others["watch"]))


def run_name(path: Path) -> str:
    """Return a list's file name as the name of a run."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", path.stem).strip("-._")[:64] or "erased"


def check_places(places: Sequence[str]) -> tuple[str, ...]:
    """Return the templates, each once.

    Raises:
        RecipeError: One does not end with {}, or has it twice.
    """
    for place in places:
        if not place.endswith(_MARK) or place.count(_MARK) != 1:
            raise RecipeError(
                f"--place {quote(place)}: a place ends with {{}}, where the word is put",
                "Text encoders read from left to right: what follows a word does not change it.",
            )
    return tuple(dict.fromkeys(places))


def erasing_recipe(words: WordList, how: Erasing) -> str:
    """Return the recipe that erases the words, as commented YAML."""
    befores = json.dumps([_braced(p.removesuffix(_MARK)) for p in how.places], ensure_ascii=False)
    lines = [
        f"# {counted(len(words.erase), 'concept')} erased at once, in closed form; by loba erase.",
        "version: 1",
        f"name: {json.dumps(how.name)}",
        "",
        "base_model:",
        f"  id: {_quoted(how.model)}",
        "",
        "method:",
        f"  name: {how.method}",
        *([f"  rank: {how.rank}          # of each layer, in each adapter"] if how.rank else []),
        f"  adapters: {how.adapters}",
        "  concepts:",
    ]
    for word in words.erase:
        pair = f"target: {_placed(word.text)}, neutral: {_placed(word.guide)}"
        lines.append(f"    - {{{pair}, vary: {{before: {befores}}}}}")
    for key, others, comment in (
        ("preserve", words.retain, "stays as it is"),
        ("watch", words.watch, "is told of, and held by nothing"),
    ):
        if others:
            lines.append(f"  {key}:          # {comment}")
            lines += [f"    - {_placed(each)}" for each in others]
    return "\n".join([*lines, *_drawn(words, how), ""])


def _drawn(words: WordList, how: Erasing) -> list[str]:
    """Return the section of what is drawn: a few words that go, and a few that stay."""
    place = how.places[-1]
    shown = [*[word.text for word in words.erase[:_NUM_DRAWN]], *words.retain[:_NUM_DRAWN]]
    shown += words.watch[:_NUM_DRAWN]
    prompts = [f"    - {_quoted(place.replace(_MARK, each))}" for each in shown]
    return ["", "sample:", "  scales: [0, 1]", "  prompts:", *prompts]


def _placed(word: str) -> str:
    return _quoted("{before}" + _braced(word))


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _braced(text: str) -> str:
    return text.replace("{", "{{").replace("}", "}}")


def _read(path: Path) -> str:
    try:
        with open_source(path) as stream:
            content = stream.read(MAX_BYTES + 1)
    except UnsafeFileError as error:
        raise RecipeError(f"{clean(path)} {error}") from error
    except OSError as error:
        raise RecipeError(
            f"{clean(path)} cannot be read: {error.strerror}",
            "Name a list of words: a text file with a word a line, or a .csv.",
        ) from error
    if len(content) > MAX_BYTES:
        raise RecipeError(f"{clean(path)} is larger than {MAX_BYTES} bytes; is it a list of words?")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise RecipeError(
            f"{clean(path)}:{line}: the byte 0x{content[error.start]:02x} is not UTF-8",
            "Save the file as UTF-8.",
        ) from error


def _table_rows(text: str, path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield the line and the cells of each row, by the header's columns."""
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    reader = csv.reader(text.splitlines(), delimiter=delimiter)
    header = [cell.strip().lower() for cell in next(reader, [])]
    for name in header:
        if name not in COLUMNS:
            raise RecipeError(
                f"{clean(path)}:1: {quote(name)} is not a column",
                did_you_mean(name, COLUMNS, f"Columns: {', '.join(COLUMNS)}."),
            )
    try:
        for cells in reader:
            row = dict(zip(header, (" ".join(cell.split()) for cell in cells), strict=False))
            if len(cells) > len(header) and any(cell.strip() for cell in cells[len(header) :]):
                raise RecipeError(
                    f"{clean(path)}:{reader.line_num}: more cells than the header has columns",
                    "Put quotes around a word with a comma.",
                )
            yield reader.line_num, row
    except csv.Error as error:
        raise RecipeError(f"{clean(path)}:{reader.line_num}: {error}") from error


def _text_rows(text: str) -> Iterator[tuple[int, dict[str, str]]]:
    kind = "erase"
    for number, line in enumerate(text.splitlines(), start=1):
        words = " ".join(line.split())
        if not words or words.startswith("#"):
            continue
        if words in ("[erase]", "[retain]", "[watch]"):
            kind = words[1:-1]
            continue
        word, arrow, guide = words.partition(_ARROW)
        if kind == "erase" and arrow:
            yield number, {"erase": word.strip(), "guide": guide.strip()}
        else:
            yield number, {kind: words}


def _contradictions(words: Sequence[Word], others: dict[str, dict[str, None]]) -> Iterator[str]:
    """Yield what a list says twice, or both ways; letters count the same large or small."""
    erased: dict[str, Word] = {}
    for word in words:
        first = erased.setdefault(word.text.casefold(), word)
        if first is not word:
            yield f"line {word.line}: {quote(word.text)} is in line {first.line} already"
    for word in words:
        if word.guide.casefold() == word.text.casefold():
            yield f"line {word.line}: {quote(word.text)} would become itself"
        elif (other := erased.get(word.guide.casefold())) is not None:
            yield (
                f"line {word.line}: {quote(word.text)} would become {quote(word.guide)}, which "
                f"line {other.line} erases"
            )
    for kind, found in others.items():
        for each in found:
            if each.casefold() in erased:
                line = erased[each.casefold()].line
                yield f"{quote(each)} is to be erased (line {line}) and stands under {kind}"
    for each in others["watch"]:
        if each in others["retain"]:
            yield f"{quote(each)} stands under retain and under watch"
