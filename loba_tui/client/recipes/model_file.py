"""Check of the checkpoint in one file that a recipe names, by its header alone."""

from __future__ import annotations

from collections.abc import Iterator

from loba_tui.core.associate.one_file.header import inspect
from loba_tui.core.errors import ExitCode, LobaError
from loba_tui.core.recipe.problems import Problem
from loba_tui.core.recipe.schema import Recipe
from loba_tui.core.user_folders import with_home


def model_problems(recipe: Recipe, origin: str) -> Iterator[Problem]:
    """Yield why the file that is a recipe's base model cannot be one, if it is a file that is here.

    Folders and models of the hub are looked at when they are loaded or planned.

    Args:
        origin: What the recipe is called in messages.
    """
    model = recipe.base_model
    try:
        path = with_home(model.id)
        if not path.is_file():
            return
        checkpoint = inspect(path)
        checkpoint.check(needs_vae=model.vae is None)
    except LobaError as error:
        refused = error.exit_code == ExitCode.REFUSED
        message = f"{error.message} {error.hint}".strip()
        yield Problem(origin, 0, 0, "base_model.id", message, refused=refused)
        return
    if model.prediction_type is None and model.config is None and checkpoint.lacks_prediction_type:
        message = (
            f"{checkpoint.shown} does not say what it predicts; set base_model.prediction_type:"
            " v_prediction for models of 768 pixels, epsilon for those of 512"
        )
        yield Problem(origin, 0, 0, "base_model.id", message)
