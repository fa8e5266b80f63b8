"""The contract of every kind, over every drop-in there is, and over files that break it."""

from __future__ import annotations

from pathlib import Path

import pytest

from loba_tui.client.plugins.scaffold import create
from loba_tui.core.errors import RecipeError, ResourceError
from loba_tui.core.plugins import KINDS, SHIPPED, Plugins
from loba_tui.core.plugins.user import UserPlugins
from loba_tui.core.program.contract import check_contract

# Options without which a drop-in cannot be made.
NEEDED = {"custom": {"factors": {"*": 1.0}}}
ALL_SHIPPED = [
    (kind, name)
    for kind in KINDS
    if kind != "methods"  # whole runs of these are tested in test_main.py
    for name in SHIPPED.names(kind)
]


@pytest.mark.parametrize(("kind", "name"), ALL_SHIPPED)
def test_a_shipped_drop_in_keeps_its_contract(kind: str, name: str) -> None:
    plugin = SHIPPED.describe(kind, name)
    options = NEEDED.get(name, {})
    if any(option.required and option.name not in options for option in plugin.options.values()):
        pytest.skip("its options depend on the run")
    try:
        check_contract(kind, plugin.path, **options)
    except ResourceError as error:
        pytest.skip(str(error))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lora_finetune", "addift"])
def test_a_method_on_images_keeps_its_contract(name: str) -> None:
    check_contract("methods", SHIPPED.describe("methods", name).path)


@pytest.mark.parametrize("kind", KINDS)
def test_what_plugins_new_writes_keeps_its_contract(kind: str, tmp_path: Path) -> None:
    plugins = Plugins(
        UserPlugins(tmp_path / "loba" / "plugins", tmp_path / "loba" / "trusted.json")
    )
    path, test = create(kind, "mine", plugins)
    check_contract(kind, path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert plugins.names(kind).count("mine") == 1
    assert test.stem not in plugins.names(kind)
    plugin = plugins.describe(kind, "mine")
    assert all(option.type is not None and option.help for option in plugin.options.values())


@pytest.mark.parametrize(
    ("kind", "text", "message"),
    [
        ("model", "def get_scheduler(o, n): return lambda step: -1.0", "factors"),
        (
            "model",
            "seen = []\n"
            "def get_scheduler(o, n): return lambda step: seen.append(0) or len(seen) / 1000",
            "more than the step",
        ),
        ("timestep", "def get_timestep_scheduler(): return lambda t, p: t - 1", "negative"),
        ("timestep", "def get_timestep_scheduler(): return lambda t, p: t[:3]", "shape"),
        ("losses", "def get_loss(): return lambda a, b: (a - b).abs().mean()", "elementwise"),
        ("measures", "def get_measure(): return lambda image: image", "it says"),
        ("measures", "def get_measure(): return lambda image: image.fill(0)", "changes the image"),
        (
            "optimizers",
            "import torch\ndef get_optimizer(p, lr): return torch.optim.SGD(p, lr=0.0)",
            "gets nowhere",
        ),
    ],
)
def test_a_broken_contract_is_told(kind: str, text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(f'"""Mine."""\n{text}\n')
    path.chmod(0o600)
    with pytest.raises(AssertionError, match=message):
        check_contract(kind, path)


def test_the_wrong_result_and_a_wrong_option_are_told(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text('"""Mine."""\ndef get_loss(*, a: int = 1): return 1\n')
    path.chmod(0o600)
    with pytest.raises(RecipeError, match="has to return a function of prediction and target"):
        check_contract("losses", path)
    with pytest.raises(AssertionError, match="whole number"):
        check_contract("losses", path, a="x")
