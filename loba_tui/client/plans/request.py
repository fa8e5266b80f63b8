"""`loba plan`: ask the program what a recipe comes to, or take the answer from the cache.

The answer depends on the recipe, on the drop-ins that it chooses and on the model's configuration;
all of these make the name that it is cached under.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from loba_tui import __version__, models
from loba_tui.client.runs.foreground import Foreground
from loba_tui.core.errors import CorruptError, ExitCode, LobaError
from loba_tui.core.files import PRIVATE_DIR_MODE, write_atomically
from loba_tui.core.foreign_json import parse_json
from loba_tui.core.plugins import Plugins
from loba_tui.core.recipe.checks.choices import chosen_drop_ins
from loba_tui.core.recipe.load import dump_recipe
from loba_tui.core.recipe.schema import Recipe
from loba_tui.core.run import launch
from loba_tui.core.run.directory import RunDir
from loba_tui.core.user_folders import user_folder_if_any, with_home
from loba_tui.models import BUILTIN_PREFIX

PLAN_VERSION = 1
_MAX_PLAN_BYTES = 64 * 2**20
MOST_KEPT = 200
MOST_SECONDS = 300.0
"""For how long it is taken for granted that as much memory is free as was."""

_CONFIGURATIONS = (
    "model_index.json",
    "unet/config.json",
    "transformer/config.json",
    "scheduler/scheduler_config.json",
)


@dataclass(frozen=True)
class PlanCache:
    """Plans by the hash of what they depend on; a folder of None keeps none."""

    folder: Path | None

    @classmethod
    def of_user(cls, environ: Mapping[str, str]) -> PlanCache:
        """Return the cache in the user's folders; one that keeps nothing where there are none."""
        folder = user_folder_if_any(environ, "cache")
        return cls(None if folder is None else folder / "plans")

    def get(self, key: str, most_seconds: float = math.inf) -> dict[str, Any] | None:
        """Return a plan of at most this age, or None where there is none that can be read."""
        if self.folder is None:
            return None
        try:
            plan = parse_json((self.folder / f"{key}.json").read_text("utf-8"))
        except (OSError, ValueError):
            return None
        if not (isinstance(plan, dict) and plan.get("version") == PLAN_VERSION):
            return None
        made = plan.get("time")
        is_young = isinstance(made, float | int) and 0 <= time.time() - made <= most_seconds
        return plan if is_young and isinstance(plan.get("sections"), dict) else None

    def put(self, key: str, plan: Mapping[str, Any]) -> None:
        """Keep a plan, and drop the oldest beyond the most that are kept."""
        if self.folder is None:
            return
        with suppress(OSError, LobaError):
            self.folder.mkdir(mode=PRIVATE_DIR_MODE, parents=True, exist_ok=True)
            write_atomically(self.folder / f"{key}.json", json.dumps(plan).encode())
            kept = sorted(self.folder.glob("*.json"), key=lambda path: path.stat().st_mtime)
            for path in kept[:-MOST_KEPT]:
                path.unlink(missing_ok=True)


def plan(
    recipe: Recipe,
    here: Foreground,
    *,
    cache: PlanCache,
    plugins: Plugins,
    most_seconds: float = math.inf,
) -> dict[str, Any]:
    """Return what a recipe comes to: version, name, time and sections.

    An earlier answer may be `most_seconds` old: schedules do not age, but what is free on this
    machine does.

    Raises:
        LobaError: The program could not tell; carries its message and exit code.
    """
    key = fingerprint(recipe, plugins)
    known = cache.get(key, most_seconds)
    if known is not None:
        return known
    found = {
        "version": PLAN_VERSION,
        "name": recipe.name,
        "key": key,
        "time": time.time(),
        "sections": ask("plan", recipe, here),
    }
    cache.put(key, found)
    return found


def fingerprint(recipe: Recipe, plugins: Plugins) -> str:
    """Return the hash of everything that a plan depends on."""
    parts = [str(PLAN_VERSION), __version__, dump_recipe(recipe)]
    for kind, name in chosen_drop_ins(recipe):
        content = (
            plugins.describe(kind, name).path.read_bytes()
            if plugins.is_shipped(kind, name)
            else plugins.user.read(kind, name).content
        )
        parts.append(f"{kind}/{name} {hashlib.sha256(content).hexdigest()}")
    model = recipe.base_model.id
    folder = with_home(model)
    if model.startswith(BUILTIN_PREFIX):
        folder = Path(models.__file__).parent / model.removeprefix(BUILTIN_PREFIX)
    for name in _CONFIGURATIONS:
        with suppress(OSError):
            parts.append(f"{name} {hashlib.sha256((folder / name).read_bytes()).hexdigest()}")
    # Of a file and of what a recipe names beside it: whatever changes them changes their times.
    for named in (model, recipe.base_model.vae, recipe.base_model.config):
        if named is not None:
            with suppress(OSError, RuntimeError):
                parts += [_facts(path) for path in _files_at(with_home(named))]
    return hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).hexdigest()


def _files_at(path: Path) -> list[Path]:
    return [path] if path.is_file() else [path / name for name in (*_CONFIGURATIONS, "config.json")]


def _facts(path: Path) -> str:
    if not path.exists():
        return ""
    facts = path.stat()
    return f"{path.name} {facts.st_size} {facts.st_mtime_ns}"


def ask(
    action: Literal["plan", "data"],
    recipe: Recipe,
    here: Foreground,
    *,
    memory: tuple[int, ...] = (),
    processes: int = 0,
) -> dict[str, Any]:
    """Return a plan's sections, or what all images and captions of a recipe are.

    Args:
        memory: Sizes in bytes: the plan says how each would be used, and nothing else.
        processes: The plan says what each of so many would hold, and nothing else.

    Raises:
        LobaError: Something of it cannot be used; the message lists all of that.
    """
    folder = RunDir(Path(tempfile.mkdtemp(prefix="loba-plan-")))
    try:
        text = dump_recipe(recipe)
        wanted = launch.Request(
            action,
            "",
            None,
            str(folder.path),
            recipe=text,
            memory=memory,
            processes=processes,
        )
        here.request(folder, wanted)
        sections = parse_json(folder.folder.file(launch.PLAN).read(_MAX_PLAN_BYTES))
    except LobaError as error:
        if error.exit_code != ExitCode.BUG:  # otherwise the log is needed to find it
            shutil.rmtree(folder.path, ignore_errors=True)
        raise
    except (OSError, ValueError) as error:
        raise CorruptError(f"The program left no plan in {folder.path}: {error}.") from error
    shutil.rmtree(folder.path, ignore_errors=True)
    if not isinstance(sections, dict):
        raise CorruptError("The program's plan is not a table of sections.")
    return sections
