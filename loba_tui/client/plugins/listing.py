"""List drop-ins, show them, and find those that are to be trusted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loba_tui.core.errors import LobaError, RecipeError, RefusedError
from loba_tui.core.plugins import KINDS, SHIPPED, Plugin, Plugins, parse
from loba_tui.core.plugins.user import PluginFile
from loba_tui.core.text import clean, did_you_mean, quote
from loba_tui.core.user_folders import with_home

_SAID = {
    "shipped": "",
    "trusted": "yours: ",
    "untrusted": "yours, not trusted: ",
    "changed": "yours, changed since you trusted it: ",
    "unsafe": "yours, refused: ",
    "shadowed": "yours, not used: ",
    "broken": "yours, broken: ",
}


@dataclass(frozen=True)
class Entry:
    """A drop-in in a listing; one that is unusable is listed too, with what is wrong with it.

    Attributes:
        state: `shipped`, `trusted`, or why a file of the user's is not used.
        plugin: What it says of itself; None where that cannot be read.
        problem: What is wrong and what to do, empty if nothing is.
        sha256: Of a user's file as it was read.
    """

    kind: str
    name: str
    path: Path
    state: str
    plugin: Plugin | None
    problem: str = ""
    sha256: str | None = None

    @property
    def summary(self) -> str:
        """Return the first line of its documentation, or what is wrong with it."""
        return clean(self.plugin.doc.partition("\n")[0]) if self.plugin else self.problem

    @property
    def line(self) -> str:
        """Return the entry as one line."""
        return f"{self.kind:11}{self.name:22}{_SAID[self.state]}{self.summary}"

    def record(self) -> dict[str, Any]:
        """Return the entry as JSON holds it."""
        options = self.plugin.options.values() if self.plugin else ()
        return {
            "kind": self.kind,
            "name": self.name,
            "summary": self.summary,
            "path": str(self.path),
            "state": self.state,
            "problem": self.problem,
            "sha256": self.sha256,
            "takes_any_option": self.plugin.takes_any_option if self.plugin else False,
            "options": [
                {
                    "name": option.name,
                    "type": option.expected,
                    "required": option.required,
                    "default": None if option.required else option.default,
                }
                for option in options
            ],
        }

    def lines(self) -> list[str]:
        """Return the documentation and options for reading."""
        lines = [f"{self.kind}/{self.name}"]
        if self.state != "shipped":
            lines.append(f"{clean(self.path)} ({self.state})")
        if self.problem:
            lines.append(self.problem)
        if self.plugin:
            lines += ["", clean(self.plugin.doc, keep_newlines=True)]
            lines += ["", *option_lines(self.plugin)]
        return lines


def option_lines(plugin: Plugin) -> list[str]:
    """Return a drop-in's options for reading."""
    anything = "It takes further options of any name, which cannot be checked (**cfg)."
    lines = [f"  {anything}"] if plugin.takes_any_option else []
    for option in plugin.options.values():
        default = "required" if option.required else f"default {quote(option.default)}"
        lines.append(f"  {option.name:22}{option.expected}, {default}")
    return ["Options:", *lines] if lines else ["It has no options."]


def entries(plugins: Plugins, kind: str | None = None) -> Iterator[Entry]:
    """Return every drop-in, of one kind or of all, without importing any.

    Raises:
        RecipeError: There is no such kind.
    """
    for each in [check_kind(kind)] if kind else KINDS:
        shipped = SHIPPED.names(each)
        for name in shipped:
            plugin = SHIPPED.describe(each, name)
            yield Entry(each, name, plugin.path, "shipped", plugin)
        for name, path in plugins.user.files(each).items():
            yield _own(each, name, path, plugins, is_shadowed=name in shipped)


def check_kind(kind: str) -> str:
    """Return a kind of drop-in as it is.

    Raises:
        RecipeError: There is no such kind.
    """
    if kind not in KINDS:
        raise RecipeError(
            f"{clean(kind)} is not a kind of drop-in.",
            did_you_mean(kind, KINDS, f"Kinds: {', '.join(KINDS)}."),
        )
    return kind


def find(words: Sequence[str], plugins: Plugins) -> Entry:
    """Return the drop-in called NAME, KIND/NAME or KIND NAME.

    Raises:
        RecipeError: There is none of that name, or there are several.
    """
    kind, _, name = "/".join(words).rpartition("/")
    known = [entry for entry in entries(plugins, kind or None) if entry.state != "shadowed"]
    found = [entry for entry in known if entry.name == name]
    if found:
        return _only(found, name, "drop-ins")
    raise RecipeError(
        f"There is no drop-in called {clean(' '.join(words))}.",
        did_you_mean(name, [entry.name for entry in known], "`loba plugins ls` lists them all."),
    )


