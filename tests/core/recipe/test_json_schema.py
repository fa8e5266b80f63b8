from __future__ import annotations

import json
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from ruamel.yaml import YAML

from loba_tui.core.plugins import SHIPPED
from loba_tui.core.recipe import shipped
from loba_tui.core.recipe.checks.choices import CHOICES
from loba_tui.core.recipe.json_schema import recipe_schema


@pytest.fixture(scope="module")
def schema() -> dict[str, Any]:
    return recipe_schema(plugins=SHIPPED)


def choice(schema: dict[str, Any], path: tuple[str | int, ...]) -> dict[str, Any]:
    """Return the definition that a section's path leads to."""
    node = schema
    for step in path:
        node = node["properties"][step]
        node = next(n for n in [node, node.get("items", {}), *node.get("anyOf", [])] if "$ref" in n)
        node = schema["$defs"][node["$ref"].rsplit("/", 1)[-1]]
    return node


def test_it_is_json_and_every_reference_resolves(schema: dict[str, Any]) -> None:
    text = json.dumps(schema)
    assert json.loads(text) == json.loads(json.dumps(recipe_schema(plugins=SHIPPED)))
    for reference in text.split('"$ref": "#/$defs/')[1:]:
        assert reference.split('"')[0] in schema["$defs"]


@pytest.mark.parametrize(("path", "kind"), CHOICES)
def test_each_section_offers_its_drop_ins_and_their_options(
    schema: dict[str, Any], path: tuple[str | int, ...], kind: str
) -> None:
    section = choice(schema, path)
    assert section["properties"]["name"]["enum"] == SHIPPED.names(kind)
    branches = {b["if"]["properties"]["name"]["const"]: b["then"] for b in section["allOf"]}
    assert set(branches) == set(SHIPPED.names(kind))
    for name, branch in branches.items():
        assert set(SHIPPED.describe(kind, name).options) <= set(branch["properties"])
        assert set(section["properties"]) <= set(branch["properties"])
        assert branch["additionalProperties"] is False


def test_an_option_carries_its_type_default_and_help(schema: dict[str, Any]) -> None:
    (branch,) = (
        b["then"]
        for b in choice(schema, ("method",))["allOf"]
        if b["if"]["properties"]["name"]["const"] == "text_slider"
    )
    trajectories = branch["properties"]["trajectories"]
    assert trajectories["enum"] == ["rolling", "bank", "restart"]
    assert trajectories["default"] == "rolling"
    assert "pool of latents" in trajectories["description"]
    assert branch["properties"]["scales"]["items"]["not"] == {"const": 0}


@pytest.fixture(scope="module")
def validator(schema: dict[str, Any]) -> Draft202012Validator:
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


def read_shipped(name: str) -> dict[str, Any]:
    found = shipped.find(name)
    assert found is not None
    recipe: dict[str, Any] = YAML(typ="safe", pure=True).load(found.read_text("utf-8"))
    return recipe


@pytest.mark.parametrize("name", shipped.names())
def test_an_independent_validator_accepts_every_shipped_recipe(
    validator: Draft202012Validator, name: str
) -> None:
    assert [error.message for error in validator.iter_errors(read_shipped(name))] == []


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [("optimizer", "weight_decy", 0.1), ("train", "steps", "many"), ("optimizer", "name", "adam")],
)
def test_an_independent_validator_finds_what_the_loader_finds(
    validator: Draft202012Validator, section: str, key: str, value: object
) -> None:
    recipe = read_shipped("slider")
    recipe.setdefault(section, {})[key] = value
    (error, *_) = validator.iter_errors(recipe)
    assert section in list(error.absolute_path)
