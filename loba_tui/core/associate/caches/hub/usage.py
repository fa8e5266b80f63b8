"""Which runs and recipes need which repository of the cache, and when one was last used.

Access times lie: backups and indexers touch them, and many file systems do not keep them. The
ledger of runs knows what was really trained on.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from loba_tui.core.associate.caches.hub.layout import COMMIT, Repository, folder_of
from loba_tui.core.errors import LobaError
from loba_tui.core.file_sources import Source, read_source
from loba_tui.core.foreign_json import parse_json
from loba_tui.core.names import repository_of
from loba_tui.core.run.directory import Ledger, RunDir
from loba_tui.core.run.reader import RunReader

_MAX_RECIPE_BYTES = 256 * 1024
_MAX_RECIPES = 5_000
_EVENTS_HEAD_BYTES = 64 * 1024
_KEY = re.compile(r"\s+(id|revision)\s*:\s*(.*)")

RunState = Literal["live", "resumable", "finished"]


@dataclass(frozen=True)
class BaseModel:
    """A recipe's words about its base model."""

    id: str
    revision: str | None = None


@dataclass(frozen=True)
class RunUse:
    """A run and the model that it needs.

    Attributes:
        revision: As the recipe asks; None is main.
        commit: What that was when the run began, where it got that far.
        when: Wall time of the run's last sign of life.
    """

    name: str
    path: Path
    folder: str
    revision: str | None
    commit: str | None
    when: float
    state: RunState


@dataclass(frozen=True)
class RecipeUse:
    """A recipe file and the model that it names."""

    path: Path
    folder: str
    revision: str | None


@dataclass(frozen=True)
class Usage:
    """All known uses; those of one repository are found by its folder."""

    runs: tuple[RunUse, ...] = ()
    recipes: tuple[RecipeUse, ...] = ()
    _by_folder: dict[str, list[RunUse]] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        for run in self.runs:
            self._by_folder.setdefault(run.folder, []).append(run)

    def runs_of(self, repository: Repository, commit: str | None = None) -> list[RunUse]:
        """Return the runs on a repository, or on one of its revisions."""
        runs = self._by_folder.get(repository.folder, [])
        return [run for run in runs if commit is None or needs(repository, run, commit)]

    def recipes_of(self, repository: Repository, commit: str | None = None) -> list[RecipeUse]:
        """Return the recipes that name a repository, or one of its revisions."""
        found = [recipe for recipe in self.recipes if recipe.folder == repository.folder]
        return [item for item in found if commit is None or needs(repository, item, commit)]

    def last_used(self, repository: Repository, commit: str | None = None) -> float | None:
        """Return when a run last used it; None is never, as far as is known."""
        return max((run.when for run in self.runs_of(repository, commit)), default=None)


NO_USAGE = Usage()
"""Where nothing is known of runs and recipes."""


def needs(repository: Repository, use: RunUse | RecipeUse, commit: str) -> bool:
    """Say whether a use means this commit; where that cannot be told it does."""
    exact = use.commit if isinstance(use, RunUse) else None
    exact = exact or repository.refs.get(use.revision or "main")
    if exact is None and use.revision is not None and COMMIT.fullmatch(use.revision):
        exact = use.revision
    return exact is None or exact == commit


def usage_of(ledger: Ledger, recipes: Iterable[Path] = ()) -> Usage:
    """Read the runs of a ledger, and recipes from files and folders.

    What cannot be read names no model, and so needs none.
    """
    runs = [_run_use(run_dir) for run_dir in ledger.runs()]
    found = []
    for path in _recipe_files(recipes):
        model = _model_in(path)
        if model is not None:
            found.append(RecipeUse(path, folder_of(repository_of(model.id)), model.revision))
    return Usage(tuple(run for run in runs if run is not None), tuple(found))


def base_model(text: str) -> BaseModel | None:
    """Return the base model that a recipe's text names, None where it names none.

    Written as a block, as recipes are, it is read by lines; a YAML parser would take seconds for
    the runs of a year.
    """
    lines = iter(text.splitlines())
    for line in lines:
        if line.startswith("base_model:"):
            rest = line.removeprefix("base_model:").partition(" #")[0].strip()
            return _parsed_model(text) if rest else _block_model(lines)
    return _parsed_model(text) if "base_model" in text else None


def _block_model(lines: Iterable[str]) -> BaseModel | None:
    found: dict[str, str | None] = {}
    for line in lines:
        if line.strip() and not line[0].isspace() and not line.startswith("#"):
            break
        match = _KEY.fullmatch(line)
        if match and match[1] not in found:
            found[match[1]] = _scalar(match[2])
    model_id = found.get("id")
    return BaseModel(model_id, found.get("revision")) if model_id else None


def _scalar(written: str) -> str | None:
    written = written.strip()
    if written.startswith("'"):
        return written[1:].rpartition("'")[0].replace("''", "'")
    if written.startswith('"'):
        try:
            return str(parse_json(written[: written.rindex('"') + 1]))
        except ValueError:
            return None
    plain = written.partition(" #")[0].strip()
    return None if plain in ("", "~", "null", "Null", "NULL") else plain


def _parsed_model(text: str) -> BaseModel | None:
    # Imported here: the ordinary recipe does not need a YAML parser, and it takes 0.1 s to load.
    from loba_tui.core.recipe.yaml_tree import read_tree

    try:
        tree, _ = read_tree(text, "<recipe>")
        section = tree.plain().get("base_model")
        model_id, revision = section["id"], section.get("revision")
    except (LobaError, AttributeError, KeyError, TypeError):
        return None
    return BaseModel(str(model_id), None if revision is None else str(revision))


def _run_use(run_dir: RunDir) -> RunUse | None:
    model = _model_in(run_dir.recipe)
    if model is None:
        return None
    reader = RunReader(run_dir)
    liveness, status = reader.liveness(), reader.status()
    when = status.heartbeat if status else 0.0
    if not when:
        try:
            when = run_dir.recipe.stat().st_mtime
        except OSError:
            when = 0.0
    state: RunState = "resumable"
    if liveness.is_alive:
        state = "live"
    elif liveness.state == "finished":
        state = "finished"
    return RunUse(
        name=run_dir.name,
        path=run_dir.path,
        folder=folder_of(repository_of(model.id)),
        revision=model.revision,
        commit=_commit_of(run_dir),
        when=when,
        state=state,
    )


def _commit_of(run_dir: RunDir) -> str | None:
    try:
        with run_dir.events.open() as file:
            head = file.read(_EVENTS_HEAD_BYTES)
    except OSError:
        return None
    for line in head.splitlines():
        if b"base_model_revision" in line:
            try:
                commit = parse_json(line)["base_model_revision"]
            except (ValueError, KeyError, TypeError):
                continue
            return commit if isinstance(commit, str) and COMMIT.fullmatch(commit) else None
    return None


def _model_in(source: Source) -> BaseModel | None:
    try:
        return base_model(read_source(source, _MAX_RECIPE_BYTES).decode())
    except (OSError, UnicodeDecodeError):
        return None


def _recipe_files(given: Iterable[Path]) -> Sequence[Path]:
    found: dict[Path, None] = {}
    for path in given:
        inside = sorted(path.rglob("*.y*ml"))[:_MAX_RECIPES] if path.is_dir() else [path]
        found.update(dict.fromkeys(inside))
    return list(found)
