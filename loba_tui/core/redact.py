"""Secrets are taken out of all text that is written down or sent: events, status, log, screen.

A secret is known by its look (`looks_secret`), or because this user's environment or the hub's
token files hold it. The look is that of tokens with a prefix of their own; a hash has none, so
sha256 sums and commits stay.
"""

from __future__ import annotations

import base64
import json
import os
import re
import stat
import urllib.parse
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

REDACTED = "[redacted]"

# What is in every text that a pattern below matches: most texts are done with after these.
_SIGNS = (
    "hf_", "api_org_", "ghp_", "gho_", "ghu_", "ghs_", "ghr_", "github_pat_", "glpat-", "gldt-",
    "glrt-", "glptt-", "glcbt-", "sk-", "AKIA", "ASIA", "eyJ", "xox", "xapp-", "hooks.slack.com",
    "/webhooks/", "AIza", "npm_", "pypi-", "wandb_", "://", "earer", "EARER", "uthorization",
    "UTHORIZATION", "PRIVATE KEY",
)  # fmt: skip
# `keep` is what stays of a match: it says which secret it was.
_LOOKS = r"""
(?<![A-Za-z0-9])(?:
    hf_(?:oauth_|jwt_)[A-Za-z0-9._-]{16,}
  | hf_[A-Za-z0-9]{20,}
  | api_org_[A-Za-z0-9]{20,}
  | gh[pousr]_[A-Za-z0-9]{20,}
  | github_pat_[A-Za-z0-9_]{20,}
  | gl(?:pat|dt|rt|ptt|cbt)-[A-Za-z0-9_.-]{16,}
  | sk-[A-Za-z0-9_-]{20,}
  | (?:AKIA|ASIA)[A-Z0-9]{16}(?![A-Za-z0-9])
  | eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}
  | xox[abeoprs]-[A-Za-z0-9-]{10,}
  | xapp-[A-Za-z0-9-]{16,}
  | AIza[A-Za-z0-9_-]{35}
  | npm_[A-Za-z0-9]{36}
  | pypi-[A-Za-z0-9_-]{50,}
  | wandb_v\d_[A-Za-z0-9_]{20,}
)
| (?P<keep>
    hooks\.slack\.com/(?:services|workflows|triggers)/
  | discord(?:app)?\.com/api/(?:v\d+/)?webhooks/
)[A-Za-z0-9/_-]{8,}
| (?P<scheme>://)[^\s/@"'<>:]{0,256}:[^\s/"'<>]{1,256}(?=@)
| (?P<query>[?&](?i:[a-z0-9_-]{0,40}(?:token|secret|signature|password|credential|api_?key)
  |sig|policy)=)[^\s&"'<>\[]{6,}
| (?P<bearer>\b(?i:bearer)\s+)(?=[^\s"']{0,256}\d)[A-Za-z0-9._~+/=-]{12,}
| (?P<header>\b(?i:authorization)["']?\s*[:=]\s*["']?(?i:basic|token)\s+)[A-Za-z0-9._~+/=-]{6,}
| -----BEGIN[ ](?:[A-Z0-9]+[ ]){0,3}PRIVATE[ ]KEY-----(?s:.*?)(?:-----END[ A-Z0-9]*-----|\Z)
"""

_SECRET_NAME = re.compile(
    r"(?:TOKEN|APIKEY|SECRET|PASSWORD|PASSWD|PASSPHRASE|CREDENTIALS?)$"
    r"|(?:^|_)(?:KEY|PASS|PAT)$|_(?:PWD|AUTH|WEBHOOK|WEBHOOK_URL|DSN)$",
    re.IGNORECASE,
)
_SHORTEST_SECRET = 8
"""A shorter value is a switch such as HF_HUB_DISABLE_IMPLICIT_TOKEN=1, or would garble the text."""
_LONGEST_FILE = 64 * 1024


def find_secret(text: str) -> re.Match[str] | None:
    """Return where something stands that looks like a token, a key or a password; None if nowhere.

    Redacted text holds nothing of the kind.
    """
    if len(text) < _SHORTEST_SECRET or not any(sign in text for sign in _SIGNS):
        return None
    return _looks().search(text)


