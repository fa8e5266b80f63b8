"""The commented recipe that `loba recipe new` writes."""

from __future__ import annotations

import json

from loba_tui.core.errors import RecipeError
from loba_tui.core.plugins import Plugins
from loba_tui.core.recipe.checks.recipe import check_tree
from loba_tui.core.recipe.migrate.flags import DEFAULT_CONCEPT, DEFAULT_METHOD
from loba_tui.core.recipe.yaml_tree import read_tree

_HEAD = """\
# {name}: a recipe for LOBA-Trainer.
#
#   loba validate {file}    checks it
#   loba run {file}         trains it
#
# An editor completes keys and values from the schema: loba recipe schema > loba.schema.json
# yaml-language-server: $schema=loba.schema.json
version: 1
name: {name}

base_model:
  id: builtin:shapes-xl    # a local diffusers folder or a hub id works here too
  device: auto             # cuda:122 insists on CUDA 12.2 or newer

method:
  name: {method}
"""

_TAIL = """
adapter:
  name: lora
  rank: 4
  alpha: 4

optimizer:
  name: adamw
  lr: 5.0e-4

train:
  steps: 80
  batch_size: 8
  seed: 0

sample:
  scales: [-3, -2, -1, 0, 1, 2, 3]    # slider positions of the pictures
"""


def new_recipe(
    name: str, *, method: str = DEFAULT_METHOD, file: str | None = None, plugins: Plugins
) -> str:
    """Return a small recipe that trains on the embedded model; its comments call it `file`.

    Raises:
        RecipeError: The name cannot be one, or the method is unknown or needs what a template
            cannot know.
    """
    plugin = plugins.describe("methods", method)
    lines = [_HEAD.format(name=name, method=method, file=file or f"{name}.yaml")]
    options = [
        f"  # {option.name}: {json.dumps(option.default)}    # {option.expected}\n"
        for option in plugin.options.values()
    ]
    if options:
        lines.append("  # Its options and their defaults; take away the # to set one:\n")
        lines += options
    required = plugin.constants.get("REQUIRES", ())
    if required:
        lines.append("  concepts:\n")
    for index, field in enumerate(required):
        prompt = DEFAULT_CONCEPT.get(field, DEFAULT_CONCEPT["target"])
        lines.append(f"    {'- ' if index == 0 else '  '}{field}: {prompt}\n")
    text = "".join([*lines, _TAIL])
    recipe, problems = check_tree(read_tree(text, name)[0], plugins)
    if recipe is None:
        first, *others = (f"{problem.key}: {problem.message}" for problem in problems)
        hint = "Write these by hand; loba recipe schema lists every key."
        raise RecipeError(first, hint, lines=others)
    return text
