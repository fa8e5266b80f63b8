"""Access tokens are taken out of all text that is written down: events, status and the log."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, TextIO

# Access tokens of the hub and of the services that are pasted by mistake as often.
TOKEN = re.compile(
    r"\b(hf_[A-Za-z0-9]{20,}|api_org_[A-Za-z0-9]{20,}|gh[pousr]_[A-Za-z0-9]{20,}"
    r"|github_pat_[A-Za-z0-9_]{20,}|sk-[A-Za-z0-9_-]{20,})"
)
REDACTED = "[redacted]"

_SECRET_NAME = re.compile(r"(TOKEN|API_KEY|SECRET|PASSWORD)$|^HUGGING_FACE_HUB_TOKEN$")
_SHORTEST_SECRET = 8
"""A shorter value is a switch such as HF_HUB_DISABLE_IMPLICIT_TOKEN=1, or would garble the text."""


class Redactor:
    """Replaces given secrets, and what looks like an access token anyway."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        known = sorted({s for s in secrets if len(s) >= _SHORTEST_SECRET}, key=len, reverse=True)
        patterns = [re.escape(secret) for secret in known]
        self._pattern = re.compile("|".join([*patterns, TOKEN.pattern]))

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> Redactor:
        """Return one that knows the tokens and keys that an environment holds."""
        return cls(value for name, value in environ.items() if _SECRET_NAME.search(name))

    def text(self, text: str) -> str:
        """Return the text without secrets."""
        return self._pattern.sub(REDACTED, text)

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


class RedactingStream:
    """A text stream that writes on without secrets; what libraries print passes it too."""

    def __init__(self, stream: TextIO, redactor: Redactor) -> None:
        self._stream = stream
        self._redactor = redactor

    def write(self, text: str) -> int:
        """Write text without secrets, and return its length."""
        self._stream.write(self._redactor.text(text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write lines without secrets."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        """Leave everything else to the stream."""
        return getattr(self._stream, name)
