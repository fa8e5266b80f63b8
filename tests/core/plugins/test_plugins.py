from __future__ import annotations

import ast
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from loba_tui.core.errors import RecipeError
from loba_tui.core.option_types import AnnotationError, describe_type, evaluate
from loba_tui.core.plugins import KINDS, SHIPPED, Plugins
from loba_tui.core.plugins.user import UserPlugins

ALL_SHIPPED = [(kind, name) for kind in KINDS for name in SHIPPED.names(kind)]

DROP_IN = '''
"""A drop-in for tests."""

import no_such_module_anywhere
from typing import Literal

Way = Literal["up", "down"]
REQUIRES = ("target",)
DEFAULT_RATE = 0.5


def get_loss(*, delta: PositiveFloat, way: Way = "up", rate: UnitFloat = DEFAULT_RATE,
             scales: tuple[NonZeroFloat, ...] = (1.0,), sizes: tuple[int, int] | None = None,
             table: dict[str, int] = {}, note: str = "", flag: bool = False, strange: Thing = 1):
    """Return nothing.

    Args:
        delta: Where the line
            bends.
    """
'''


def put(plugins: Plugins, key: str, text: str) -> Path:
    """Write a plugin as its owner would, without trusting it."""
    assert plugins.user.folder is not None
    path = plugins.user.folder / f"{key}.py"
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    path.write_text(text)
    path.chmod(0o600)
    return path


def put_trusted(plugins: Plugins, key: str, text: str) -> Path:
    path = put(plugins, key, text)
    plugins.user.trust(plugins.user.read(*key.split("/")))
    return path


@pytest.fixture
def mine(tmp_path: Path) -> Plugins:
    folder = tmp_path / "loba" / "plugins"
    folder.mkdir(parents=True, mode=0o700)
    folder.parent.chmod(0o700)
    return Plugins(UserPlugins(folder, folder.parent / "trusted.json"))


@pytest.fixture
def bent(mine: Plugins) -> Plugins:
    put_trusted(mine, "losses/bent", DROP_IN)
    return mine


def problems(bent: Plugins, **given: Any) -> list[tuple[tuple[str | int, ...], str, str | None]]:
    found = bent.check_options("losses", "bent", {"delta": 1, **given})
    return [(problem.key_path, problem.message, problem.suggestion) for problem in found]


def test_a_drop_in_is_described_without_being_imported(bent: Plugins) -> None:
    plugin = bent.describe("losses", "bent")
    assert plugin.doc == "A drop-in for tests."
    assert plugin.constants["REQUIRES"] == ("target",)
    assert plugin.options["delta"].required
    assert plugin.options["delta"].help == "Where the line bends."
    assert plugin.options["rate"].default == 0.5
    assert plugin.options["way"].expected == "one of up, down"


def test_names_list_the_users_own_and_never_replace_a_shipped_drop_in(bent: Plugins) -> None:
    for name in ("mse", "_private", "not-a-name", "test_bent", "conftest"):
        put(bent, f"losses/{name}", "raise SystemExit")
    assert set(bent.names("losses")) - set(SHIPPED.names("losses")) == {"bent"}
    assert bent.describe("losses", "mse") == SHIPPED.describe("losses", "mse")
    assert bent.load("losses", "mse") is SHIPPED.load("losses", "mse")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, []),
        ({"delta": 2, "sizes": [1, 2], "table": {"a": 1}, "flag": True}, []),
        ({"delta": "2e-4"}, [(("delta",), "expected a number greater than 0, got '2e-4'", "2e-4")]),
        ({"delta": True}, [(("delta",), "expected a number greater than 0, got true", None)]),
        ({"delta": 0}, [(("delta",), "expected a number greater than 0, got 0", None)]),
        (
            {"delta": float("nan")},
            [(("delta",), "expected a number greater than 0, got nan", None)],
        ),
        ({"detla": 1}, [(("detla",), "not an option of bent", "delta")]),
        ({"way": "upp"}, [(("way",), "expected one of up, down, got 'upp'", "up")]),
        ({"rate": 1.5}, [(("rate",), "expected a number from 0 to 1, got 1.5", None)]),
        (
            {"scales": [1, 0, "x"]},
            [
                (("scales", 1), "expected a number other than 0, got 0", None),
                (("scales", 2), "expected a number other than 0, got 'x'", None),
            ],
        ),
        (
            {"scales": []},
            [
                (
                    ("scales",),
                    "expected a list, each item a number other than 0, got an empty list",
                    None,
                )
            ],
        ),
        (
            {"sizes": [1, True]},
            [(("sizes", 1), "expected a whole number, got true", None)],
        ),
        ({"flag": 1}, [(("flag",), "expected true or false, got 1", None)]),
        ({"note": 1}, [(("note",), "expected text, got 1", None)]),
        ({"table": {"a": 1.5}}, [(("table", "a"), "expected a whole number, got 1.5", None)]),
        ({"strange": 2}, [(("strange",), "cannot be set from a recipe: its type is Thing", None)]),
    ],
)
def test_options_are_checked_against_the_signature(
    bent: Plugins, given: dict[str, Any], expected: list[Any]
) -> None:
    assert problems(bent, **given) == expected


