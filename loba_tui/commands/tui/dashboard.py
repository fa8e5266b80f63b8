"""`loba tui`: the dashboard, or plain lines where there is no terminal."""

from __future__ import annotations

import functools
import os
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from loba_tui.commands.options import find_run, say, user_plugins
from loba_tui.core.errors import RecipeError

Run = Annotated[
    str | None,
    typer.Option(metavar="RUN", help="Show this run at once: a folder, a name, or last."),
]
Images = Annotated[
    Literal["half", "kitty", "sixel", "off"],
    typer.Option(help="How pictures are shown; half-blocks work everywhere."),
]


def tui(
    run: Run = None,
    images: Images = "half",
    out_dir: Annotated[
        Path, typer.Option("--out-dir", metavar="DIR", help="Where runs started here are made.")
    ] = Path("output"),
    mouse: Annotated[bool, typer.Option("--mouse", help="Let clicks move the cursor.")] = False,
    in_browser: Annotated[
        bool, typer.Option("--web", help="Serve it to a browser on this machine, for ssh -L.")
    ] = False,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Of --web, on loopback.")] = 8122,
) -> None:
    """Open the dashboard; q leaves it, and no run ever depends on it.

    Example: loba tui --run last
    """
    from loba_tui.client.context import Context
    from loba_tui.commands.tui import plain

    context = Context(environ=os.environ, out_dir=out_dir, plugins=user_plugins(), images=images)
    run_dir = None if run is None else find_run(run)
    if in_browser:
        from loba_tui.commands.tui.web.serve import serve

        given = [f"--out-dir={out_dir.absolute()}", f"--images={images}"]
        given += [f"--run={run_dir.path.absolute()}"] if run_dir is not None else []
        serve(given, port=port, say=functools.partial(say, err=True))
        return
    if not _is_terminal():
        if run_dir is None:
            plain.list_runs(context, sys.stdout)
        else:
            plain.follow_run(run_dir, sys.stdout, seconds=context.seconds)
        return
    if images in ("kitty", "sixel"):
        _load_true_pictures(images)
    from loba_tui.app import LobaApp

    LobaApp(context, run=run_dir).run(mouse=mouse)


def _load_true_pictures(mode: str) -> None:
    """Load textual-image while the terminal still answers: it asks it for the size of a cell."""
    try:
        import textual_image.widget  # noqa: F401
    except ImportError as error:
        raise RecipeError(
            f"--images {mode} needs textual-image, which is not installed.",
            "pip install 'loba-trainer[images]', or leave it at --images half.",
        ) from error


def _is_terminal() -> bool:
    from loba_tui.commands.tui.web.serve import WEB_DRIVER

    if os.environ.get("TEXTUAL_DRIVER") == WEB_DRIVER:
        return True
    if os.environ.get("TERM", "") in ("", "dumb", "unknown"):
        return False
    return sys.stdin.isatty() and sys.stdout.isatty()
