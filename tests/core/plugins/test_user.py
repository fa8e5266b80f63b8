"""Which plugins are read, trusted and run, and what is said of those that are not."""

from __future__ import annotations

import json
import os
import sys
import threading
from pathlib import Path

import pytest

from loba_tui.core.errors import RecipeError, RefusedError, ResourceError
from loba_tui.core.plugins import SHIPPED, Plugins
from loba_tui.core.plugins.loading import as_plugin_error
from loba_tui.core.plugins.user import MAX_BYTES, UserPlugins

GOOD = "def get_loss(*, a: int = 1):\n    return a\n"


@pytest.fixture
def mine(tmp_path: Path) -> Plugins:
    plugins = Plugins.of_user({"XDG_CONFIG_HOME": str(tmp_path)})
    assert plugins.user.folder is not None
    (plugins.user.folder / "losses").mkdir(parents=True, mode=0o700)
    for folder in (plugins.user.folder, plugins.user.folder.parent):
        folder.chmod(0o700)
    return plugins


def put(mine: Plugins, text: str, name: str = "mine") -> Path:
    assert mine.user.folder is not None
    path = mine.user.folder / "losses" / f"{name}.py"
    path.write_text(text)
    path.chmod(0o600)
    return path


def put_trusted(mine: Plugins, text: str, name: str = "mine") -> Path:
    path = put(mine, text, name)
    mine.user.trust(mine.user.read("losses", name))
    return path


