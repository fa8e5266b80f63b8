"""The `loba` command. Every command imports what it needs when it runs, so that help is instant.

Results go to stdout, messages to stderr. What a user can act on is a `LobaError`: it is shown as a
message and ends the process with its own exit code.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from loba_tui import __version__
from loba_tui.core.errors import ExitCode, LobaError


class LobaGroup(typer.core.TyperGroup):
    """A command group that shows errors as messages, whoever invokes it."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command; turn a LobaError into its message and exit code."""
        try:
            return super().invoke(ctx)
        except LobaError as error:
            show_error(error)
            raise typer.Exit(int(error.exit_code)) from error
        except KeyboardInterrupt as error:
            raise typer.Exit(int(ExitCode.INTERRUPTED)) from error


def show_error(error: LobaError) -> None:
    """Write an error's message and hint to stderr."""
    typer.echo(error.message, err=True)
    if error.hint:
        typer.echo(error.hint, err=True)


def echo_json(document: Any) -> None:
    """Write one JSON document to stdout."""
    typer.echo(json.dumps(document, indent=2, ensure_ascii=False))


# rich_markup_mode=None keeps rich out of --help: it would cost more than the rest of the command.
app = typer.Typer(
    name="loba",
    cls=LobaGroup,
    help="Train sliders, LoRA and lobotomies for SD-XL from YAML recipes.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
recipe_app = typer.Typer(
    help="Write, describe and update recipes.", no_args_is_help=True, rich_markup_mode=None
)
app.add_typer(recipe_app, name="recipe")

Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY.PATH=VALUE", help="Override a key; repeatable."),
]


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"loba {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option("--version", help="Show the version.", callback=_show_version, is_eager=True),
    ] = False,
) -> None:
    """Train sliders, LoRA and lobotomies for SD-XL from YAML recipes.

    Example: loba run recipes/slider.yaml
    """


@app.command()
def validate(
    recipes: Annotated[list[Path], typer.Argument(metavar="RECIPE...", show_default=False)],
    overrides: Set = None,
    as_json: Json = False,
) -> None:
    """Check recipes without running them; every problem is shown with file, line and column.

    Example: loba validate recipes/slider.yaml --set train.steps=100
    """
    from loba_tui.core.recipe.load import check_recipe

    found = {str(path): check_recipe(path, overrides or []) for path in recipes}
    if as_json:
        echo_json(
            [
                {
                    "recipe": path,
                    "valid": not problems,
                    "problems": [vars(problem) for problem in problems],
                }
                for path, problems in found.items()
            ]
        )
    else:
        for path, problems in found.items():
            for problem in problems:
                typer.echo(str(problem), err=True)
            if not problems:
                typer.echo(f"{path}: valid")
    if any(found.values()):
        raise typer.Exit(int(ExitCode.RECIPE))


def main() -> None:
    """Entry point of the `loba` script."""
    app()


if __name__ == "__main__":
    main()