def _only(found: Sequence[Entry], wanted: str, noun: str) -> Entry:
    if len(found) > 1:
        choices = ", ".join(f"{entry.kind}/{entry.name}" for entry in found)
        raise RecipeError(f"{clean(wanted)} is several {noun}: {choices}.", "Name one of them.")
    return found[0]


def to_trust(wanted: str | None, plugins: Plugins) -> list[PluginFile]:
    """Return the plugins that NAME, KIND/NAME or a path means; None means all not yet trusted.

    Raises:
        RecipeError: There is no such plugin, or its name is a shipped one's.
        RefusedError: It could be changed by somebody else.
    """
    own = [entry for entry in entries(plugins) if entry.state != "shipped"]
    if wanted is None:
        waiting = [entry for entry in own if entry.state in ("untrusted", "changed")]
        return [plugins.user.read(entry.kind, entry.name) for entry in waiting]
    entry = _meant(wanted, own, plugins)
    if entry.state == "shadowed":
        raise RecipeError(
            f"There is a shipped {entry.kind}/{entry.name}, and it cannot be replaced.",
            f"Rename {clean(entry.path)} to use it.",
        )
    if entry.plugin is None or entry.state == "unsafe":
        error = RefusedError if entry.state == "unsafe" else RecipeError
        raise error(f"{clean(entry.path)}: {entry.problem}")
    return [plugins.user.read(entry.kind, entry.name)]


def trust_lines(file: PluginFile) -> list[str]:
    """Return what is to be known of a plugin before it is trusted."""
    plugin = parse(file.kind, file.name, file.path, file.content, origin="user")
    return [
        f"{'file':9}{clean(file.path)}",
        f"{'kind':9}{file.kind}: {KINDS[file.kind].noun} {file.name}",
        f"{'sha256':9}{file.sha256}",
        "",
        clean(plugin.doc, keep_newlines=True) or "It says nothing of itself.",
        "",
        *option_lines(plugin),
        "",
        "It will run with everything that you may do. Read it first.",
    ]


def to_untrust(wanted: str, plugins: Plugins) -> str:
    """Return kind/name of the trusted plugin that NAME or KIND/NAME means, also if it is gone.

    Raises:
        RecipeError: No such plugin is trusted.
    """
    known = plugins.user.trusted_keys()
    found = [key for key in known if wanted in (key, key.partition("/")[2])]
    if len(found) == 1:
        return found[0]
    if found:
        raise RecipeError(f"{clean(wanted)} is several plugins: {', '.join(found)}.")
    listed = f"Trusted are: {', '.join(map(clean, known))}." if known else "None is trusted."
    raise RecipeError(f"{clean(wanted)} is not a trusted plugin.", listed)


def _own(kind: str, name: str, path: Path, plugins: Plugins, *, is_shadowed: bool) -> Entry:
    try:
        file = plugins.user.read(kind, name)
        if is_shadowed:
            problem = f"{name} is a shipped {KINDS[kind].noun}; rename the file to use it"
            return Entry(kind, name, path, "shadowed", None, problem, file.sha256)
        plugin = parse(kind, name, path, file.content, origin="user")
    except RecipeError as error:
        return Entry(kind, name, path, "broken", None, error.message)
    except LobaError as error:
        return Entry(kind, name, path, "unsafe", None, error.message)
    try:
        state, problem = plugins.user.trust_of(file), plugins.user.refusal(file)
    except RefusedError as error:  # the list of trusted files itself cannot be believed
        state, problem = "unsafe", str(error)
    return Entry(kind, name, path, state, plugin, problem, file.sha256)


def _meant(wanted: str, own: Sequence[Entry], plugins: Plugins) -> Entry:
    """Return the file of the user's that NAME, KIND/NAME or a path means."""
    if wanted.endswith(".py"):
        path = with_home(wanted).absolute()
        found = [entry for entry in own if entry.path == path]
        if not found:
            raise RecipeError(
                f"{clean(wanted)}: is not a file in {plugins.user.folder}/KIND.",
                "Only files there are plugins: copy it, then trust the copy.",
            )
        return found[0]
    found = [entry for entry in own if wanted in (entry.name, f"{entry.kind}/{entry.name}")]
    if found:
        return _only(found, wanted, "plugins")
    kind, _, name = wanted.rpartition("/")
    if any(plugins.is_shipped(each, name) for each in KINDS if kind in ("", each)):
        raise RecipeError(f"{clean(wanted)} comes with LOBA-Trainer and needs no trust.")
    raise RecipeError(
        f"There is no plugin called {clean(wanted)} in {plugins.user.folder}.",
        did_you_mean(
            name, [entry.name for entry in own], "Begin one with: loba plugins new KIND NAME"
        ),
    )