def test_a_missing_required_option_is_a_problem(bent: Plugins) -> None:
    found = bent.check_options("losses", "bent", {})
    assert [(p.key_path, p.message) for p in found] == [
        (("delta",), "bent needs this option: a number greater than 0")
    ]


def test_an_unknown_drop_in_names_the_nearest() -> None:
    (problem,) = SHIPPED.check_options("optimizers", "adamww", {"anything": 1})
    assert (problem.key_path, problem.suggestion) == (("name",), "adamw")


@pytest.mark.parametrize("name", ["../losses/mse", "os", "mse.py", "", "losses.mse", "/etc/passwd"])
def test_a_name_never_leads_out_of_the_folder(name: str) -> None:
    with pytest.raises(RecipeError, match="there is no loss called"):
        SHIPPED.load("losses", name)


@pytest.mark.parametrize("text", ["def get_loss(:", "x = 1", "\0", "async def get_loss(): ..."])
def test_a_file_that_is_no_drop_in_is_a_problem_and_not_an_exception(
    mine: Plugins, text: str
) -> None:
    put_trusted(mine, "losses/broken", text)
    (problem,) = mine.check_options("losses", "broken", {})
    assert "broken.py" in problem.message


def test_a_plugin_loads_and_a_second_load_is_the_same_module(mine: Plugins) -> None:
    put_trusted(
        mine, "losses/plain", "state = []\ndef get_loss(*, a: int = 1):\n    return a, state"
    )
    first, state = mine.load("losses", "plain")(a=3)
    assert first == 3
    assert mine.load("losses", "plain")()[1] is state


def test_a_plugin_may_use_dataclasses_under_postponed_annotations(mine: Plugins) -> None:
    text = """
        from __future__ import annotations
        from dataclasses import dataclass
        from typing import ClassVar

        @dataclass
        class Loss:
            delta: float
            unit: ClassVar[str] = "px"

        def get_loss(*, delta: float = 1.0) -> Loss:
            return Loss(delta)
    """
    put_trusted(mine, "losses/classy", textwrap.dedent(text))
    assert mine.load("losses", "classy")(delta=2.0).delta == 2.0


