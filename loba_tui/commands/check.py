"""`loba validate`, `plan` and `doctor`: what is wrong, and what would run."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from loba_tui.commands.options import (
    Agreed,
    Json,
    Recipe,
    Set,
    echo_json,
    echo_result,
    find_run,
    grouped,
    say,
    user_plugins,
)
from loba_tui.core.errors import ExitCode
from loba_tui.core.text import clean
from loba_tui.core.units import parse_size

if TYPE_CHECKING:
    from loba_tui.client.recipes.open import OpenedRecipe
    from loba_tui.core.findings import Finding
    from loba_tui.core.recipe.problems import Problem


def validate(
    recipes: Annotated[list[Path], typer.Argument(metavar="RECIPE...", show_default=False)],
    overrides: Set = None,
    as_json: Json = False,
) -> None:
    """Check recipes without running them; every problem is shown with file, line and column.

    Example: loba validate recipes/slider.yaml --set train.steps=100
    """
    from loba_tui.core.recipe.problems import exit_code

    opened = [_open(each) for each in recipes]
    found = {each.name: _problems_of(each, overrides or []) for each in opened}
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
                say(problem, err=True)
            if not problems:
                say(f"{clean(path)}: valid")
    _exit_unless_done(exit_code(each for problems in found.values() for each in problems))


Processes = Annotated[
    int | None,
    typer.Option(min=2, help="Say what each of N processes would hold under each engine."),
]


@grouped
def plan(
    recipe: Recipe = None,
    overrides: Set = None,
    as_json: Json = False,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Compute it, whatever an earlier answer was.")
    ] = False,
    data: Annotated[
        bool, typer.Option("--data", help="Open every image and caption instead, and say what is.")
    ] = False,
    memory: Annotated[
        list[str] | None,
        typer.Option(help="Say how so much free memory, such as 12GB, would be used; repeatable."),
    ] = None,
    processes: Processes = None,
    agreed: Agreed = Agreed(),  # noqa: B008  frozen
) -> None:
    """Show what would run, drawn: its schedules over steps, layers, timesteps and noise.

    A recipe from a hub is shown and asked about: its model's configuration is fetched.

    Example: loba plan recipes/slider.yaml --set train.steps=1000
    """
    from loba_tui.client.plans import request as planning
    from loba_tui.client.plans.ascii_charts import Canvas
    from loba_tui.client.plans.requirements_text import memory_lines, process_lines
    from loba_tui.client.plans.text import data_lines, plan_lines
    from loba_tui.commands.live_line import foreground
    from loba_tui.commands.open_recipe import load_agreed, open_recipe

    plugins, here = user_plugins(), foreground()
    opened = open_recipe(recipe, yes=agreed.yes)
    resolved = load_agreed(opened, overrides or [], agreed)
    sizes = tuple(parse_size(size) for size in memory or ())
    if data:
        document = planning.ask("data", resolved, here)
    elif processes is not None:
        document = planning.ask("plan", resolved, here, processes=processes)["processes"]
    elif sizes:
        document = planning.ask("plan", resolved, here, memory=sizes)["memory"]
    else:
        document = planning.plan(
            resolved,
            here,
            cache=planning.PlanCache.of_user(os.environ),
            plugins=plugins,
            most_seconds=-1.0 if fresh else planning.MOST_SECONDS,
        )
    lines: Iterable[str]
    if data:
        lines = data_lines(document)
    elif processes is not None:
        lines = process_lines(document)
    elif sizes:
        lines = memory_lines(document)
    else:
        lines = plan_lines(document["sections"], Canvas.of(sys.stdout))
    echo_result(document, lines, as_json=as_json)


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
    from loba_tui.commands.live_line import foreground
    from loba_tui.core.findings import worst_code

    run_dir = None if run_name is None else find_run(run_name)
    findings = [
        *examination.installation(),
        *examination.machine(Path.cwd() if run_dir is None else run_dir.path),
        *examination.hub(),
        *examination.devices(foreground()),
        *(() if run_dir is None else examination.run_folder(run_dir)),
    ]
    document = [finding.as_json() for finding in findings]
    lines = (line for finding in findings for line in _finding_lines(finding))
    echo_result(document, lines, as_json=as_json)
    _exit_unless_done(worst_code(findings))


def _open(path: Path) -> OpenedRecipe:
    """Return the recipe that is named; one that is nowhere is kept, so that its check says so."""
    from loba_tui.client.recipes import open as hub_recipes
    from loba_tui.commands.open_recipe import open_recipe
    from loba_tui.core.recipe import shipped

    if hub_recipes.is_address(path):
        return open_recipe(path)
    # A name that is no file here may be a shipped recipe's, as it is for `run` and `plan`.
    return hub_recipes.OpenedRecipe(path if path.exists() else shipped.find(path) or path)


def _problems_of(opened: OpenedRecipe, overrides: Sequence[str]) -> list[Problem]:
    """Return what is wrong with a recipe; a stranger's is only read, so nobody is asked."""
    from loba_tui.client.recipes.model_file import model_problems
    from loba_tui.core.recipe.load import load_recipe
    from loba_tui.core.recipe.problems import ProblemsFound

    stranger, plugins = opened.stranger, user_plugins()
    if stranger is not None:
        return stranger.problems(overrides, plugins=plugins)
    try:
        recipe = load_recipe(opened.path, overrides, plugins=plugins)
    except ProblemsFound as error:
        from loba_tui.client.recipes.imports.registry import foreign_problem

        foreign = foreign_problem(opened.path)
        return list(error.problems) if foreign is None else [foreign]
    return list(model_problems(recipe, str(opened.path)))


def _finding_lines(finding: Finding) -> Iterator[str]:
    yield f"{finding.state:5}{clean(finding.check):20} {clean(finding.message)}"
    if finding.hint:
        yield f"{'':26}{clean(finding.hint)}"


def _exit_unless_done(code: ExitCode) -> None:
    if code != ExitCode.DONE:
        raise typer.Exit(int(code))
