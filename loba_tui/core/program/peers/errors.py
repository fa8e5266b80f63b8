"""Which errors mean that another process is gone."""

from __future__ import annotations

from collections.abc import Iterator

from loba_tui.core.errors import PeerLost

HINT = "Go on from the last checkpoint with: loba run --resume RUN"

# Classes of torch.distributed, by name: nothing here imports torch, which takes seconds.
_CLASSES = frozenset({"DistNetworkError", "DistStoreError"})
_BACKEND_CLASS = "DistBackendError"
# Wrong use of NCCL, such as two processes on one GPU, is no matter of a peer.
_MISUSE = ("ncclInvalidUsage", "ncclInvalidArgument", "Duplicate GPU")
# gloo and the store raise plain RuntimeErrors.
_SAID = (
    "Connection closed by peer",
    "Connection reset by peer",
    "Application timeout caused pair closure",
    "Socket closed",
    "Socket Timeout",
    "Broken pipe",
    "gloo/transport",
    "Timed out waiting",
    "ncclRemoteError",
    "ncclSystemError",
)


def is_peer_error(error: BaseException | None) -> bool:
    """Say whether an error, or one that led to it, comes from talking to another process."""
    return any(_is_of_peer(each) for each in _chain(error))


def _is_of_peer(error: BaseException) -> bool:
    names = {each.__name__ for each in type(error).__mro__}
    text = str(error)
    if _BACKEND_CLASS in names:
        return not any(said in text for said in _MISUSE)
    if names & _CLASSES:
        return True
    return isinstance(error, RuntimeError) and any(said in text for said in _SAID)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def unknown_peer_lost(error: BaseException) -> PeerLost:
    """Return the error for a broken connection where it is not known to which process."""
    first_line = str(error).split("\n", maxsplit=1)[0]
    return PeerLost(f"the connection to another process of this run broke: {first_line}", HINT)
