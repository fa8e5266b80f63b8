"""Ask the hub again where it is busy or down for a moment."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from huggingface_hub.errors import (
    HfHubHTTPError,
    HTTPError,
    OfflineModeIsEnabled,
    RevisionResolutionError,
)

WAITS_SECONDS = (0.5, 1.0, 2.0, 4.0)
_TRY_AGAIN_STATUS = frozenset({408, 429, 500, 502, 503, 504})

Answer = TypeVar("Answer")


def asked(ask: Callable[[], Answer]) -> Answer:
    """Ask the hub something, again after a while where it is busy or down.

    Raises:
        Exception: The last answer, where all were such.
    """
    for seconds in WAITS_SECONDS[:-1]:
        try:
            return ask()
        except (HfHubHTTPError, RevisionResolutionError) as error:
            if not is_passing(error):
                raise
        time.sleep(seconds)
    return ask()


def is_passing(error: BaseException) -> bool:
    """Say whether the same question may be answered better in a while."""
    if isinstance(error, RevisionResolutionError):
        return isinstance(error.__cause__, HfHubHTTPError) and is_passing(error.__cause__)
    if isinstance(error, OfflineModeIsEnabled):
        return False
    if isinstance(error, HfHubHTTPError):
        return error.response.status_code in _TRY_AGAIN_STATUS
    return isinstance(error, HTTPError | ConnectionError)
