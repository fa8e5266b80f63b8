"""The `loba` command. Every command imports what it needs when it runs, so that help is instant.

Results go to stdout, messages to stderr. What a user can act on is a `LobaError`: it is shown as a
message and ends the process with its own exit code.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from loba_tui import __version__
from loba_tui.commands import adapters as several_cli
from loba_tui.commands.cache import cache_app
from loba_tui.commands.options import echo_json
from loba_tui.commands.plugins import plugins_app
from loba_tui.commands.push import push
from loba_tui.commands.recipe import recipe_app
from loba_tui.commands.runs import queue_app, runs_app
from loba_tui.commands.tui import tui
from loba_tui.core.errors import ExitCode, LobaError, RecipeError


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
    from loba_tui.core.text import clean

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
app.add_typer(recipe_app, name="recipe")
app.add_typer(plugins_app, name="plugins")
app.add_typer(runs_app, name="runs")
app.add_typer(queue_app, name="queue")
app.add_typer(cache_app, name="cache")
app.command()(several_cli.merge)
app.command()(several_cli.interfere)
app.command()(tui)
app.command()(push)

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
    from loba_tui.client.recipes import open as hub_recipes
    from loba_tui.core.plugins.sources import PluginSources
    from loba_tui.core.recipe import shipped
    from loba_tui.core.recipe.load import check_recipe
    from loba_tui.core.recipe.problems import exit_code
    from loba_tui.core.text import clean

    sources = PluginSources.of_user(os.environ)
    # A name that is no file here may be a shipped recipe's, as it is for `run` and `plan`.
    files = [
        hub_recipes.open_recipe(path)
        if hub_recipes.is_address(path)
        else hub_recipes.OpenedRecipe(path if path.exists() else shipped.find(path) or path)
        for path in recipes
    ]
    found = {
        each.name: check_recipe(each.path, overrides or [], sources=sources, origin=each.origin)
        for each in files
    }
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
                typer.echo(f"{clean(path)}: valid")
    code = exit_code(problem for problems in found.values() for problem in problems)
    if code != ExitCode.DONE:
        raise typer.Exit(int(code))


@app.command()
def plan(
    recipe: Annotated[
        Path | None,
        typer.Argument(
            metavar="RECIPE", help="A file, a shipped one, or hub://user/repo/FILE@REV."
        ),
    ] = None,
    overrides: Set = None,
    as_json: Json = False,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Compute it, whatever an earlier answer was.")
    ] = False,
    data: Annotated[
        bool, typer.Option("--data", help="Open every image and caption instead, and say what is.")
    ] = False,
) -> None:
    """Show what would run, drawn: its schedules over steps, layers, timesteps and noise.

    Example: loba plan recipes/slider.yaml --set train.steps=1000
    """
    from loba_tui.client.plans import request as planning
    from loba_tui.client.plans.ascii_charts import Canvas
    from loba_tui.client.plans.text import data_lines, plan_lines
    from loba_tui.client.recipes import open as hub_recipes
    from loba_tui.client.runs import foreground
    from loba_tui.core.plugins.sources import PluginSources
    from loba_tui.core.recipe.load import load_recipe

    sources = PluginSources.of_user(os.environ)
    opened = hub_recipes.open_recipe(recipe)
    wanted = load_recipe(opened.path, overrides or [], sources=sources, origin=opened.origin)
    if data:
        found = planning.check_data(wanted, foreground.Foreground(os.environ))
        if as_json:
            echo_json(found)
        else:
            for line in data_lines(found):
                typer.echo(line)
        return
    planned = planning.plan(
        wanted,
        foreground.Foreground(os.environ),
        cache=planning.PlanCache.of_user(os.environ),
        sources=sources,
        most_seconds=-1.0 if fresh else planning.MOST_SECONDS,
    )
    if as_json:
        echo_json(planned)
        return
    for line in plan_lines(planned["sections"], Canvas.of(sys.stdout)):
        typer.echo(line)


@app.command()
def run(
    recipe: Annotated[
        Path | None,
        typer.Argument(
            metavar="RECIPE", help="A file, a shipped one, or hub://user/repo/FILE@REV."
        ),
    ] = None,
    overrides: Set = None,
    out_dir: Annotated[
        Path, typer.Option("--out-dir", metavar="DIR", help="Where the run's folder is made.")
    ] = Path("output"),
    resume: Annotated[
        str | None, typer.Option(metavar="RUN", help="Go on with a run that was stopped.")
    ] = None,
    detach: Annotated[
        bool, typer.Option("--detach", help="Start the run and return at once.")
    ] = False,
    queue: Annotated[
        bool, typer.Option("--queue", help="Start the run once its device is free.")
    ] = False,
    deadline: Annotated[
        str | None,
        typer.Option(metavar="WHEN", help="Save and stop by then: 2h, 07:30 or an ISO time."),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Start although the estimate says it cannot fit.")
    ] = False,
    allow_inexact: Annotated[
        bool, typer.Option("--allow-inexact", help="Resume what another machine has saved.")
    ] = False,
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="Run a recipe from the hub without asking.")
    ] = False,
) -> None:
    """Train what a recipe says, with a live progress line; Ctrl-C saves and stops.

    Example: loba run recipes/slider.yaml --set train.steps=100
    """
    from loba_tui.client.recipes import open as hub_recipes
    from loba_tui.client.runs import describe as listing
    from loba_tui.client.runs import foreground
    from loba_tui.client.runs.follow import shorten
    from loba_tui.core.plugins.sources import PluginSources
    from loba_tui.core.recipe.load import load_recipe
    from loba_tui.core.run.directory import Ledger

    sources = PluginSources.of_user(os.environ)
    ledger = Ledger.of_user(os.environ)
    extra = foreground.extra_arguments(resume is not None, deadline)
    extra += ["--force"] if force else []
    extra += ["--allow-inexact"] if allow_inexact else []
    if resume is not None:
        foreground.refuse_with_resume(recipe, overrides)
        run_dir = listing.find_run(resume, ledger)
    else:
        opened = hub_recipes.open_recipe(recipe)
        if opened.origin is not None:
            # One that cannot run is told before anybody is asked about it.
            load_recipe(opened.path, overrides or [], sources=sources, origin=opened.origin)
            opened.ask(yes=yes)
        run_dir = foreground.prepare_run(
            opened.path, overrides or [], out_dir, ledger, sources, origin=opened.origin
        )
        opened.record(run_dir)
    typer.echo(f"run folder {shorten(run_dir.path)}", err=True)
    here = foreground.Foreground(os.environ)
    if queue:
        here.enqueue(run_dir, extra)
        typer.echo(str(run_dir.path))
        return
    if detach:
        here.detach(run_dir, extra)
        typer.echo(str(run_dir.path))
        return
    for line in foreground.result_lines(run_dir, here.run(run_dir, extra)):
        typer.echo(line)


@app.command()
def replay(
    wanted: Annotated[str, typer.Argument(metavar="ADAPTER|RUN", help="A file or a run.")],
    out_dir: Annotated[
        Path, typer.Option("--out-dir", metavar="DIR", help="Where the run's folder is made.")
    ] = Path("output"),
) -> None:
    """Make an adapter again, steering included, and say whether the file is the very same.

    Example: loba replay last
    """
    from loba_tui.client.runs import describe as listing
    from loba_tui.client.runs import foreground
    from loba_tui.client.runs import replay as replaying
    from loba_tui.client.runs.follow import shorten
    from loba_tui.core.plugins.sources import PluginSources
    from loba_tui.core.run.directory import Ledger

    ledger, sources = Ledger.of_user(os.environ), PluginSources.of_user(os.environ)
    path = Path(wanted)
    file = path if path.is_file() else listing.find_run(wanted, ledger).adapter
    original = replaying.Adapter.read(file)
    run_dir = replaying.prepare(original, out_dir, ledger, sources)
    typer.echo(f"run folder {shorten(run_dir.path)}", err=True)
    foreground.Foreground(os.environ).run(run_dir)
    is_identical, lines = replaying.compare(original, run_dir)
    for line in lines:
        typer.echo(line)
    if not is_identical:
        raise typer.Exit(int(ExitCode.NUMERICS))


Wanted = Annotated[
    Path, typer.Argument(metavar="RUN|ADAPTER", help="A run folder or a .safetensors file.")
]
Prompts = Annotated[
    list[str] | None, typer.Option("--prompt", help="Repeatable; the recipe's if left out.")
]
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


def _checked(recipe: Path | None) -> Path | None:
    """Return the file of a recipe, once it is known to be right."""
    if recipe is None:
        return None
    from loba_tui.client.recipes import open as hub_recipes
    from loba_tui.core.plugins.sources import PluginSources
    from loba_tui.core.recipe.load import load_recipe

    opened = hub_recipes.open_recipe(recipe)
    load_recipe(opened.path, sources=PluginSources.of_user(os.environ), origin=opened.origin)
    return opened.path


@app.command()
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
    out: Out = None,
) -> None:
    """Draw a strip of pictures over the scales of an adapter, or of several at once.

    With --adapter each has a strength of its own, and the scales multiply all of them; they are 0
    and 1 if left out.

    Example: loba sample output/size-slider-… --prompt "a red circle" --scales -2,0,2 --seeds 0,1
    """
    from loba_tui.client.runs import foreground

    if (adapter is None) == (not adapters):
        raise RecipeError(
            "sample: give one RUN|ADAPTER, or several by --adapter ADAPTER@SCALE.",
            "As in: loba sample --adapter size-slider-…@1.5 --adapter brightness-slider-…@-1",
        )
    here = foreground.Foreground(os.environ)
    recipe = _checked(by)
    for line in here.ask(
        "sample", adapter, prompts or [], scales, seeds, out, adapters or (), recipe
    ):
        typer.echo(line)


@app.command("eval")
def evaluate(
    adapter: Wanted,
    prompts: Prompts = None,
    scales: Scales = "",
    seeds: Seeds = "",
    by: By = None,
    out: Out = None,
) -> None:
    """Measure what an adapter does and write report.json and report.png.

    An adapter that was made here says how; any other is measured by a recipe.

    Example: loba eval output/size-slider-… --seeds 7,8

    Example: loba eval downloaded.safetensors --recipe sdxl/slider
    """
    from loba_tui.client.runs import foreground

    here = foreground.Foreground(os.environ)
    recipe = _checked(by)
    for line in here.ask("eval", adapter, prompts or [], scales, seeds, out, recipe=recipe):
        typer.echo(line)


@app.command()
def export(
    run_name: Annotated[str, typer.Argument(metavar="RUN", help="A run folder or its name.")],
    file_format: Annotated[
        Literal["diffusers", "kohya"], typer.Option("--format", help="Key naming of the file.")
    ] = "diffusers",
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="The new file.")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Replace an existing file.")] = False,
) -> None:
    """Copy a run's adapter out, for diffusers or for kohya, A1111 and ComfyUI.

    Example: loba export output/size-slider-… --format kohya --out size.safetensors
    """
    from loba_tui.client.runs import describe as listing
    from loba_tui.core.run.directory import Ledger

    run_dir = listing.find_run(run_name, Ledger.of_user(os.environ))
    typer.echo(str(listing.export_adapter(run_dir, file_format, out, replace=yes)))


@app.command()
def doctor(
    run_name: Annotated[
        str | None, typer.Argument(metavar="RUN", help="A run folder or its name, to check too.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Check the installation, the machine, the hub login and cache, and a run's files.

    Example: loba doctor output/size-slider-…
    """
    from loba_tui.client.machine import doctor as examination
    from loba_tui.client.runs import describe as listing
    from loba_tui.client.runs import foreground
    from loba_tui.core.findings import worst_code
    from loba_tui.core.run.directory import Ledger
    from loba_tui.core.text import clean

    run_dir = None if run_name is None else listing.find_run(run_name, Ledger.of_user(os.environ))
    findings = [
        *examination.installation(),
        *examination.machine(Path.cwd() if run_dir is None else run_dir.path),
        *examination.hub(),
        *examination.devices(foreground.Foreground(os.environ)),
        *(() if run_dir is None else examination.run_folder(run_dir)),
    ]
    if as_json:
        echo_json([finding.as_json() for finding in findings])
    else:
        for finding in findings:
            typer.echo(f"{finding.state:5}{clean(finding.check):20} {clean(finding.message)}")
            if finding.hint:
                typer.echo(f"{'':26}{clean(finding.hint)}")
    code = worst_code(findings)
    if code != ExitCode.DONE:
        raise typer.Exit(int(code))


def main() -> None:
    """Entry point of the `loba` script."""
    app()


if __name__ == "__main__":
    main()
