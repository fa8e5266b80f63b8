from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loba_tui.core.errors import RecipeError
from loba_tui.core.plugins import SHIPPED
from loba_tui.core.recipe.load import parse_recipe, parse_text
from loba_tui.core.recipe.migrate.flags import V0_FLAGS, is_version_0, migrate_flags
from loba_tui.core.recipe.migrate.text import migrate_text
from loba_tui.core.recipe.problems import ProblemsFound
from loba_tui.core.recipe.yaml_tree import read_tree

OLD = """\
# My old run

pretrained_model: builtin:shapes-xl   # the base
# how fast
lr: 1e-4
optimizer: adamw
scheduler: "cosine"  # smooth
target: a shape # what # is this
preserve:
  # keep these
  - "a: b # not a comment"
  - a dog
positive: 'it''s large'
negative: a small
  shape
iterations: 1000

# where
out_dir: ./output
seed: 3
# the end
"""
NEW = """\
# My old run
version: 1

base_model:
  id: builtin:shapes-xl  # the base

method:
  name: text_slider
  concepts:
    - target: a shape  # what # is this
      positive: 'it''s large'
      negative: a small shape
      # keep these
      preserve:
        - "a: b # not a comment"
        - a dog

optimizer:
  name: adamw
  # how fast
  lr: 1e-4

scheduler:
  model:
    name: "cosine"  # smooth

train:
  steps: 1000
  seed: 3

# the end
# where
# The folder is not part of a recipe: --out-dir ./output
"""

ALL_FLAGS: dict[str, Any] = {
    "pretrained_model": "builtin:shapes-xl",
    "revision": "main",
    "device": "cpu",
    "dtype": "float32",
    "method": "text_slider",
    "target": "a shape",
    "positive": "a large shape",
    "negative": "a small shape",
    "neutral": "some shape",
    "guidance": 2.0,
    "preserve": ["a circle"],
    "adapter": "locon",
    "rank": 8,
    "alpha": 2.0,
    "optimizer": "adamw",
    "lr": 1e-4,
    "weight_decay": 0.1,
    "scheduler": "cosine",
    "layer_scheduler": "attention_only",
    "noise_scheduler": "euler",
    "timestep_scheduler": "linear",
    "loss": "huber",
    "iterations": 10,
    "batch_size": 2,
    "gradient_accumulation": 2,
    "seed": 1,
    "resolution": 64,
    "out_dir": "out",
    "name": "old",
    "save_every": 5,
    "sample_every": 6,
}


def value_at(value: Any, path: tuple[str | int, ...]) -> Any:
    for step in path:
        value = value[step]
    return value


def test_the_specification_s_flags_become_a_recipe() -> None:
    recipe = parse_recipe(
        migrate_flags(
            {
                "pretrained_model": "stabilityai/stable-diffusion-xl-base-1.0",
                "optimizer": "adamw",
                "lr": 1e-4,
                "scheduler": "cosine",
                "noise_scheduler": "ddim",
                "iterations": 1000,
                "batch_size": 2,
                "out_dir": "./output",
            }
        ),
        plugins=SHIPPED,
    )
    assert recipe.base_model.id == "stabilityai/stable-diffusion-xl-base-1.0"
    assert (recipe.optimizer.name, recipe.optimizer.lr) == ("adamw", 1e-4)
    assert (recipe.scheduler.model.name, recipe.scheduler.noise.name) == ("cosine", "ddim")
    assert (recipe.train.steps, recipe.train.batch_size) == (1000, 2)
    (concept,) = recipe.method.concepts
    assert (concept.target, concept.positive) == ("a shape", "a large shape")


def test_every_flag_arrives_where_the_table_says() -> None:
    assert set(ALL_FLAGS) == set(V0_FLAGS)
    recipe = migrate_flags(ALL_FLAGS)
    parse_recipe(recipe, plugins=SHIPPED)
    for name, flag in V0_FLAGS.items():
        if flag.path:
            assert value_at(recipe, flag.path) == ALL_FLAGS[name]
            expected = flag.type if flag.type is not float else (float, int)
            assert isinstance(ALL_FLAGS[name], expected)


def test_flags_that_were_not_given_are_left_to_the_defaults() -> None:
    assert migrate_flags(dict.fromkeys(V0_FLAGS)) == migrate_flags({})


def test_an_unknown_flag_names_the_nearest() -> None:
    with pytest.raises(RecipeError) as caught:
        migrate_flags({"iteration": 1})
    assert caught.value.hint == "Did you mean iterations?"


def test_comments_and_spelling_of_values_are_kept() -> None:
    assert migrate_text(OLD) == NEW
    parse_text(NEW, "new", plugins=SHIPPED)


@pytest.mark.parametrize(
    "text",
    [
        "{pretrained_model: x, lr: 1e-4}",
        "pretrained_model: x\npreserve: dog\ntarget: a\n",
        "pretrained_model: x\npreserve: []\n# end",
        "version: 0\nlr: ~\npositive: |\n  a\n  b\n",
        "# head\n\n# more\nlr: 1\n",
        'target: "a\\nb"\n',
        "lr: &x 1\nalpha: *x\n",
    ],
)
def test_text_and_flags_migrate_to_the_same(text: str) -> None:
    migrated = read_tree(migrate_text(text), "x")[0].plain()
    assert migrated == migrate_flags(read_tree(text, "x")[0].plain())
    assert text.count("#") == migrate_text(text).count("#")


@settings(max_examples=60, deadline=None)
@given(
    flat=st.dictionaries(
        st.sampled_from([n for n, f in V0_FLAGS.items() if f.type is str and n != "out_dir"]),
        st.from_regex(r"[a-z#:'\" -]{0,12}", fullmatch=True),
        min_size=1,
    )
)
def test_any_text_value_survives(flat: dict[str, str]) -> None:
    import json

    text = "version: 0\n" + "".join(f"{k}: {json.dumps(v)}  # c\n" for k, v in flat.items())
    assert read_tree(migrate_text(text), "x")[0].plain() == migrate_flags(flat)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("pretrained_model: x\nlrr: 1\n", "o:2:1: lrr: not a key of version 0. Did you mean lr?"),
        ("version: 1\nname: x\n", "o:1:1: this is version 1 already: there is nothing to migrate"),
        ("version: 7\n", "o:1:1: expected a version 0 recipe"),
        ("lr: [1]\n", "o:1:1: lr: expected a single value, got a list of 1"),
        ("lr: 1\npreserve: [{a: 1}]\n", "o:2:1: preserve: expected a list of texts"),
        ("- a\n", "o:1:1: expected a version 0 recipe"),
        ("lr: 1\nlr: 2\n", "o:2:1: lr: the key was already given on line 1"),
    ],
)
def test_what_cannot_be_migrated_says_where(text: str, expected: str) -> None:
    with pytest.raises(ProblemsFound) as caught:
        migrate_text(text, "o")
    assert caught.value.message.startswith(expected)


@pytest.mark.parametrize(
    ("keys", "old"),
    [
        ({"version": 0}, True),
        ({"version": False}, False),
        ({"version": 1, "lr": 1}, False),
        ({"pretrained_model": "x"}, True),
        ({"optimizer": "adamw"}, True),
        ({"optimizer": {"name": "adamw"}}, False),
        ({"name": "x"}, False),
        ({"method": None}, False),
    ],
)
def test_version_0_is_known_by_its_flat_keys(keys: dict[str, Any], old: bool) -> None:
    assert is_version_0(keys) is old
