"""Names that come from elsewhere: revisions, repositories, components and files of the hub.

A name that is joined to a path, a URL or a line must stay a name. The rules are those of git and of
the hub, and so narrower than those of a disk: ids and revisions are ASCII there, which leaves no
twins of another alphabet. They are asked for where a name enters, and again right before the hub's
client is called, which joins what it is given to the path of its cache.

    revision_problem, repository_problem, …    say what is wrong, or ""
    check_revision, check_repository, …        raise RefusedError for it
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable

from loba_tui.core.errors import RefusedError
from loba_tui.core.text import clean

MOST_REVISION = 200
MOST_REPOSITORY = 96
MOST_PATH_BYTES = 1024
MOST_LOCAL_BYTES = 4096
MOST_PART_BYTES = 255

_COMMIT = re.compile(r"[0-9a-f]{40}")
_REVISION_PART = re.compile(r"[A-Za-z0-9_+=#(!][A-Za-z0-9._+=@#,()!-]*")
_REPOSITORY = re.compile(r"(?:[A-Za-z0-9_][A-Za-z0-9._-]*/)?[A-Za-z0-9_][A-Za-z0-9._-]*")
_COMPONENT = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")
_VARIANT = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_-]|\.(?!\.)){0,39}")
# What a content is called in the cache: a checksum, or whatever a mirror takes for one.
_ETAG = re.compile(r"[A-Za-z0-9_+=-][A-Za-z0-9._+=-]{0,199}")
_DRIVE = re.compile(r"[A-Za-z]:")
# Control characters, line and paragraph separators, halves of surrogate pairs.
_NOT_IN_A_LINE = ("Cc", "Zl", "Zp", "Cs")
_BIDIRECTIONAL = frozenset(
    "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
)
_OTHER_ENDS = (".lock", ".incomplete", ".tmp")


def text_problem(text: str) -> str:
    """Return what is wrong with a path or a name that may be of any alphabet, or ""."""
    for character in text:
        if unicodedata.category(character) in _NOT_IN_A_LINE or character in _BIDIRECTIONAL:
            return f"it holds the control character U+{ord(character):04X}"
    return ""


def local_path_problem(text: str) -> str:
    """Return what is wrong with a path of the user's own, which may lead anywhere, or ""."""
    problem = text_problem(text)
    if not problem and len(text) > MOST_LOCAL_BYTES:
        problem = f"a path has at most {MOST_LOCAL_BYTES} characters"
    if not problem and any(
        len(part.encode("utf-8", "replace")) > MOST_PART_BYTES for part in text.split("/")
    ):
        problem = f"a name in a path has at most {MOST_PART_BYTES} bytes"
    return problem


def revision_problem(text: str) -> str:
    """Return what is wrong with a branch, a tag or a commit, by git's rules, or ""."""
    if len(text) > MOST_REVISION:
        return f"a revision has at most {MOST_REVISION} characters"
    problem = text_problem(text) or _parts_problem(text)
    if problem:
        return problem
    for part in text.split("/"):
        if not _REVISION_PART.fullmatch(part) or ".." in part or part.endswith((".", ".lock")):
            return "it is not the name of a branch, a tag or a commit"
    return ""


def repository_problem(text: str) -> str:
    """Return what is unsafe about a repository's name, or "".

    Whether there can be such a repository is left to the hub's client.
    """
    if len(text) > MOST_REPOSITORY:
        return f"a repository's name has at most {MOST_REPOSITORY} characters"
    problem = text_problem(text) or _parts_problem(text)
    if not problem and not text.isascii():
        problem = "names on the hub are of plain letters, and this only looks like one"
    return problem


def is_repository(text: str) -> bool:
    """Say whether a text has the form of `name` or `owner/name` on the hub."""
    return not repository_problem(text) and bool(_REPOSITORY.fullmatch(text))


def file_in_repository(text: str) -> tuple[str, str] | None:
    """Return repository and file of `owner/name:file.safetensors`; None for any other text."""
    repository, _, file = text.partition(":")
    if not file.lower().endswith(".safetensors") or not is_repository(repository):
        return None
    # What begins with two slashes is an address.
    return None if path_problem(file) else (repository, file)


def repository_of(model_id: str) -> str:
    """Return the repository of a base model's id, which may name one of its files."""
    found = file_in_repository(model_id)
    return model_id if found is None else found[0]


def path_problem(text: str) -> str:
    """Return what is wrong with a file's path in a repository, or ""."""
    if len(text.encode("utf-8", "replace")) > MOST_PATH_BYTES:
        return f"a path has at most {MOST_PATH_BYTES} bytes"
    problem = text_problem(text) or _parts_problem(text)
    if problem:
        return problem
    for part in text.split("/"):
        if len(part.encode()) > MOST_PART_BYTES:
            return f"a file's name has at most {MOST_PART_BYTES} bytes"
        if _DRIVE.match(part):
            return "it begins with a drive"
    if any(unicodedata.category(character) == "Cf" for character in text):
        return "it holds an invisible character"
    return ""


def component_problem(text: str) -> str:
    """Return what is wrong with the name of a pipeline's component, or ""."""
    return "" if _COMPONENT.fullmatch(text) else "it is not the name of a component"


def variant_problem(text: str) -> str:
    """Return what is wrong with a variant of weights, such as fp16, or ""."""
    return "" if _VARIANT.fullmatch(text) else "it is not the name of a variant, such as fp16"


def commit_problem(text: str) -> str:
    """Return what is wrong with a commit that the hub names, or ""."""
    return "" if _COMMIT.fullmatch(text) else "a commit has 40 hex digits"


def etag_problem(text: str) -> str:
    """Return what is wrong with what the hub calls a content by, or ""."""
    if not _ETAG.fullmatch(text) or ".." in text or text.endswith(_OTHER_ENDS):
        return "it cannot be the name of a content in the cache"
    return ""


def check_revision(text: str | None) -> None:
    """Raise RefusedError unless it is a revision's name; None is the newest."""
    _check("revision", text, revision_problem)


def check_repository(text: str) -> None:
    """Raise RefusedError unless it is the name of a repository on the hub."""
    _check("repository", text, repository_problem)


def check_path(text: str) -> None:
    """Raise RefusedError unless it is a file's path in a repository."""
    _check("file", text, path_problem)


def check_component(text: str) -> None:
    """Raise RefusedError unless it is the name of a pipeline's component."""
    _check("component", text, component_problem)


def check_variant(text: str | None) -> None:
    """Raise RefusedError unless it is the name of a variant; None is none."""
    _check("variant", text, variant_problem)


def check_commit(text: str) -> None:
    """Raise RefusedError unless it is a whole commit."""
    _check("commit", text, commit_problem)


def check_etag(text: str) -> None:
    """Raise RefusedError unless it can be the name of a content in the cache."""
    _check("content", text, etag_problem)


def _check(what: str, text: str | None, problem_of: Callable[[str], str]) -> None:
    problem = "" if text is None else problem_of(text)
    if problem:
        raise RefusedError(
            f"The {what} '{clean(text, limit=120)}' is refused: {problem}.",
            "Nothing was fetched or written under that name.",
        )


def _parts_problem(text: str) -> str:
    """Return why a name could lead out of the folder or the repository that it is of, or ""."""
    if not text:
        return "it is empty"
    if text[0] in "/-~":
        return f"it begins with {text[0]}"
    if "\\" in text:
        return "it holds a backslash"
    parts = text.split("/")
    if any(part in (".", "..") for part in parts):
        return "it leads to another folder"
    return "an empty part is in it" if "" in parts else ""
