"""What `loba run`, `sample` and `eval` do: prepare a folder, start the program, tell the result."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from subprocess import Popen

from loba_tui.core.errors import CorruptError, RecipeError, RefusedError, ResourceError
from loba_tui.core.recipe import shipped
from loba_tui.core.run import launch
from loba_tui.core.run.directory import PRIVATE_DIR_MODE, Ledger, RunDir
from loba_tui.core.run.reader import RunReader
from loba_tui.core.run.records import Event
from loba_tui.core.run.writer import write_atomically
from loba_tui.core.text import clean, nearest
from loba_tui.follow import Follower
from loba_tui.progress import open_screen

UNSAFE_SUFFIXES = frozenset({".bin", ".ckpt", ".pickle", ".pkl", ".pt", ".pth"})


@dataclass(frozen=True)
class Foreground:
    """What a foreground command takes from its surroundings.

    Args:
        environ: The environment of this process.
        program: The command that is started; tests put a stand-in here.
    """

    environ: Mapping[str, str]
    program: Sequence[str] = launch.PROGRAM

    def run(self, run_dir: RunDir, argv_extra: Sequence[str] = ()) -> list[Event]:
        """Start the program on a run folder, stay until it ends, and return its events.

        Raises:
            LobaError: It did not finish; carries its message and exit code.
        """
        return self._stay(
            run_dir, lambda: launch.launch(run_dir, argv_extra=argv_extra, program=self.program)
        )

    def request(self, folder: RunDir, wanted: launch.Request) -> list[Event]:
        """Start the program on a request, stay until it ends, and return its events.

        Raises:
            LobaError: It did not finish; carries its message and exit code.
        """
        return self._stay(folder, lambda: launch.request(folder, wanted, program=self.program))

    def _stay(self, run_dir: RunDir, start: Callable[[], Popen[bytes]]) -> list[Event]:
        reader = RunReader(run_dir)
        # What an earlier program recorded in the same folder is not this one's doing.
        reader.skip_to_end()
        process = start()
        screen = open_screen(sys.stderr, terminal_name=self.environ.get("TERM", ""))
        follower = Follower(reader, process, screen)
        failure = follower.failure(follower.wait())
        if failure is not None:
            raise failure
        return follower.events


def find_recipe(wanted: Path) -> tuple[Path, bool]:
    """Return the recipe file, and whether it is a shipped one that stands in for a missing file.

    Raises:
        RecipeError: There is no such file and no shipped recipe of that name.
    """
    if wanted.exists():
        return wanted, False
    found = shipped.find(wanted)
    if found is not None:
        return found, True
    names = shipped.names()
    meant = nearest(wanted.stem, names)
    raise RecipeError(
        f"{wanted}: there is no such recipe.",
        f"Did you mean {meant}?" if meant else f"Shipped recipes: {', '.join(names)}.",
    )


def prepare_run(recipe: Path, overrides: Sequence[str], out_dir: Path, ledger: Ledger) -> RunDir:
    """Check a recipe and make the run folder that holds it, resolved."""
    from loba_tui.core.recipe.load import dump_recipe, load_recipe

    resolved = load_recipe(recipe, overrides)
    run_dir = RunDir.create(out_dir, resolved.name, ledger=ledger)
    write_atomically(run_dir.recipe, dump_recipe(resolved).encode())
    return run_dir


def resolve_adapter(wanted: Path) -> tuple[Path, RunDir | None]:
    """Return the adapter file meant by a run folder or an adapter file, and the run.

    Raises:
        LobaError: It is neither, it is not finished, or its format is unsafe.
    """
    if wanted.is_dir():
        run_dir = RunDir.open(wanted)
        if not run_dir.adapter.is_file():
            raise CorruptError(
                f"{wanted} holds no finished adapter.",
                f"Continue the run first: loba run --resume {wanted}",
            )
        return run_dir.adapter, run_dir
    if wanted.suffix.lower() in UNSAFE_SUFFIXES:
        raise RefusedError(
            f"{wanted}: files of this kind can run code when they are loaded, so they are refused.",
            "Convert it to .safetensors with a tool that you trust.",
        )
    if not wanted.is_file():
        raise RecipeError(
            f"{wanted}: there is no such run folder or adapter file.",
            "Give the folder that `loba run` printed, or an adapter.safetensors.",
        )
    # A file inside a run folder belongs to that run.
    owner = RunDir(wanted.absolute().parent.parent)
    return wanted.absolute(), owner if owner.recipe.is_file() else None


def prepare_request(wanted: launch.Request, out: Path | None) -> tuple[RunDir, launch.Request]:
    """Make the folder that a request reports to and return it with the completed request."""
    if out is None:
        parent = Path(wanted.run) / "requests" if wanted.run else Path("output")
        folder = RunDir.create(parent, wanted.action)
    else:
        folder = RunDir(out.expanduser().absolute())
        try:
            folder.path.mkdir(mode=PRIVATE_DIR_MODE, parents=True, exist_ok=True)
        except OSError as error:
            raise ResourceError(
                f"{out} cannot be made: {error.strerror or error}.",
                "Choose a folder that can be written to with --out.",
            ) from error
    return folder, replace(wanted, out_dir=str(folder.path))


def result_lines(run_dir: RunDir, events: Sequence[Event]) -> list[str]:
    """Return where the results of a finished program are, and what the report says."""
    finished = next((e for e in reversed(events) if e.kind == "finished"), None)
    data = dict(finished.data) if finished else {}
    known = {
        "adapter": run_dir.adapter,
        "kohya": run_dir.adapter_kohya,
        "strip": _newest(run_dir.samples, "*.png"),
        "report": run_dir.report,
        "picture": run_dir.report_picture,
    }
    lines = []
    for label, fallback in known.items():
        value = data.get(label)
        path = run_dir.path / value if isinstance(value, str) else fallback
        if path is not None and path.is_file():
            lines.append(f"{label:9}{shorten(path)}")
    return lines


def shorten(path: Path) -> str:
    """Return a path as seen from the working directory where it lies inside it."""
    here = Path.cwd()
    return clean(path.relative_to(here) if path.is_relative_to(here) else path)


def _newest(folder: Path, pattern: str) -> Path | None:
    return max(folder.glob(pattern), key=lambda path: path.name, default=None)
