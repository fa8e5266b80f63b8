"""`loba sample`, `eval`, `merge` and `interfere`: what is done with finished adapters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from loba_tui.commands.options import (
    Agreed,
    FileFormat,
    Prompts,
    Replace,
    echo_lines,
    grouped,
    say,
    user_ledger,
    user_plugins,
)
from loba_tui.core.errors import RecipeError, RefusedError
from loba_tui.core.text import clean
from loba_tui.core.user_folders import with_home

if TYPE_CHECKING:
    from loba_tui.core.run.directory import RunDir
    from loba_tui.core.run.launch import Request
    from loba_tui.core.run.records import Event

Scales = Annotated[
    str, typer.Option(metavar="A,B,…", help="Slider scales; the recipe's if left out.")
]
Seeds = Annotated[str, typer.Option(metavar="A,B,…", help="Seeds; the recipe's if left out.")]
By = Annotated[
    Path | None,
    typer.Option(
        "--recipe", metavar="RECIPE", help="Its model, prompts and measure; for any tool's adapter."
    ),
]
Out = Annotated[
    Path | None, typer.Option(metavar="DIR", help="Where the results go; a new folder if left out.")
]
UNetOnly = Annotated[
    bool, typer.Option("--unet-only", help="Leave out what it has for text encoders.")
]
Strengths = Annotated[
    list[str],
    typer.Argument(metavar="ADAPTER@SCALE…", help="Runs or files; without @SCALE it is 1."),
]


@grouped
def sample(
    adapter: Annotated[
        Path | None,
        typer.Argument(metavar="RUN|ADAPTER", help="A run folder or a .safetensors file."),
    ] = None,
    adapters: Annotated[
        list[str] | None,
        typer.Option("--adapter", metavar="ADAPTER@SCALE", help="Repeatable: several at once."),
    ] = None,
    prompts: Prompts = None,
    scales: Scales = "",
    seeds: Seeds = "",
    by: By = None,
    unet_only: UNetOnly = False,
    out: Out = None,
    agreed: Agreed = Agreed(),  # noqa: B008  frozen
) -> None:
    """Draw a strip of pictures over the scales of an adapter, or of several at once.

    With --adapter each has a strength of its own, and the scales multiply all of them; they are 0
    and 1 if left out.

    Example: loba sample output/size-slider-… --prompt "a red circle" --scales -2,0,2 --seeds 0,1
    """
    from loba_tui.client.runs import requests

    if (adapter is None) == (not adapters):
        raise RecipeError(
            "sample: give one RUN|ADAPTER, or several by --adapter ADAPTER@SCALE.",
            "As in: loba sample --adapter size-slider-…@1.5 --adapter brightness-slider-…@-1",
        )
    request = (
        requests.about_several("sample", adapters or (), user_ledger(), option="--adapter")
        if adapter is None
        else requests.about_one("sample", adapter)
    )
    images = requests.Images(tuple(prompts or ()), scales, seeds)
    request = replace(images.added_to(request), unet_only=unet_only)
    _echo_results(_with_recipe(request, by, agreed), out)


@grouped
def evaluate(
    adapter: Annotated[
        Path, typer.Argument(metavar="RUN|ADAPTER", help="A run folder or a .safetensors file.")
    ],
    prompts: Prompts = None,
    scales: Scales = "",
    seeds: Seeds = "",
    by: By = None,
    unet_only: UNetOnly = False,
    out: Out = None,
    agreed: Agreed = Agreed(),  # noqa: B008  frozen
) -> None:
    """Measure what an adapter does and write report.json and report.png.

    An adapter that was made here says how; any other is measured by a recipe.

    Example: loba eval output/size-slider-… --seeds 7,8

    Example: loba eval downloaded.safetensors --recipe sdxl/slider
    """
    from loba_tui.client.runs import requests

    images = requests.Images(tuple(prompts or ()), scales, seeds)
    request = images.added_to(requests.about_one("eval", adapter))
    request = replace(request, unet_only=unet_only)
    _echo_results(_with_recipe(request, by, agreed), out)


def merge(
    adapters: Strengths,
    out: Annotated[Path, typer.Option(metavar="FILE", help="The new .safetensors file.")],
    rank: Annotated[
        int | None, typer.Option(min=1, help="Most that a layer may have; all of it if left out.")
    ] = None,
    file_format: FileFormat = "diffusers",
    unet_only: UNetOnly = False,
    yes: Replace = False,
) -> None:
    """Make one file that does what several adapters do together.

    It is exact at the sum of their ranks; with --rank it is as near as a file of that rank can be,
    and how near that is, is said.

    Example: loba merge size-slider-…@1.5 brightness-slider-…@-1 --out both.safetensors
    """
    from loba_tui.client.runs.requests import about_several

    out = with_home(out).absolute()
    if out.suffix != ".safetensors":
        raise RecipeError(f"--out: {out.name} is not a .safetensors file.")
    if out.exists() and not yes:
        raise RefusedError(f"{out} exists already.", "Add --yes to replace it.")
    request = about_several("merge", adapters, user_ledger())
    request = replace(request, file=str(out), rank=rank, file_format=file_format)
    request = replace(request, unet_only=unet_only)
    _, events = answer(request, None)
    for event in events:
        if event.kind == "merged":
            echo_lines(_merged_lines(event.data))


def _merged_lines(data: Mapping[str, Any]) -> list[str]:
    error = float(data["error"])
    worst = f"; most in {clean(data['worst_layer'])}, {float(data['worst_error']):.2%}"
    return [
        f"adapter    {clean(data['path'])}",
        f"layers     {int(data['num_layers'])}, rank at most {int(data['largest_rank'])}",
        f"lost       {error:.2%} of the change{worst}" if error else "lost       nothing",
    ]


@grouped
def interfere(
    adapters: Strengths,
    prompts: Prompts = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where the results go; a new folder if not.")
    ] = None,
    unet_only: UNetOnly = False,
    agreed: Agreed = Agreed(),  # noqa: B008  frozen
) -> None:
    """Say how adapters that are used together disturb each other, in figures and a picture.

    Example: loba interfere size-slider-…@2 brightness-slider-…@-2
    """
    from loba_tui.client.runs.events import shorten
    from loba_tui.client.runs.requests import about_several

    if len(adapters) < 2:
        raise RecipeError("ADAPTER@SCALE: it takes two adapters to disturb each other.")
    request = about_several("interfere", adapters, user_ledger())
    request = _with_measures(_with_recipe(request, None, agreed))
    request = replace(request, prompts=tuple(prompts or ()), unet_only=unet_only)
    _, events = answer(request, out)
    for event in events:
        if event.kind == "interfered":
            for label, key in (("figures", "path"), ("picture", "picture")):
                say(f"{label:11}{shorten(Path(str(event.data[key])))}")
            sentences = event.data.get("sentences")
            for sentence in sentences if isinstance(sentences, list) else []:
                say(f"  {clean(sentence)}")


def answer(request: Request, out: Path | None) -> tuple[RunDir, list[Event]]:
    """Have the program answer a request; return the folder of its results and what it reports."""
    from loba_tui.client.runs.requests import prepare_request
    from loba_tui.commands.live_line import foreground

    folder, request = prepare_request(request, out)
    return folder, foreground().request(folder, request)


def _echo_results(request: Request, out: Path | None) -> None:
    from loba_tui.client.runs.results import result_lines

    echo_lines(result_lines(*answer(request, out)))


def _with_recipe(request: Request, by: Path | None, agreed: Agreed) -> Request:
    """Return the request with the recipe that it goes by; a stranger's has been agreed to.

    Raises:
        LobaError: There is none, or it cannot be used.
    """
    from loba_tui.client.runs.request_recipes import recipe_of
    from loba_tui.client.runs.resolve import resolve_adapter
    from loba_tui.commands.open_recipe import load_agreed, load_found, open_recipe
    from loba_tui.core.recipe.load import dump_recipe

    if by is None:
        found = recipe_of(*resolve_adapter(Path(request.adapter)), user_ledger())
        recipe = load_found(found, agreed)
    else:
        recipe = load_agreed(open_recipe(by, yes=agreed.yes), (), agreed)
    return replace(request, recipe=dump_recipe(recipe))


def _with_measures(request: Request) -> Request:
    """Return the request with the recipe of each of several adapters, for its measure."""
    from loba_tui.client.runs.request_recipes import measuring_recipe
    from loba_tui.client.runs.resolve import resolve_adapter

    ledger, plugins = user_ledger(), user_plugins()
    found = (
        measuring_recipe(*resolve_adapter(Path(file)), ledger, plugins)
        for file, _ in request.several
    )
    return replace(request, recipes=tuple(found))
