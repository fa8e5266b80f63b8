"""From a recipe's choice of a drop-in to what its factory makes, shipped or the user's own."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import MappingProxyType
from typing import Any

import torch
from peft import PeftConfig

from loba_tui.core.errors import RecipeError
from loba_tui.core.plugins import Plugins
from loba_tui.core.program.learning_rates import RecordedRates, stand_in_optimizer
from loba_tui.core.recipe.checks.choices import chosen_drop_ins
from loba_tui.core.recipe.schema import Recipe
from loba_tui.core.recipe.sections.method import Choice

_FUNCTIONS = MappingProxyType(
    {
        "model": "a function of the step, or a torch LRScheduler",
        "timestep": "a function of timesteps and progress",
        "losses": "a function of prediction and target",
        "weightings": "a function of the signal-to-noise ratio",
        "noising": "a function of two noises and a source of more",
        "measures": "a function of an image",
    }
)
"""What the factories of these kinds return."""


def load_choice(kind: str, choice: Choice, plugins: Plugins) -> Callable[..., Any]:
    """Return the factory of a drop-in with the recipe's options already bound to it.

    What the user's own make is checked: their mistakes would otherwise show up far from them.
    """
    factory = plugins.load(kind, choice.name)
    options = choice.options
    plugin = plugins.describe(kind, choice.name)
    if plugin.origin == "shipped":
        return lambda *args, **kwargs: factory(*args[: plugin.num_supplied], **kwargs, **options)

    def make(*args: Any, **kwargs: Any) -> Any:
        if kind == "model":
            # A torch scheduler changes the optimizer that it is made for: not the real one.
            args = (stand_in_optimizer(float(args[0].param_groups[0]["lr"])), *args[1:])
        made = factory(*args[: plugin.num_supplied], **kwargs, **options)
        if kind == "model" and isinstance(made, torch.optim.lr_scheduler.LRScheduler):
            rates = RecordedRates(made, where=str(plugin.path))
            rates(args[1] - 1)  # what is wrong with the last step is found before the first
            return rates
        problem = result_problem(kind, made, args)
        if problem:
            raise RecipeError(f"{plugin.path}: {plugin.factory}() has to return {problem}")
        return made

    return make


def plugin_hashes(recipe: Recipe, plugins: Plugins) -> dict[str, str]:
    """Return the sha256 of each of the user's own drop-ins that a recipe uses, by kind/name."""
    hashes = {}
    for kind, name in chosen_drop_ins(recipe):
        if not plugins.is_shipped(kind, name):
            file = plugins.user.read(kind, name)
            hashes[file.key] = file.sha256
    return hashes


def package_of(quantizer: Choice, plugins: Plugins) -> str | None:
    """Return the optional package that a quantizer needs, which its file names as `PACKAGE`."""
    package = plugins.describe("quantizers", quantizer.name).constants.get("PACKAGE")
    return package if isinstance(package, str) else None


def result_problem(kind: str, made: Any, args: tuple[Any, ...]) -> str:
    """Return what a factory given `args` should have made instead of `made`; empty if it did."""
    got = f", not {type(made).__name__}"
    match kind:
        case "adapters" if not isinstance(made, PeftConfig):
            return f"a PEFT configuration{got}"
        case "optimizers" if not isinstance(made, torch.optim.Optimizer):
            return f"a torch optimizer{got}"
        case "noise" if not _has(made, "set_timesteps", "step", "config"):
            return f"a diffusers scheduler{got}"
        case "methods" if not (
            _has(made, "step", "state", "load_state") or _has(made, "solve", "most_ranks")
        ):
            return f"an object with step, state and load_state, or with solve and most_ranks{got}"
        case "quantizers" if not _has(made, "pack", "unpack", "parts"):
            return f"an object with pack, unpack and parts{got}"
        case _ if kind in _FUNCTIONS and not callable(made):
            return f"{_FUNCTIONS[kind]}{got}"
        case "layer":
            return _factors_problem(made, len(args[0].param_groups))
    return ""


def _factors_problem(made: Any, num_groups: int) -> str:
    wanted = "one factor of at least 0 per parameter group"
    try:
        factors = [float(factor) for factor in made]
    except (TypeError, ValueError):
        return f"{wanted}, not {type(made).__name__}"
    if len(factors) != num_groups:
        return f"{wanted}; there are {num_groups} groups and {len(factors)} factors"
    if not all(math.isfinite(factor) and factor >= 0 for factor in factors):
        return wanted
    return ""


def _has(made: Any, *names: str) -> bool:
    return all(hasattr(made, name) for name in names)
