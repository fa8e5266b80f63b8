"""`loba plugins`: the drop-ins that recipes choose from, and the user's own."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from loba_tui.commands.options import Json, echo_lines, echo_result, say, user_plugins
from loba_tui.core.errors import RefusedError

plugins_app = typer.Typer(
    help="The drop-ins that recipes choose from, and your own.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@plugins_app.command("ls")
def plugins_ls(
    kind: Annotated[str | None, typer.Argument(metavar="KIND", help="Such as optimizers.")] = None,
    as_json: Json = False,
) -> None:
    """List the drop-ins that a recipe can name, yours included, without importing them.

    Example: loba plugins ls optimizers
    """
    from loba_tui.client.plugins import listing as plugin_listing

    found = list(plugin_listing.entries(user_plugins(), kind))
    echo_result([each.record() for each in found], (each.line for each in found), as_json=as_json)


@plugins_app.command("show")
def plugins_show(
    words: Annotated[list[str], typer.Argument(metavar="[KIND] NAME", help="Or KIND/NAME.")],
    as_json: Json = False,
) -> None:
    """Show what a drop-in does and which options a recipe can give it.

    Example: loba plugins show optimizers adamw
    """
    from loba_tui.client.plugins import listing as plugin_listing

    entry = plugin_listing.find(words, user_plugins())
    echo_result(entry.record(), entry.lines(), as_json=as_json)


@plugins_app.command("trust")
def plugins_trust(
    wanted: Annotated[
        str | None,
        typer.Argument(metavar="NAME|PATH", help="All that are not trusted, if left out."),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Trust without asking.")] = False,
) -> None:
    """Enable a plugin of yours, as it is now; a changed file has to be trusted anew.

    Example: loba plugins trust timestep/mine
    """
    from loba_tui.client.plugins import listing as plugin_listing

    plugins = user_plugins()
    files = plugin_listing.to_trust(wanted, plugins)
    if not files:
        say(f"nothing in {plugins.user.folder} waits for trust", err=True)
    for file in files:
        echo_lines(plugin_listing.trust_lines(file), err=True)
        if not yes and not sys.stdin.isatty():
            raise RefusedError(
                f"{file.key} is not trusted: there is no terminal to ask on.",
                "Read the file, then repeat the command with --yes.",
            )
        if yes or typer.confirm(f"Trust {file.key}?", err=True):
            plugins.user.trust(file)
            say(f"trusted    {file.key}  {file.sha256}")
        else:
            say(f"{file.key} stays as it is", err=True)


@plugins_app.command("untrust")
def plugins_untrust(
    wanted: Annotated[str, typer.Argument(metavar="NAME", help="NAME or KIND/NAME.")],
) -> None:
    """Disable a plugin; its file stays where it is.

    Example: loba plugins untrust timestep/mine
    """
    from loba_tui.client.plugins import listing as plugin_listing

    plugins = user_plugins()
    key = plugin_listing.to_untrust(wanted, plugins)
    plugins.user.untrust(key)
    say(f"untrusted  {key}")


@plugins_app.command("new")
def plugins_new(
    kind: Annotated[str, typer.Argument(metavar="KIND", help="Such as timestep.")],
    name: Annotated[str, typer.Argument(metavar="NAME", help="What recipes will call it.")],
) -> None:
    """Write a drop-in of your own to begin with, and a test of what it has to keep.

    Example: loba plugins new timestep mine
    """
    from loba_tui.client.plugins import scaffold as plugin_scaffold

    path, test = plugin_scaffold.create(kind, name, user_plugins())
    say(path)
    say(test)
    say(f"change it, then test it with: pytest {test}", err=True)
    say(f"and enable it with: loba plugins trust {kind}/{name}", err=True)
