"""The delivery of a notice: bell, desktop notification through the terminal, webhook.

`~/.config/loba/notify.yaml`, all of it optional:

    events: [finished, failed, nan, dead_slider]
    bell: true
    desktop: osc9            # or osc777, or off: what the terminal understands
    webhook: https://…       # gets a JSON document by POST
"""

from __future__ import annotations

import ipaddress
import json
import platform
import time
import urllib.parse
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from loba_tui.client.notify.notices import KINDS, Notice
from loba_tui.core.errors import ResourceError
from loba_tui.core.recipe.problems import Place, Problem, ProblemsFound
from loba_tui.core.redact import Redactor
from loba_tui.core.text import clean, nearest

if TYPE_CHECKING:
    from loba_tui.core.recipe.tree import Node

FILE = "notify.yaml"
Desktop = Literal["off", "osc9", "osc777"]
_DESKTOPS = ("off", "osc9", "osc777")
_KEYS = ("events", "bell", "desktop", "webhook")
_MAX_BYTES = 64 * 1024
_TIMEOUT_SECONDS = 10.0
_TRIES = 3
_WAIT_SECONDS = 2.0


@dataclass(frozen=True)
class Settings:
    """Which notices are delivered, and how; a webhook is often a secret, so it is never shown."""

    events: tuple[str, ...] = KINDS
    bell: bool = True
    desktop: Desktop = "off"
    webhook: str | None = None

    def __repr__(self) -> str:
        hook = "set" if self.webhook else "none"
        return f"Settings({self.events}, bell={self.bell}, {self.desktop}, webhook {hook})"

    @classmethod
    def load(cls, path: Path) -> Settings:
        """Read a file of settings; the defaults where there is none.

        Raises:
            ResourceError: It cannot be read.
            ProblemsFound: It has mistakes, each told with its line and what was meant.
        """
        try:
            with path.open("rb") as stream:
                content = stream.read(_MAX_BYTES)
        except (FileNotFoundError, NotADirectoryError):
            return cls()
        except OSError as error:
            raise ResourceError(f"{path} cannot be read: {error.strerror}.") from error
        return cls.parse(content.decode("utf-8", "replace"), str(path))

    @classmethod
    def parse(cls, text: str, origin: str) -> Settings:
        """Read settings; see `load`."""
        if not text.strip():
            return cls()
        # A YAML parser and an HTTP client take a tenth of a second to import, and few need them.
        from loba_tui.core.recipe.yaml_tree import read_tree

        tree, problems = read_tree(text, origin)
        if not isinstance(tree.data, dict):
            problems.append(Problem(*tree.place, "", f"expected keys: {', '.join(_KEYS)}"))
            raise ProblemsFound(problems)
        found: dict[str, Any] = {}
        for key, node in tree.data.items():
            if key not in _KEYS:
                message = "not a key of notifications"
                problems.append(Problem(*tree.keys[key], clean(key), message, nearest(key, _KEYS)))
                continue
            wrong, meant = _wrong(key, node)
            if wrong:
                place: Place = node.place
                problems.append(Problem(*place, key, wrong, meant))
            found[key] = tuple(node.plain()) if isinstance(node.data, tuple) else node.data
        if problems:
            raise ProblemsFound(problems)
        return cls(**found)


def _wrong(key: str, node: Node) -> tuple[str, str | None]:
    """Return what is wrong with a value and what was meant; the value itself is not repeated."""
    value = node.plain()
    if key == "events":
        for each in value if isinstance(value, list) else [value]:
            if each not in KINDS:
                return f"expected a list of {', '.join(KINDS)}", nearest(str(each), KINDS)
        return ("" if isinstance(value, list) else f"expected a list of {', '.join(KINDS)}"), None
    if key == "bell":
        return ("" if isinstance(value, bool) else "expected true or false"), None
    if key == "desktop":
        is_one = value in _DESKTOPS
        return ("" if is_one else "expected off, osc9 or osc777"), nearest(str(value), _DESKTOPS)
    return ("" if value is None else _wrong_address(value)), None


def _wrong_address(value: object) -> str:
    if not isinstance(value, str):
        return "expected an address that begins with https://"
    try:
        parts = urllib.parse.urlsplit(value)
        host = parts.hostname or ""
    except ValueError:
        return "expected an address that begins with https://"
    if parts.username or parts.password:
        return "an address with a user name or password in it is not used"
    if parts.scheme == "https" and host:
        return ""
    if parts.scheme == "http" and _is_loopback(host):
        return ""
    return "expected https://…; http:// only to this machine"


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def terminal_bytes(settings: Settings, notice: Notice, environ: Mapping[str, str]) -> str:
    """Return what makes a terminal ring and show a notification; "" where neither is wanted."""
    text = clean(notice.text, limit=200).replace(";", ",")
    sequence = {
        "osc9": f"\x1b]9;{text}\x07",
        "osc777": f"\x1b]777;notify;LOBA-Trainer;{text}\x07",
        "off": "",
    }[settings.desktop]
    if sequence and environ.get("TMUX"):
        # tmux hands it on, where its option allow-passthrough is on.
        sequence = "\x1bPtmux;" + sequence.replace("\x1b", "\x1b\x1b") + "\x1b\\"
    return sequence + ("\x07" if settings.bell else "")


def payload(notice: Notice, redactor: Redactor) -> dict[str, Any]:
    """Return the document that a webhook gets: nothing of it is a secret of this machine."""
    document: dict[str, Any] = {
        "text": notice.text,
        "event": notice.kind,
        "run": notice.run,
        "step": notice.step,
        "total": notice.total,
        "host": platform.node(),
    }
    return redactor.value(document)


def send(
    address: str,
    document: Mapping[str, Any],
    *,
    sleep: Callable[[float], object] = time.sleep,
    timeout: float = _TIMEOUT_SECONDS,
) -> str:
    """Post a document, three times if need be; return why it did not arrive, or "".

    It blocks for up to half a minute, so it belongs into a process that has nothing else to do.
    """
    import urllib.error
    import urllib.request

    class NoRedirects(urllib.request.HTTPRedirectHandler):
        """A redirect would send the document to somebody whom the user did not name."""

        def redirect_request(self, *args: Any, **kwargs: Any) -> None:
            return None

    request = urllib.request.Request(
        address,
        data=json.dumps(document).encode(),
        headers={"Content-Type": "application/json", "User-Agent": "loba-trainer"},
        method="POST",
    )
    opener = urllib.request.build_opener(NoRedirects)
    reason = ""
    for attempt in range(_TRIES):
        if attempt:
            sleep(_WAIT_SECONDS * attempt)
        try:
            with opener.open(request, timeout=timeout):
                return ""
        except urllib.error.HTTPError as error:
            reason = f"it answered {error.code}"
            error.close()
            if 300 <= error.code < 500 and error.code != 429:
                break  # it will not answer otherwise another time
        except (OSError, ValueError) as error:
            reason = type(error).__name__
    return f"the webhook did not take it: {reason}"
