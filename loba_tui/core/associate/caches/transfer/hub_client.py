"""The hub's client, with a check of every name before it is asked and of every name it is told.

The client joins revisions, commits and etags to the path of its cache, as they are: a revision
`../../x`, an `X-Repo-Commit: ../../x` beside "no such file", or an `ETag: ../../x` of a mirror
writes a file anywhere. So what is asked is checked here, and each answer before the client reads
its headers.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, set_client_factory
from huggingface_hub.utils._http import default_client_factory

from loba_tui.core import names
from loba_tui.core.associate.caches.transfer.retry import asked

_COMMIT_HEADER = "X-Repo-Commit"
_LINKED_ETAG_HEADER = "X-Linked-Etag"
_XET_HEADER = "X-Xet-Hash"


def check_answer(response: Any) -> None:
    """Refuse an answer whose headers name a commit or a content by what leads elsewhere.

    Raises:
        RefusedError: One does.
    """
    headers = response.headers
    if _COMMIT_HEADER in headers:
        names.check_commit(headers[_COMMIT_HEADER])
    etag = headers.get(_LINKED_ETAG_HEADER)
    # The etag of a file's description names its content; that of any other answer names nothing.
    if etag is None and response.request.method == "HEAD":
        etag = headers.get("ETag")
    if etag is not None:
        # As the client reads it.
        names.check_etag(etag.lstrip("W/").strip('"'))
    xet = headers.get(_XET_HEADER)
    if xet is not None:
        names.check_etag(xet)


def make_client() -> Any:
    """Return the client that all requests to the hub go through; it reads no unchecked answer."""
    client = default_client_factory()
    hooks = client.event_hooks
    client.event_hooks = {**hooks, "response": [*hooks["response"], check_answer]}
    return client


# The client makes its connections in many places; this is the one way to see all answers.
set_client_factory(make_client)


def hub_api(*, token: bool | None = None) -> HfApi:
    """Return the hub's client; with a token of False it asks as anybody, without the login."""
    return HfApi(token=token)


def resolve(api: HfApi, model_id: str, revision: str | None, cache: Path | None = None) -> str:
    """Return the commit that a branch, tag or commit stands for; None is main.

    Where the hub cannot be reached, it is what the cache remembers.

    Raises:
        RefusedError: A name leads elsewhere, or the hub's answer is no commit.
        Exception: What the hub's client raises.
    """
    names.check_repository(model_id)
    names.check_revision(revision)
    found = asked(lambda: api.resolve_revision(model_id, revision=revision, cache_dir=cache))
    commit = str(found.resolved)
    names.check_commit(commit)
    return commit
