"""`loba erase`: a list of words erased from a model, in closed form."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import typer

from loba_tui.commands.options import (
    OutDir,
    Set,
    echo_lines,
    grouped,
    say,
    user_ledger,
    user_plugins,
)

Words = Annotated[
    Path,
    typer.Argument(
        metavar="WORDS",
        help="A word a line, or a .csv with erase, guide, retain, watch.",
        show_default=False,
    ),
]
Write = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Write the recipe there, and run nothing."),
]


@dataclass(frozen=True)
class How:
    """How a list is erased: from which model, towards what, and into which adapters."""

    model: Annotated[str, typer.Option(metavar="ID", help="The base model, as in a recipe.")] = (
        "builtin:shapes-xl"
    )
    guide: Annotated[
        str, typer.Option(help="What words become that name no guide; nothing if left out.")
    ] = ""
    place: Annotated[
        list[str] | None,
        typer.Option(help="What words stand in, such as 'a photo of {}'; repeatable."),
    ] = None
    method: Annotated[
        Literal["speed", "uce"], typer.Option(help="speed keeps what it retains exactly.")
    ] = "speed"
    rank: Annotated[
        int | None, typer.Option(min=1, help="Cut each layer's update to this rank.")
    ] = None
    adapters: Annotated[
        int, typer.Option(min=1, help="Write so many adapters too, each for its share of words.")
    ] = 1
    name: Annotated[str | None, typer.Option(help="Name of the run; the file's if left out.")] = (
        None
    )


@grouped
def erase(
    words: Words,
    how: How = How(),
    overrides: Set = None,
    out_dir: OutDir = Path("output"),
    write: Write = None,
) -> None:
    """Erase a list of words at once, and tell what each costs the others.

    Words under retain stay as they are; of those under watch is told how far they move.

    Example: loba erase artists.csv --model stabilityai/stable-diffusion-xl-base-1.0 --rank 64
    """
    from loba_tui.client.recipes import word_list
    from loba_tui.client.runs.events import shorten
    from loba_tui.client.runs.results import result_lines
    from loba_tui.client.runs.start import make_run
    from loba_tui.commands.live_line import foreground
    from loba_tui.commands.recipe import write_new
    from loba_tui.core.recipe.load import parse_with
    from loba_tui.core.text import counted

    found = word_list.read_words(words, guide=how.guide)
    erasing = word_list.Erasing(
        name=how.name or word_list.run_name(words),
        model=how.model,
        method=how.method,
        places=word_list.check_places(how.place or word_list.PLACES),
        rank=how.rank,
        adapters=how.adapters,
    )
    text = word_list.erasing_recipe(found, erasing)
    origin = f"the recipe of {words}"
    recipe, _ = parse_with(text, origin, overrides or [], plugins=user_plugins())
    numbers = f"{len(found.retain)} retained, {len(found.watch)} watched"
    say(f"{counted(len(found.erase), 'word')} to erase, {numbers}", err=True)
    if write is not None:
        write_new(write, text)
        say(write)
        return
    run_dir = make_run(recipe, out_dir, user_ledger())
    say(f"run folder {shorten(run_dir.path)}", err=True)
    echo_lines(result_lines(run_dir, foreground().run(run_dir)))
