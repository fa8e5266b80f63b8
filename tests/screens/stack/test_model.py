"""The stack editor's forms and changes, without a terminal."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from loba_tui.core.errors import RecipeError
from loba_tui.core.plugins import SHIPPED, Plugins
from loba_tui.core.plugins.user import UserPlugins
from loba_tui.core.recipe.load import parse_text
from loba_tui.core.recipe.problems import ProblemsFound
from loba_tui.core.recipe.shipped import folder
from loba_tui.screens.stack.fields import SLOTS, Field, Slot, written
from loba_tui.screens.stack.model import StackModel

SLIDER = (folder() / "slider_unet.yaml").read_text()
SLOT = {slot.id: slot for slot in SLOTS}

PLUGIN = '''"""Mine: twice as often.

A user's own file.
"""
from collections.abc import Callable
from typing import Literal

def get_timestep_scheduler(*, times: int = 2, side: Literal["left", "right"] = "left"):
    """Return the density.

    Args:
        times: How often.
    """
    return lambda t, progress: t
'''


@pytest.fixture
def model() -> StackModel:
    return StackModel(SLIDER, "slider.yaml", plugins=SHIPPED)


def field(model: StackModel, key: str) -> Field:
    slot = max((s for s in SLOTS if key.startswith(f"{s.id}.")), key=lambda s: len(s.id))
    return next(each for each in model.fields(slot) if each.key == key)


@pytest.mark.parametrize("slot", SLOTS, ids=lambda slot: slot.id)
def test_every_drop_in_has_a_form_of_its_own_signature(slot: Slot) -> None:
    for name in SHIPPED.names(slot.kind)[::4] if slot.kind else ():
        if slot.kind == "methods" and name != "text_slider":
            continue  # others need concepts of another kind
        model = StackModel(SLIDER, "slider.yaml", plugins=SHIPPED)
        fields = model.fields(slot)
        if name != fields[0].value:
            try:
                model.set(fields[0], name)
            except RecipeError:
                assert any(o.required for o in SHIPPED.describe(slot.kind, name).options.values())
                continue
        options = SHIPPED.describe(slot.kind, name).options
        shown = {each.label: each for each in model.fields(slot)}
        assert set(options) <= set(shown)
        for option in options.values():
            assert shown[option.name].expected == option.expected or not option.help


def test_a_form_says_what_holds_where_from_and_what_fits(model: StackModel) -> None:
    choice, rate, *_ = model.fields(SLOT["optimizer"])
    assert (choice.value, choice.is_name, choice.is_given) == ("adamw", True, True)
    assert set(choice.choices) == set(SHIPPED.names("optimizers"))
    assert "Loshchilov" in choice.help
    assert (rate.label, rate.value, rate.is_given, rate.is_live) == ("lr", 5e-4, True, True)
    decay = field(model, "optimizer.weight_decay")
    assert (decay.value, decay.is_given, decay.is_live) == (0.01, False, False)
    assert decay.expected == "a number of at least 0"
    assert field(model, "train.on_nan").choices == ("stop", "skip", "rollback")
    assert field(model, "method.rescale_target").choices == ("true", "false")
    assert field(model, "train.seed").is_given


def test_a_change_touches_its_own_key_and_can_be_undone(model: StackModel) -> None:
    model.set(field(model, "optimizer.lr"), "1.0e-3")
    model.set(field(model, "scheduler.model.name"), "cosine")
    model.set(field(model, "scheduler.model.warmup_steps"), "10")
    assert model.recipe.scheduler.model.options == {"warmup_steps": 10}
    assert [line for line in model.diff if line[0] in "+-"] == [
        "-  lr: 5.0e-4",
        "+  lr: 1.0e-3",
        "+  model:",
        "+    name: cosine",
        "+    warmup_steps: 10",
    ]
    assert model.undo() == "scheduler.model.warmup_steps to 10"
    assert model.undo() == "scheduler.model.name to cosine"
    assert model.undo() == "optimizer.lr to 0.001"
    assert model.text == SLIDER
    assert model.undo() is None
    assert not model.is_changed


@pytest.mark.parametrize(
    ("key", "typed", "said"),
    [
        ("optimizer.name", "adamv", "there is no optimizer called 'adamv'\nDid you mean adamw?"),
        ("optimizer.lr", "0", "expected a number greater than 0, got 0"),
        ("optimizer.lr", "fast", "expected a number greater than 0, got 'fast'"),
        ("optimizer.beta1", "2", "expected a number from 0 to 1, got 2"),
        ("train.on_nan", "stopp", "Did you mean stop?"),
        ("train.steps", "1.5", "expected a whole number greater than 0, got 1.5"),
        ("adapter.layers", "[cross_atention]", "Did you mean cross_attention?"),
        ("optimizer.lr", "{a: [", "expected a number greater than 0"),
        ("train.steps", "\x1b]0;x\x07", "expected a whole number greater than 0"),
    ],
)
def test_what_does_not_fit_is_refused_and_changes_nothing(
    model: StackModel, key: str, typed: str, said: str
) -> None:
    assert said in model.check(field(model, key), typed)
    with pytest.raises(RecipeError) as raised:
        model.set(field(model, key), typed)
    assert said in str(raised.value)
    assert "\x1b" not in str(raised.value)
    assert (model.text, model.undo()) == (SLIDER, None)


def test_another_drop_in_leaves_the_options_behind_that_it_does_not_have(
    model: StackModel,
) -> None:
    model.set(field(model, "optimizer.eps"), "1e-6")
    model.set(field(model, "optimizer.weight_decay"), "0.1")
    said = model.set(field(model, "optimizer.name"), "lion")
    assert said == ["lion has no eps, so that was taken out"]
    assert model.recipe.optimizer.options == {"weight_decay": 0.1}
    assert model.recipe.optimizer.lr == 5e-4
    assert model.undo() is not None
    assert model.recipe.optimizer.options == {"eps": 1e-6, "weight_decay": 0.1}


def test_an_option_without_a_name_does_not_take_the_section_along() -> None:
    text = SLIDER.replace("  name: adamw\n  lr: 5.0e-4", "  eps: 1.0e-6")
    model = StackModel(text, "slider.yaml", plugins=SHIPPED)
    assert model.set(field(model, "optimizer.name"), "lion")
    assert model.recipe.optimizer.name == "lion"
    parse_text(model.text, "edited", plugins=SHIPPED)


def test_a_key_can_be_given_back_to_its_default(model: StackModel) -> None:
    model.unset(field(model, "train.seed"))
    assert model.recipe.train.seed == 0
    assert "seed" not in model.text
    model.unset(field(model, "optimizer.beta1"))  # was not given
    assert model.undo() == "train.seed to its default"
    with pytest.raises(RecipeError, match="no default"):
        model.unset(field(model, "method.name"))


def test_a_section_within_a_section_is_one_line(model: StackModel) -> None:
    assert field(model, "train.ema").written == "null"
    model.set(field(model, "train.ema"), "{decay: 0.9}")
    assert model.recipe.train.ema is not None
    shown = field(model, "train.ema").written
    assert shown.startswith("{decay: 0.9")
    assert model.check(field(model, "train.ema"), shown) == ""
    assert "decay" in model.check(field(model, "train.ema"), "{decay: 2}")
    assert field(model, "train.ema").nudged(1) is None


def test_what_a_running_run_can_take_is_told_from_what_it_cannot(model: StackModel) -> None:
    model.set(field(model, "optimizer.lr"), "1e-3")
    model.set(field(model, "train.steps"), "90")
    model.set(field(model, "adapter.rank"), "8")
    able, unable = model.live_changes(parse_text(model.saved, "x", plugins=SHIPPED))
    assert able == [("optimizer.lr", 1e-3), ("train.steps", 90)]
    assert unable == ["adapter.rank"]


def test_a_plugin_of_the_user_has_a_form_and_is_not_run(tmp_path: Path) -> None:
    (tmp_path / "plugins" / "timestep").mkdir(parents=True)
    (tmp_path / "plugins" / "timestep" / "mine.py").write_text(PLUGIN + "\nraise SystemExit\n")
    plugins = Plugins(UserPlugins(tmp_path / "plugins", tmp_path / "trusted.json"))
    model = StackModel(SLIDER, "slider.yaml", plugins=plugins)
    name = field(model, "scheduler.timestep.name")
    assert "mine" in name.choices
    assert model.summary("timestep", "mine") == "Mine: twice as often."
    assert "not trusted yet" in model.check(name, "mine")
    plugins.user.trust(plugins.user.read("timestep", "mine"))
    model.set(name, "mine")
    assert field(model, "scheduler.timestep.times").help == "How often."
    assert field(model, "scheduler.timestep.side").choices == ("left", "right")


def test_a_recipe_with_problems_has_no_forms() -> None:
    with pytest.raises(ProblemsFound, match="weight_decy"):
        StackModel(SLIDER.replace("lr: 5.0e-4", "weight_decy: 1"), "slider.yaml", plugins=SHIPPED)


@pytest.mark.parametrize("value", [None, True, 3, 5e-4, 1.0, "a b", "a: b", [1, "x"], "null", ""])
def test_a_value_is_shown_as_it_would_be_written(value: object) -> None:
    assert parse_value(written(value)) == value


def parse_value(text: str) -> object:
    from loba_tui.core.recipe.yaml_tree import read_tree

    return read_tree(f"a: {text}", "x")[0].plain()["a"]


def test_the_model_loads_nothing_heavy() -> None:
    code = "import loba_tui.screens.stack.model, sys; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
