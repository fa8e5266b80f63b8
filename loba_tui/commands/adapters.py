"""`loba merge` and `loba interfere`: several adapters at once, each at a strength of its own."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal

import typer

from loba_tui.core.errors import RecipeError, RefusedError

Parts = Annotated[
    list[str],
    typer.Argument(metavar="ADAPTER@SCALE…", help="Runs or files; without @SCALE it is 1."),
]


def merge(
    adapters: Parts,
    out: Annotated[Path, typer.Option(metavar="FILE", help="The new .safetensors file.")],
    rank: Annotated[
        int | None, typer.Option(min=1, help="Most that a layer may have; all of it if left out.")
    ] = None,
    file_format: Annotated[
        Literal["diffusers", "kohya"], typer.Option("--format", help="Key naming of the file.")
    ] = "diffusers",
    yes: Annotated[bool, typer.Option("--yes", help="Replace an existing file.")] = False,
) -> None:
    """Make one file that does what several adapters do together.

    It is exact at the sum of their ranks; with --rank it is as near as a file of that rank can be,
    and how near that is, is said.

    Example: loba merge size-slider-…@1.5 brightness-slider-…@-1 --out both.safetensors
    """
    from loba_tui.client.runs import foreground
    from loba_tui.client.runs.adapter_list import request_of
    from loba_tui.core.text import clean

    out = out.expanduser().absolute()
    if out.suffix != ".safetensors":
        raise RecipeError(f"--out: {out.name} is not a .safetensors file.")
    if out.exists() and not yes:
        raise RefusedError(f"{out} exists already.", "Add --yes to replace it.")
    wanted = request_of("merge", adapters, file=str(out), rank=rank, file_format=file_format)
    here = foreground.Foreground(os.environ)
    folder, wanted = foreground.prepare_request(wanted, None)
    for event in here.request(folder, wanted):
        if event.kind == "merged":
            data = event.data
            typer.echo(f"adapter    {clean(data['path'])}")
            typer.echo(
                f"layers     {int(data['num_layers'])}, rank at most {int(data['largest_rank'])}"
            )
            error = float(data["error"])
            lost = f"; most in {clean(data['worst_layer'])}, {float(data['worst_error']):.2%}"
            typer.echo(
                f"lost       {error:.2%} of the change{lost}" if error else "lost       nothing"
            )


def interfere(
    adapters: Parts,
    prompts: Annotated[
        list[str] | None, typer.Option("--prompt", help="Repeatable; the recipe's if left out.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where the results go; a new folder if not.")
    ] = None,
) -> None:
    """Say how adapters that are used together disturb each other, in figures and a picture.

    Example: loba interfere size-slider-…@2 brightness-slider-…@-2
    """
    from loba_tui.client.runs import foreground
    from loba_tui.client.runs.adapter_list import request_of
    from loba_tui.client.runs.follow import shorten
    from loba_tui.core.text import clean

    if len(adapters) < 2:
        raise RecipeError("ADAPTER@SCALE: it takes two adapters to disturb each other.")
    wanted = request_of("interfere", adapters, prompts=tuple(prompts or ()))
    here = foreground.Foreground(os.environ)
    folder, wanted = foreground.prepare_request(wanted, out)
    for event in here.request(folder, wanted):
        if event.kind == "interfered":
            for label, key in (("figures", "path"), ("picture", "picture")):
                typer.echo(f"{label:11}{shorten(Path(str(event.data[key])))}")
            sentences = event.data.get("sentences")
            for sentence in sentences if isinstance(sentences, list) else []:
                typer.echo(f"  {clean(sentence)}")
