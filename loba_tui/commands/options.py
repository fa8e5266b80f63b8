"""Options, arguments, the question before a change, and JSON output that commands share."""

from __future__ import annotations

import functools
import inspect
import json
import os
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast, get_type_hints

import typer

from loba_tui.core.errors import RefusedError
from loba_tui.core.run.records import finite
from loba_tui.core.text import clean

if TYPE_CHECKING:
    from loba_tui.core.associate.caches.hub.cache import HubCache
    from loba_tui.core.plugins import Plugins
    from loba_tui.core.run.directory import Ledger, RunDir

Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
Replace = Annotated[bool, typer.Option("--yes", help="Replace an existing file.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show the plan and do nothing.")]
NoUndo = Annotated[
    bool, typer.Option("--no-undo", help="Free the space at once; no undo afterwards.")
]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY.PATH=VALUE", help="Override a key; repeatable."),
]
Run = Annotated[
    str,
    typer.Argument(metavar="RUN", help="A run folder, a name or the unique start of one, or last."),
]
Recipe = Annotated[
    Path | None,
    typer.Argument(metavar="RECIPE", help="A file, a shipped one, or hub://user/repo/FILE@REV."),
]
OutDir = Annotated[
    Path, typer.Option("--out-dir", metavar="DIR", help="Where the run's folder is made.")
]
FileFormat = Annotated[
    Literal["diffusers", "kohya", "comfy"],
    typer.Option("--format", help="Key naming of the file; of transformers there is no kohya's."),
]
Prompts = Annotated[
    list[str] | None, typer.Option("--prompt", help="Repeatable; the recipe's if left out.")
]
Targets = Annotated[
    list[str],
    typer.Argument(
        metavar="TARGET...",
        help="ID, ID@REVISION, or the beginning of a revision's hash.",
        show_default=False,
    ),
]
Recipes = Annotated[
    list[Path] | None,
    typer.Option(
        "--recipes", metavar="PATH", help="Recipes that may need it; ./recipes if left out."
    ),
]


@dataclass(frozen=True)
class Agreed:
    """The user's answer about a recipe from elsewhere, and the folders that it may use."""

    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="Use a recipe from elsewhere without asking.")
    ] = False
    allow_path: Annotated[
        list[Path] | None,
        typer.Option(
            "--allow-path",
            metavar="FOLDER",
            help="A folder that a recipe from elsewhere may use; repeatable.",
        ),
    ] = None


@dataclass(frozen=True)
class RemovalOptions:
    """How a command that removes something goes about it."""

    dry_run: DryRun = False
    yes: Yes = False
    no_undo: NoUndo = False
    as_json: Json = False


def grouped(command: Callable[..., None]) -> Callable[..., None]:
    """Let a command take options as frozen dataclasses, whose fields Typer shows one by one.

    Typer knows only parameters; a command with a dozen of them hands them on one by one too.
    """
    groups: dict[str, type] = {}
    parameters = []
    hints = get_type_hints(command, include_extras=True)
    for parameter in inspect.signature(command).parameters.values():
        hint = hints[parameter.name]
        if is_dataclass(hint):
            groups[parameter.name] = cast("type", hint)
            of_fields = get_type_hints(hint, include_extras=True)
            parameters += [
                parameter.replace(
                    name=each.name, annotation=of_fields[each.name], default=each.default
                )
                for each in fields(hint)
            ]
        else:
            parameters.append(parameter.replace(annotation=hint))

    @functools.wraps(command)
    def run(**values: Any) -> None:
        for name, group in groups.items():
            values[name] = group(**{each.name: values.pop(each.name) for each in fields(group)})
        command(**values)

    parameters = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in parameters]
    run.__annotations__ = {each.name: each.annotation for each in parameters}
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return run


def confirm(
    question: str, *, yes: bool, outcome: str = "nothing was removed", because: str = ""
) -> None:
    """Ask before a command changes something; end the command where the answer is no.

    Args:
        question: Ends in a question mark.
        yes: Do not ask, go ahead.
        outcome: Said where nothing is done.
        because: Why it is asked, where a refusal has to say so.

    Raises:
        RefusedError: There is no terminal to ask on and no --yes.
        typer.Exit: The answer is no.
    """
    if yes:
        return
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        reason = f"{because}, and " if because else ""
        raise RefusedError(
            f"{outcome.capitalize()}: {reason}there is no terminal to ask on.",
            "Add --yes to go ahead.",
        )
    if not typer.confirm(clean(question), err=True):
        say(outcome, err=True)
        raise typer.Exit(0)


def echo_json(document: Any, *, indent: int | None = 2) -> None:
    """Write one JSON document to stdout, on one line where `indent` is None."""
    # Escaped, a file's name with bytes that are no UTF-8 is JSON all the same, and the document can
    # be written whatever the terminal's encoding is.
    try:
        text = json.dumps(document, indent=indent, allow_nan=False)
    except ValueError:  # JSON has no word for what is not finite
        text = json.dumps(finite(document), indent=indent)
    # The one control character that JSON leaves as it is.
    typer.echo(text.replace("\x7f", "\\u007f"))


def echo_result(document: Any, lines: Iterable[str], *, as_json: bool) -> None:
    """Write a result to stdout: as one JSON document, or as lines for reading.

    Args:
        document: The result for `--json`.
        lines: The same for reading; a generator is not started where JSON is wanted.
        as_json: Which of them.
    """
    if as_json:
        echo_json(document)
    else:
        echo_lines(lines)


def echo_lines(lines: Iterable[str], *, err: bool = False) -> None:
    """Write lines to stdout, or to stderr."""
    for line in lines:
        say(line, err=err)


def say(text: object, *, err: bool = False) -> None:
    """Write one line to stdout, or to stderr; whatever it holds, it stays one line."""
    typer.echo(clean(text), err=err)


def echo_text(text: str) -> None:
    """Write a text of several lines to stdout, such as a recipe."""
    typer.echo(text, nl=False)


def find_run(name: str) -> RunDir:
    """Return the run that a command names: a folder, a name, the unique start of one, or last."""
    from loba_tui.client.runs import resolve

    return resolve.find_run(name, user_ledger())


def user_ledger() -> Ledger:
    """Return the list of this user's runs."""
    from loba_tui.core.run.directory import Ledger

    return Ledger.of_user(os.environ)


def user_plugins() -> Plugins:
    """Return the shipped drop-ins with the user's own."""
    from loba_tui.core.plugins import Plugins

    return Plugins.of_user(os.environ)


def open_cache(recipes: list[Path] | None = None) -> HubCache:
    """Return the user's cache with what is known of runs and, where asked for, recipes."""
    from loba_tui.core.associate.caches.hub.cache import HubCache

    return HubCache.of_user(os.environ, recipes if recipes is not None else [Path("recipes")])
