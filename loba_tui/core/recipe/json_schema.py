"""The recipe's JSON Schema, with the options of every drop-in, for editors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import TypeAdapter

from loba_tui.core.plugins import Option, Plugin, Plugins
from loba_tui.core.recipe.checks.choices import CHOICES, default_name, described
from loba_tui.core.recipe.schema import Recipe


def recipe_schema(plugins: Plugins) -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of a version 1 recipe, the user's plugins included.

    A section that chooses a drop-in offers its names, and the options of the one that is chosen.
    """
    schema = Recipe.model_json_schema()
    definitions = schema["$defs"]
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    for path, kind in CHOICES:
        owner = schema
        for step in path[:-1]:
            owner = definitions[_reference(owner["properties"][step])]
        key = str(path[-1])
        # Each section gets a definition of its own: the shared Choice knows no drop-ins.
        name = "".join(part.capitalize() for part in (*map(str, path), "choice"))
        found = (described(kind, each, plugins) for each in plugins.names(kind))
        offered = [plugin for plugin in found if plugin is not None]
        original = owner["properties"][key]
        definitions[name] = _choice(definitions, original, offered, default_name(path))
        owner["properties"][key] = _pointing_to(original, name)
    return schema


def _choice(
    definitions: dict[str, Any],
    original: dict[str, Any],
    offered: Sequence[Plugin],
    default: str | None,
) -> dict[str, Any]:
    base = definitions[_reference(original)]
    properties = {
        **base["properties"],
        "name": {
            "enum": [plugin.name for plugin in offered],
            **({"default": default} if default else {}),
        },
    }
    branches = []
    for plugin in offered:
        options = {key: _option(option) for key, option in plugin.options.items()}
        required = [option.name for option in plugin.options.values() if option.required]
        # A section that does not name its drop-in has the default one.
        named = {} if plugin.name == default else {"required": ["name"]}
        branches.append(
            {
                "if": {"properties": {"name": {"const": plugin.name}}, **named},
                "then": {
                    "description": plugin.doc.split("\n\n")[0],
                    # The section's own keys are allowed here, and checked outside.
                    "properties": {**options, **dict.fromkeys(properties, True)},
                    "required": required,
                    "additionalProperties": plugin.takes_any_option,
                },
            }
        )
    required = [key for key in base.get("required", ()) if not (default and key == "name")]
    return {
        "description": base.get("description", ""),
        "type": "object",
        "properties": properties,
        "required": required,
        "allOf": branches,
    }


def _option(option: Option) -> dict[str, Any]:
    if option.type is None:
        return {"not": {}}
    schema = TypeAdapter(option.type).json_schema()
    if option.help:
        schema["description"] = option.help
    if not option.required:
        schema["default"] = option.default
    return schema


def _reference(node: dict[str, Any]) -> str:
    """Return the name of the one definition that a property points to."""
    for part in [node, node.get("items", {}), *node.get("anyOf", ())]:
        if "$ref" in part:
            return str(part["$ref"]).rsplit("/", 1)[-1]
    raise AssertionError(f"no reference in {node}")


def _pointing_to(node: dict[str, Any], name: str) -> dict[str, Any]:
    reference = {"$ref": f"#/$defs/{name}"}
    if "$ref" in node:
        return {**node, **reference}
    if "items" in node:
        return {**node, "items": reference}
    return {**node, "anyOf": [reference if "$ref" in part else part for part in node["anyOf"]]}