@pytest.mark.parametrize(
    ("kind", "signature", "num_supplied", "options", "any_option"),
    [
        ("optimizers", "get_optimizer(params, lr, **cfg)", 2, [], True),
        ("optimizers", "get_optimizer(params, lr, decay=0.1)", 2, ["decay"], False),
        ("model", "get_scheduler(optimizer, **cfg)", 1, [], True),
        ("model", "get_scheduler(optimizer, num_steps, **cfg)", 2, [], True),
        ("model", "get_scheduler(optimizer, num_steps=9, *, a=1)", 2, ["a"], False),
        ("model", "get_scheduler(optimizer, T_max=9)", 1, ["T_max"], False),
        ("model", "get_scheduler(*given, a=1)", 2, ["a"], False),
        ("losses", "get_loss(delta)", 0, ["delta"], False),
    ],
)
def test_a_factory_in_any_style_is_described(
    mine: Plugins,
    kind: str,
    signature: str,
    num_supplied: int,
    options: list[str],
    any_option: bool,
) -> None:
    put_trusted(mine, f"{kind}/styled", f"def {signature}: ...")
    plugin = mine.describe(kind, "styled")
    assert (plugin.num_supplied, list(plugin.options)) == (num_supplied, options)
    assert plugin.takes_any_option is any_option
    found = mine.check_options(kind, "styled", {**dict.fromkeys(options, 1), "other": [1]})
    assert [problem.key_path for problem in found] == ([] if any_option else [("other",)])


@pytest.mark.parametrize(
    "annotation",
    ["__import__('os')", "os.PathLike", "Literal[print()]", "list[Thing]", "int if 1 else 2"],
)
def test_annotations_outside_the_whitelist_are_not_evaluated(annotation: str) -> None:
    with pytest.raises((AnnotationError, ValueError)):
        evaluate(ast.parse(annotation, mode="eval").body)


def test_an_alias_that_names_itself_is_refused() -> None:
    loop = ast.parse("A", mode="eval").body
    with pytest.raises(AnnotationError):
        evaluate(loop, {"A": loop})


@pytest.mark.parametrize(
    ("annotation", "words"),
    [
        ("PositiveInt | None", "a whole number greater than 0 or null"),
        ("Sequence[Literal['a', 'b']]", "a list, each item one of a, b"),
        ("NonNegativeFloat", "a number of at least 0"),
        ("tuple[float, float]", "a list of 2 (a number, a number)"),
        ("dict[str, int]", "a section of keys"),
    ],
)
def test_types_are_said_in_plain_words(annotation: str, words: str) -> None:
    assert describe_type(evaluate(ast.parse(annotation, mode="eval").body)) == words


@pytest.mark.parametrize(("kind", "name"), ALL_SHIPPED)
def test_every_shipped_drop_in_can_be_set_from_a_recipe(kind: str, name: str) -> None:
    plugin = SHIPPED.describe(kind, name)
    assert plugin.doc
    for option in plugin.options.values():
        assert option.type is not None, f"{name}.{option.name}: {option.annotation}"
        if not option.required:
            found = SHIPPED.check_options(kind, name, {option.name: option.default})
            assert not [problem for problem in found if option.name in problem.key_path]


@pytest.mark.parametrize(
    ("code", "heavy"),
    [
        pytest.param(
            "[SHIPPED.describe(k, n) for k in KINDS for n in SHIPPED.names(k)]",
            {"torch", "diffusers", "peft", "numpy"},
            id="listing and describing",
        ),
        pytest.param(
            "[SHIPPED.load(k, n) for k in ('model', 'layer') for n in SHIPPED.names(k)]",
            {"torch", "diffusers", "peft"},
            id="schedules over steps and layers",
        ),
    ],
)
def test_what_is_done_with_drop_ins_alone_loads_no_torch(code: str, heavy: set[str]) -> None:
    imports = "import sys; from loba_tui.core.plugins import KINDS, SHIPPED"
    check = f"assert not {heavy!r} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", f"{imports}\n{code}\n{check}"], check=True)


PROMISED = {
    "layer": """
        attention_only block_wise_decay conv_only cross_attention_only custom self_attention_only
        style_blocks uniform
    """,
    "model": """
        constant cosine cosine_restarts exponential inverse_sqrt linear
        linear_warmup one_cycle polynomial rex step warmup_stable_decay
    """,
    "timestep": """
        beta cosmap curriculum exponential linear logit_normal
        mode sigmoid snr_weighted uniform window
    """,
}


@pytest.mark.parametrize("kind", PROMISED)
def test_there_are_all_schedules_that_are_promised(kind: str) -> None:
    assert set(SHIPPED.names(kind)) == set(PROMISED[kind].split())
