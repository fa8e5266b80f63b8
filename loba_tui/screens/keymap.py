"""The user's own keys: `~/.config/loba/keymap.yaml` names bindings by id and gives them keys.

runs.delete: D
app.palette: [ctrl+p, colon]
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from textual.binding import Binding
from textual.dom import DOMNode
from textual.keys import KEY_NAME_REPLACEMENTS, Keys, _character_to_key

from loba_tui.core.errors import ResourceError
from loba_tui.core.recipe.problems import Place, Problem, ProblemsFound
from loba_tui.core.text import clean, nearest
from loba_tui.screens.registry import SCREENS

FILE = "keymap.yaml"
_MAX_BYTES = 256 * 1024
_MODIFIERS = ("ctrl", "shift", "alt", "super", "meta", "hyper")


def load(path: Path, app: type[DOMNode]) -> dict[str, str]:
    """Return keys by binding id, empty where there is no file.

    Raises:
        ResourceError: The file cannot be read.
        ProblemsFound: It has mistakes; each with file, line and the nearest id.
    """
    try:
        with path.open("rb") as stream:
            content = stream.read(_MAX_BYTES)
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise ResourceError(f"{path} cannot be read: {error.strerror}.") from error
    known = bindings([app, *_classes()])
    return parse(content.decode("utf-8", "replace"), str(path), known)


def _classes() -> list[type[DOMNode]]:
    """Return every class that has keys: what the screens' modules define or use."""
    found: list[type[DOMNode]] = []
    for entry in SCREENS:
        screen = entry.load()
        found.append(screen)
        module = __import__(screen.__module__, fromlist=["*"])
        found += [
            value
            for value in vars(module).values()
            if isinstance(value, type) and issubclass(value, DOMNode)
        ]
    return found


def bindings(classes: Iterable[type[DOMNode]]) -> dict[str, Binding]:
    """Return the bindings of these classes and their bases by id."""
    found: dict[str, Binding] = {}
    for each in classes:
        for base in each.__mro__:
            for binding in vars(base).get("BINDINGS", ()):
                if isinstance(binding, Binding) and binding.id:
                    found.setdefault(binding.id, binding)
    return found


def parse(text: str, origin: str, known: dict[str, Binding]) -> dict[str, str]:
    """Read a keymap's text; see `load`."""
    from loba_tui.core.recipe.yaml_tree import read_tree

    tree, problems = read_tree(text, origin)
    found: dict[str, str] = {}
    places: dict[str, Place] = {}
    if tree.data is not None and not isinstance(tree.data, dict):
        problems.append(Problem(*tree.place, "", "expected lines such as `runs.delete: D`"))
    for name, node in tree.data.items() if isinstance(tree.data, dict) else ():
        if name not in known:
            message = "there is no binding of this id"
            problems.append(
                Problem(*tree.keys[name], name, message, nearest(name, known, cutoff=0.4))
            )
            continue
        places[name] = node.place
        given = node.plain()
        keys = given if isinstance(given, list) else [given]
        for key in keys:
            wrong = _wrong_key(key)
            if wrong:
                problems.append(Problem(*places[name], name, wrong))
        found[name] = ",".join(_spelled(str(key)) for key in keys)
    problems += _clashes(found, places, known)
    if problems:
        raise ProblemsFound(problems, "`?` in the dashboard shows the ids of a screen's bindings.")
    return found


def _clashes(
    found: Mapping[str, str], places: Mapping[str, Place], known: Mapping[str, Binding]
) -> list[Problem]:
    """Return where a key would do two things at one place: ids that begin with the same word."""
    keys = {name: _keys(found.get(name, binding.key)) for name, binding in known.items()}
    return [
        Problem(*places[name], name, f"{clean(key)} is {other} too")
        for name in found
        for other in known
        if other != name and other.partition(".")[0] == name.partition(".")[0]
        for key in sorted(keys[name] & keys[other])
    ]


def _keys(text: str) -> frozenset[str]:
    keys = (key.strip() for key in text.split(","))
    return frozenset(_character_to_key(key) if len(key) == 1 else key for key in keys)


def _spelled(key: str) -> str:
    # A comma separates keys and a space ends nothing in Textual's own spelling.
    return {",": "comma", " ": "space"}.get(key, key)


def _wrong_key(key: object) -> str:
    if isinstance(key, int) and not isinstance(key, bool) and 0 <= key <= 9:
        return ""
    if not isinstance(key, str) or not key:
        return f"expected a key such as D or ctrl+p, found {clean(key, limit=40)}"
    *modifiers, name = key.split("+") if len(key) > 1 else [key]
    unknown = [word for word in modifiers if word not in _MODIFIERS]
    if unknown:
        meant = nearest(unknown[0], _MODIFIERS)
        return f"{clean(unknown[0])} is no modifier" + (f"; did you mean {meant}?" if meant else "")
    if len(name) == 1 and name.isprintable():
        return ""
    names = _key_names()
    if name in names:
        return ""
    meant = nearest(name, names)
    return f"{clean(name)} is no key" + (f"; did you mean {meant}?" if meant else "")


def _key_names() -> set[str]:
    import unicodedata

    ascii_names = {
        unicodedata.name(chr(code)).lower().replace("-", "_").replace(" ", "_")
        for code in range(33, 127)
    }
    return {key.value for key in Keys} | set(KEY_NAME_REPLACEMENTS.values()) | ascii_names
