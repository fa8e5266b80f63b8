"""The `loba` command, put together; its commands import what they need when they run.

Results go to stdout, messages to stderr. What a user can act on is a `LobaError`: it is shown as a
message and ends the process with its own exit code.
"""

from __future__ import annotations

import os
from typing import Annotated, Any

import typer

from loba_tui import __version__
from loba_tui.commands.adapter_files import adapter_app
from loba_tui.commands.adapters import evaluate, interfere, merge, sample
from loba_tui.commands.bench import bench
from loba_tui.commands.cache.app import cache_app
from loba_tui.commands.check import doctor, plan, validate
from loba_tui.commands.erase import erase
from loba_tui.commands.exports import export, extract
from loba_tui.commands.plugins import plugins_app
from loba_tui.commands.push import push
from loba_tui.commands.queue import queue_app
from loba_tui.commands.recipe import recipe_app
from loba_tui.commands.run import replay, run
from loba_tui.commands.runs import runs_app
from loba_tui.commands.sweep.app import sweep
from loba_tui.commands.sweep.listing import sweeps_app
from loba_tui.commands.tui.dashboard import tui
from loba_tui.core.errors import ExitCode, LobaError
from loba_tui.core.output import gated
from loba_tui.core.text import clean


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
    typer.echo(clean(error, keep_newlines=True), err=True)


# rich_markup_mode=None keeps rich out of --help: it would cost more than the rest of the command.
app = typer.Typer(
    name="loba",
    cls=LobaGroup,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
for command in (merge, interfere, tui, push, validate, plan, run, sweep, replay, sample):
    app.command()(command)
app.command("eval")(evaluate)
for command in (erase, export, extract, bench, doctor):
    app.command()(command)
app.add_typer(recipe_app, name="recipe")
app.add_typer(adapter_app, name="adapter")
app.add_typer(plugins_app, name="plugins")
app.add_typer(runs_app, name="runs")
app.add_typer(queue_app, name="queue")
app.add_typer(sweeps_app, name="sweeps")
app.add_typer(cache_app, name="cache")


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


def main() -> None:
    """Entry point of the `loba` script."""
    with gated(os.environ):
        app()


if __name__ == "__main__":
    main()
