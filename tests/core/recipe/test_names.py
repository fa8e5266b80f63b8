"""Names in a recipe that could lead elsewhere are refused, and named with their place."""

from __future__ import annotations

import json

import pytest

from loba_tui.core.names import is_repository
from loba_tui.core.plugins import SHIPPED
from loba_tui.core.recipe.load import parse_text
from loba_tui.core.recipe.problems import ProblemsFound

RECIPE = """\
version: 1
base_model: {model}
method:
  name: text_slider
  concepts: [{{target: a, positive: b, negative: c}}]
"""
IMAGES = """\
version: 1
base_model: {{id: builtin:shapes-xl}}
method: {{name: lora_finetune}}
data: {{sources: [{source}]}}
sample: {{prompts: [a cat]}}
"""


def problems(text: str) -> ProblemsFound:
    with pytest.raises(ProblemsFound) as caught:
        parse_text(text, "r.yaml", plugins=SHIPPED)
    return caught.value


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("revision", "../../../x"),
        ("revision", "refs/../../x"),
        ("revision", "-x"),
        ("revision", "a\nb"),
        ("revision", "mаin"),  # noqa: RUF001  a Cyrillic letter
        ("variant", "../x"),
        ("variant", "fp16\x1b[2J"),
        ("id", "me/model\necho owned"),
        ("id", "/models/a\x9bb"),
        ("id", "/models/a\u202eb"),
        ("id", "/models/a\u2028b"),
        ("id", "x" * 300),
        ("id", "a/" * 3000),
    ],
)
def test_a_name_that_leads_elsewhere_is_refused_with_its_place(key: str, value: str) -> None:
    model = json.dumps({"id": "me/model", key: value})
    found = problems(RECIPE.format(model=model))
    assert found.exit_code == 8
    assert [problem.key for problem in found.problems] == [f"base_model.{key}"]
    assert not {"\x1b", "\x9b", "\u202e", "\u2028"} & set(str(found))


@pytest.mark.parametrize("key", ["path", "masks"])
def test_a_folder_of_images_holds_no_control_character(key: str) -> None:
    source = json.dumps({"path": "photos", key: "my\nphotos"})
    found = problems(IMAGES.format(source=source))
    assert found.exit_code == 8
    assert [problem.key for problem in found.problems] == [f"data.sources.0.{key}"]


@pytest.mark.parametrize(
    "model",
    [
        {"id": "/models/my model é 中文"},
        {"id": "../models/tiny"},
        {"id": "me/model", "revision": "refs/pr/12", "variant": "fp16"},
        {"id": "me/model", "revision": "0123456789abcdef0123456789abcdef01234567"},
        {"id": "me/model", "revision": "v1.0+cu12_x-y"},
    ],
)
def test_own_folders_and_ordinary_names_stay_as_they_are(model: dict[str, str]) -> None:
    recipe = parse_text(RECIPE.format(model=json.dumps(model)), "r.yaml", plugins=SHIPPED)
    assert recipe.base_model.id == model["id"]
    assert recipe.base_model.revision == model.get("revision")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("gpt2", True),
        ("me/model-1.0", True),
        ("a/b/c", False),
        ("./model", False),
        ("../model", False),
        ("/model", False),
        ("~/model", False),
        ("mе/model", False),  # noqa: RUF001
        ("me/", False),
    ],
)
def test_what_has_the_form_of_a_repository(text: str, expected: bool) -> None:
    assert is_repository(text) is expected