def without_secrets(text: str) -> str:
    """Return the text without what looks like a token, a key or a password."""
    if len(text) < _SHORTEST_SECRET or not any(sign in text for sign in _SIGNS):
        return text
    return _looks().sub(_redacted, text)


@cache
def _looks() -> re.Pattern[str]:
    # Compiled when it is first needed: no command should start later for it.
    return re.compile(_LOOKS, re.VERBOSE)


def _redacted(match: re.Match[str]) -> str:
    return "".join(filter(None, match.groups())) + REDACTED


def is_secret_name(name: str) -> bool:
    """Say whether a variable or a setting of this name holds a token, a key or a password."""
    return bool(_SECRET_NAME.search(name))


class Redactor:
    """Replaces given secrets, and what looks like one anyway."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        forms = {form for secret in secrets for form in _forms(secret)}
        # The longest first: a secret may begin with another.
        self._secrets = sorted(forms, key=lambda form: (-len(form), form))

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> Redactor:
        """Return one that knows the secrets in an environment and in the hub's token files."""
        return cls([*_in_environment(environ), *_in_token_files(environ)])

    def text(self, text: str) -> str:
        """Return the text without secrets."""
        if len(text) < _SHORTEST_SECRET:
            return text
        for secret in self._secrets:
            if secret in text:
                text = text.replace(secret, REDACTED)
        return without_secrets(text)

    def value(self, value: Any) -> Any:
        """Return a JSON value in which every text, keys included, is without secrets."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, Mapping):
            return {self.value(key): self.value(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.value(item) for item in value]
        if isinstance(value, int | float) or value is None:
            return value
        # Paths and foreign objects become text when they are written: only then can it be seen.
        text = str(value)
        redacted = self.text(text)
        return value if redacted == text else redacted


def _in_environment(environ: Mapping[str, str]) -> Iterable[str]:
    for name, value in environ.items():
        if _SECRET_NAME.search(name) and not _is_path(value):
            yield value


def _is_path(value: str) -> bool:
    """Say whether a value names a file, as SSL_KEY=/etc/ssl/own.key does: that is no secret."""
    if not value.startswith(("/", "./", "../", "~/")):
        return False
    try:
        return os.path.lexists(os.path.expanduser(value))
    except ValueError:
        return False


def _in_token_files(environ: Mapping[str, str]) -> Iterable[str]:
    """Yield what `hf auth login` has stored: the token in use, and a table of all of them."""
    home = environ.get("HF_HOME") or f"{environ.get('XDG_CACHE_HOME') or '~/.cache'}/huggingface"
    path = environ.get("HF_TOKEN_PATH") or f"{home}/token"
    token = Path(os.path.expandvars(os.path.expanduser(path)))
    yield _read(token)
    for line in _read(token.with_name("stored_tokens")).splitlines():
        _, equals, value = line.partition("=")
        if equals:
            yield value


def _read(path: Path) -> str:
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                return ""
            return file.read(_LONGEST_FILE).decode("utf-8", "replace")
    except (OSError, ValueError):
        return ""


def _forms(secret: str) -> Iterable[str]:
    """Yield a secret as it may be written: itself, its lines, in an address, in JSON, in base64."""
    parts = {secret.strip(), *(line.strip() for line in secret.splitlines())}
    for part in parts:
        if len(part) < _SHORTEST_SECRET:
            continue
        yield part
        yield urllib.parse.quote(part, safe="", errors="replace")
        yield json.dumps(part)[1:-1]
        content = part.encode("utf-8", "replace")
        for before in range(3):
            # In base64 it looks differently by where it begins; what neighbours share in is left.
            bits = base64.b64encode(b"\0" * before + content).decode()
            first, last = -(-8 * before // 6), (8 * (before + len(content))) // 6
            yield bits[first:last]
            yield bits[first:last].replace("+", "-").replace("/", "_")