def test_the_folder_follows_the_xdg_specification(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    for environ in ({}, {"XDG_CONFIG_HOME": ""}, {"XDG_CONFIG_HOME": "relative"}):
        plugins = Plugins.of_user(environ)
        assert plugins.user.folder == Path("/home/somebody/.config/loba/plugins")
        assert plugins.user.trusted == Path("/home/somebody/.config/loba/trusted.json")
    assert Plugins.of_user({"XDG_CONFIG_HOME": "/c"}).user.folder == Path("/c/loba/plugins")


def test_without_a_folder_there_are_only_the_shipped(tmp_path: Path) -> None:
    assert Plugins(UserPlugins(tmp_path / "none")).names("losses") == SHIPPED.names("losses")


def test_a_plugin_runs_only_once_it_is_trusted_as_it_is(mine: Plugins) -> None:
    path = put(mine, GOOD)
    with pytest.raises(RefusedError, match=r"not trusted yet.*loba plugins trust losses/mine"):
        mine.load("losses", "mine")
    (problem,) = mine.check_options("losses", "mine", {})
    assert problem.refused
    assert "loba plugins trust losses/mine" in problem.message

    mine.user.trust(mine.user.read("losses", "mine"))
    assert mine.load("losses", "mine")(a=2) == 2
    assert mine.check_options("losses", "mine", {}) == []

    path.write_text(GOOD + "#")
    with pytest.raises(RefusedError, match="changed since you trusted it"):
        mine.load("losses", "mine")
    path.write_text(GOOD)
    mine.load("losses", "mine")

    assert mine.user.untrust("losses/mine")
    assert not mine.user.untrust("losses/mine")
    with pytest.raises(RefusedError, match="not trusted yet"):
        mine.load("losses", "mine")


def test_what_is_trusted_is_what_was_read_and_not_what_lies_there_now(mine: Plugins) -> None:
    path = put(mine, GOOD)
    shown = mine.user.read("losses", "mine")
    path.write_text("import os\n" + GOOD)
    mine.user.trust(shown)
    with pytest.raises(RefusedError, match="changed since"):
        mine.load("losses", "mine")


def test_what_runs_are_the_bytes_that_were_hashed(
    mine: Plugins, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = put_trusted(mine, GOOD)
    require = UserPlugins.require_trust

    def swap_after_the_check(self: UserPlugins, file: object) -> None:
        require(self, file)  # type: ignore[arg-type]
        path.write_text("raise SystemExit('swapped')")

    monkeypatch.setattr(UserPlugins, "require_trust", swap_after_the_check)
    assert mine.load("losses", "mine")(a=4) == 4


@pytest.mark.parametrize("which", ["file", "losses", "plugins", "loba"])
def test_what_others_can_change_is_refused(mine: Plugins, which: str) -> None:
    path = put_trusted(mine, GOOD)
    place = {"file": path, "losses": path.parent}.get(which)
    place = place or next(folder for folder in path.parents if folder.name == which)
    for mode in (0o020, 0o002):
        place.chmod(0o700 | mode)
        with pytest.raises(RefusedError, match=f"first: chmod go-w .*{place.name}"):
            mine.load("losses", "mine")
        with pytest.raises(RefusedError, match="chmod"):
            mine.user.trust(mine.user.read("losses", "mine"))
    place.chmod(0o700)
    mine.load("losses", "mine")


def test_a_file_of_another_user_is_refused(mine: Plugins, monkeypatch: pytest.MonkeyPatch) -> None:
    put(mine, GOOD)
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with pytest.raises(RefusedError, match="belongs to another user"):
        mine.load("losses", "mine")


def test_a_link_is_judged_by_the_file_that_it_leads_to(mine: Plugins, tmp_path: Path) -> None:
    elsewhere = tmp_path / "dotfiles.py"
    elsewhere.write_text(GOOD)
    elsewhere.chmod(0o666)
    assert mine.user.folder is not None
    (mine.user.folder / "losses" / "mine.py").symlink_to(elsewhere)
    assert mine.user.read("losses", "mine").unsafe
    elsewhere.chmod(0o600)
    mine.user.trust(mine.user.read("losses", "mine"))
    assert mine.load("losses", "mine")(a=5) == 5


def test_odd_files_are_refused_and_not_waited_for(mine: Plugins) -> None:
    assert mine.user.folder is not None
    os.mkfifo(mine.user.folder / "losses" / "pipe.py")
    (mine.user.folder / "losses" / "folder.py").mkdir()
    put(mine, "#" * (MAX_BYTES + 1), "huge")
    put(mine, GOOD, "secret").chmod(0o000)
    (mine.user.folder / "losses" / "lost.py").symlink_to("nowhere")
    for name in ("pipe", "huge", "folder", "lost", "secret"):
        if name == "secret" and os.geteuid() == 0:
            continue
        (problem,) = mine.check_options("losses", name, {})
        assert f"{name}.py" in problem.message
        with pytest.raises((RefusedError, ResourceError), match=rf"{name}\.py"):
            mine.load("losses", name)


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{", '{"version": 2, "plugins": {}}', '{"version": 1, "plugins": {"a/b": 1}}', "\0"],
)
def test_a_damaged_list_of_trust_trusts_nothing(mine: Plugins, content: str) -> None:
    put_trusted(mine, GOOD)
    assert mine.user.trusted is not None
    mine.user.trusted.write_text(content)
    with pytest.raises(RefusedError, match=r"trusted\.json"):
        mine.load("losses", "mine")
    (problem,) = mine.check_options("losses", "mine", {})
    assert problem.refused


def test_a_list_of_trust_that_others_can_write_trusts_nothing(mine: Plugins) -> None:
    put_trusted(mine, GOOD)
    assert mine.user.trusted is not None
    assert mine.user.trusted.stat().st_mode & 0o777 == 0o600
    mine.user.trusted.chmod(0o622)
    with pytest.raises(RefusedError, match="chmod go-w"):
        mine.load("losses", "mine")


def test_two_commands_at_once_lose_nothing(mine: Plugins) -> None:
    for number in range(8):
        put(mine, GOOD, f"mine{number}")
    threads = [
        threading.Thread(target=lambda n=n: mine.user.trust(mine.user.read("losses", f"mine{n}")))
        for n in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert mine.user.trusted_keys() == [f"losses/mine{n}" for n in range(8)]
    assert mine.user.trusted is not None
    assert json.loads(mine.user.trusted.read_text())["version"] == 1
    assert sorted(path.name for path in mine.user.trusted.parent.iterdir()) == [
        "plugins",
        "trusted.json",
    ]


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("x = 1\ndef get_loss(:\n", 2, "not Python"),
        ("x = 1\ny = x / 0\n" + GOOD, 2, "ZeroDivisionError"),
        ("import sys\nsys.exit()\n" + GOOD, 2, "ends the program"),
        ("\n\nimport no_such_pkg.part\n" + GOOD, 3, "needs the package no_such_pkg"),
        ("import json.no_such_part\n" + GOOD, 1, "the installed json has no module"),
        ("import helper\n" + GOOD, 1, "one file"),
        ("def help():\n    raise KeyError('k')\ndef get_loss():\n    help()\n", 2, "KeyError"),
        ("\ndef get_loss(needed):\n    pass\n", 2, "TypeError"),
        ("def get_loss():\n    import no_such_pkg\n", 2, "pip install no_such_pkg"),
        ("def get_loss():\n    return int('\x1b]0;x\x07')\n", 2, "ValueError"),
    ],
)
def test_an_error_names_the_plugins_file_and_line(
    mine: Plugins, text: str, line: int, message: str
) -> None:
    put(mine, "", "helper")
    path = put_trusted(mine, text)
    with pytest.raises(RecipeError) as raised:
        mine.load("losses", "mine")()
    assert f"{path}:{line}: " in str(raised.value)
    assert message in str(raised.value)
    assert "\x1b" not in str(raised.value)
    assert "loba_plugins.losses.mine" not in sys.modules or text.count("def get_loss")


def test_a_missing_factory_names_the_file(mine: Plugins) -> None:
    path = put_trusted(mine, "get_loss = 3\n")
    with pytest.raises(RecipeError, match=rf"{path}.*must define get_loss\(\)"):
        mine.load("losses", "mine")


def test_our_own_errors_pass_through_a_plugin_as_they_are(mine: Plugins) -> None:
    text = "from loba_tui.core.errors import ResourceError\n"
    put_trusted(mine, text + "def get_loss():\n    raise ResourceError('no disk')\n")
    with pytest.raises(ResourceError, match="no disk"):
        mine.load("losses", "mine")()


def test_what_a_factory_returned_is_blamed_on_the_plugin_too(mine: Plugins) -> None:
    path = put_trusted(mine, "def get_loss():\n    return lambda: 1 / 0\n")
    with pytest.raises(ZeroDivisionError) as raised:
        mine.load("losses", "mine")()()
    found = as_plugin_error(raised.value, mine.user.folder)
    assert found is not None
    assert f"{path}:2: ZeroDivisionError" in found.message
    with pytest.raises(ZeroDivisionError) as ours:
        _ = 1 / 0
    assert as_plugin_error(ours.value, mine.user.folder) is None
