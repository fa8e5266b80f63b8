"""`loba bench`: how fast a recipe steps on this device, and what would be faster."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from loba_tui.commands.options import Agreed, Recipe, Set, echo_lines, grouped, say, user_plugins

Tries = Annotated[
    list[str] | None,
    typer.Option(
        "--try", metavar="KEY=VALUE[,…]", help="Measure this alternative instead; repeatable."
    ),
]


@grouped
def bench(
    recipe: Recipe = None,
    family: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Measure the slider of a family: sdxl, flux, z-image…"),
    ] = None,
    overrides: Set = None,
    tries: Tries = None,
    minutes: Annotated[
        float, typer.Option(min=0.1, max=600.0, help="The most that all of it takes.")
    ] = 8.0,
    quick: Annotated[bool, typer.Option("--quick", help="Measure less often.")] = False,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write all figures as JSON.")
    ] = None,
    share: Annotated[
        bool, typer.Option("--share", help="Print a text to paste, without names and paths.")
    ] = False,
    agreed: Agreed = Agreed(),  # noqa: B008  frozen
) -> None:
    """Measure how fast a recipe steps here, and three alternatives; nothing is downloaded.

    The model has random weights at its true size; where it does not fit, an embedded one is used.

    Example: loba bench

    Example: loba bench my.yaml --try train.batch_size=4 --try method.trajectories=bank
    """
    from loba_tui.client.bench import request as asking
    from loba_tui.client.bench.text import share_lines, table_lines
    from loba_tui.commands.live_line import foreground
    from loba_tui.commands.open_recipe import load_agreed, open_recipe
    from loba_tui.core.files import write_atomically

    path = None if json_file is None else asking.writable(json_file)
    opened = open_recipe(asking.recipe_of(recipe, family), yes=agreed.yes)
    resolved = load_agreed(opened, overrides or [], agreed)
    parsed = asking.parse_tries(tries or [], resolved, user_plugins())
    options = asking.BenchOptions(minutes, quick, tuple(parsed))
    found = asking.bench(resolved, options, foreground())
    echo_lines(share_lines(found) if share else table_lines(found))
    if path is not None:
        write_atomically(path, (json.dumps(found, indent=2) + "\n").encode())
        say(f"figures in {path}", err=True)
