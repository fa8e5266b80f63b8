"""Lets this process's real client talk to a hub on loopback: a process for each would take long."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hub_server import Hub
from huggingface_hub import constants
from huggingface_hub.utils import close_session


@contextmanager
def talking_to(hub: Hub, home: Path, patch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """Have no login and an empty cache, and wait for nothing."""
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, hub.endpoint)
    sleep = time.sleep
    close_session()
    patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    patch.setattr(constants, "ENDPOINT", hub.endpoint)
    patch.setattr(constants, "HF_HUB_CACHE", str(home / "hub"))
    patch.setattr(constants, "HF_TOKEN_PATH", str(home / "no-token"))
    patch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    patch.setattr(time, "sleep", lambda seconds: sleep(min(seconds, 0.01)))
    patch.setenv("XDG_STATE_HOME", str(home / "state"))
    patch.setenv("NO_PROXY", "*")
    yield hub
    close_session()
