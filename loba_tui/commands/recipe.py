"""`loba recipe`: write, describe and update recipes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from loba_tui.commands.options import (
    Json,
    echo_json,
    echo_lines,
    echo_result,
    echo_text,
    say,
    user_plugins,
)
from loba_tui.core.errors import ExitCode, RecipeError, ResourceError
from loba_tui.core.text import plain

recipe_app = typer.Typer(
    help="Write, describe and update recipes.", no_args_is_help=True, rich_markup_mode=None
)


@recipe_app.command("new")
def recipe_new(
    name: Annotated[str, typer.Argument(help="Name of the run.", show_default=False)],
    method: Annotated[str, typer.Option(help="What is done to the model.")] = "text_slider",
    out: Annotated[
        Path | None, typer.Option(help="File to write; NAME.yaml if absent.", show_default=False)
    ] = None,
) -> None:
    """Write a small commented recipe that runs on the embedded model.

    Example: loba recipe new my-slider --out my-slider.yaml
    """
    from loba_tui.core.recipe.new import new_recipe

    path = out or Path(f"{name}.yaml")
    plugins = user_plugins()
    text = new_recipe(name, method=method, file=str(path), plugins=plugins)
    write_new(path, text)
    say(path)


@recipe_app.command("schema")
def recipe_schema() -> None:
    """Print the JSON Schema of recipes, with the options of every drop-in.

    Example: loba recipe schema > loba.schema.json
    """
    from loba_tui.core.recipe.json_schema import recipe_schema

    echo_json(recipe_schema(user_plugins()))


@recipe_app.command("migrate")
def recipe_migrate(
    recipe: Annotated[Path, typer.Argument(help="A version 0 recipe.", show_default=False)],
    out: Annotated[
        Path | None, typer.Option(help="File to write; stdout if absent.", show_default=False)
    ] = None,
) -> None:
    """Turn a version 0 recipe, the flat flags, into version 1; comments are kept.

    Example: loba recipe migrate old.yaml --out recipes/new.yaml
    """
    from loba_tui.commands.open_recipe import naming_tools
    from loba_tui.core.recipe.load import check_text, read_recipe_text
    from loba_tui.core.recipe.migrate.text import migrate_text

    with naming_tools(recipe):
        text = migrate_text(read_recipe_text(recipe), str(recipe))
    if out is None:
        echo_text(text)
        if plain(text, "\n\t") != text:
            say("characters that a terminal might obey are left out; --out keeps them", err=True)
    else:
        write_new(out, text)
        say(out)
    # The old file's mistakes are the new file's: they are told, but the text is still of use.
    plugins = user_plugins()
    problems = check_text(text, str(out or "<migrated>"), plugins=plugins)
    for problem in problems:
        say(problem, err=True)
    if problems:
        raise typer.Exit(int(ExitCode.RECIPE))


@recipe_app.command("import")
def recipe_import(
    files: Annotated[
        list[str],
        typer.Argument(
            metavar="FILE... [-- FLAGS]",
            help="Its configuration, prompts, data set; flags of sd-scripts go after --.",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path | None, typer.Option(help="File to write; stdout if absent.", show_default=False)
    ] = None,
) -> None:
    """Turn another trainer's configuration into a commented recipe.

    Concept Sliders, LECO, ai-toolkit, kohya sd-scripts, OneTrainer and SimpleTuner are read. What
    cannot be carried over is listed, here and in the recipe.

    Example: loba recipe import config.yaml prompts.yaml --out recipe.yaml
    """
    from loba_tui.client.recipes.imports.registry import import_recipe
    from loba_tui.client.recipes.imports.written import table_lines

    first_flag = next((i for i, word in enumerate(files) if word.startswith("-")), len(files))
    paths = [Path(name) for name in files[:first_flag]]
    imported = import_recipe(paths, files[first_flag:], user_plugins())
    if out is None:
        echo_text(imported.text)
    else:
        write_new(out, imported.text)
        say(out)
    echo_lines(table_lines(imported.draft), err=True)


@recipe_app.command("diff")
def recipe_diff(
    left: Annotated[str, typer.Argument(metavar="RECIPE|RUN", show_default=False)],
    right: Annotated[str, typer.Argument(metavar="RECIPE|RUN", show_default=False)],
    as_json: Json = False,
) -> None:
    """Compare what two recipes, or the recipes of two runs, come to; defaults count as written.

    Example: loba recipe diff recipes/slider.yaml last
    """
    from loba_tui.client.recipes import files as recipe_files
    from loba_tui.core.recipe.diff import differences
    from loba_tui.core.run.directory import Ledger

    plugins, ledger = user_plugins(), Ledger.of_user(os.environ)
    recipes = [recipe_files.resolve(each, ledger, plugins) for each in (left, right)]
    found = differences(*recipes)
    echo_result([each.record() for each in found], (each.line for each in found), as_json=as_json)
    if not found and not as_json:
        say("the same", err=True)


def write_new(path: Path, text: str) -> None:
    """Write a file that must not exist yet."""
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError as error:
        raise RecipeError(f"{path}: exists already", "Choose another --out.") from error
    except OSError as error:
        raise ResourceError(f"{path}: cannot be written: {error.strerror}") from error
