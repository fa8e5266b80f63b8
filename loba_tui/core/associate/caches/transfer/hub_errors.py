"""The hub's errors in the user's words: what happened, and what to do about it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import MappingProxyType

from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
    RevisionResolutionError,
)

from loba_tui.core.errors import RecipeError, ResourceError

_ADVICE = MappingProxyType(
    {
        401: "It does not accept your login; log in anew with `hf auth login`.",
        403: "Your token does not allow this; give it that right on the hub's page of tokens.",
        404: "Something of it was removed in between; start again.",
        429: "That is too many requests in a while; wait some minutes.",
    }
)
UNREACHABLE = (OfflineModeIsEnabled, HTTPError, ConnectionError, TimeoutError)


@contextmanager
def explained(
    model_id: str,
    revision: str | None,
    hint: str,
    *,
    section: str = "base_model.",
    key: str = "id",
) -> Iterator[None]:
    """Turn the hub's errors into what the user can do about them.

    Args:
        hint: What to say beside "there is no such model".
        section: What stands before the key and `revision` in messages.
        key: Of the model's name in that section.
    """
    try:
        yield
    except GatedRepoError as error:
        raise RecipeError(
            f"{section}{key}: {model_id} is gated; its authors ask you to accept terms.",
            f"Accept them on the page of {model_id}, then log in with `hf auth login`.",
        ) from error
    except RevisionNotFoundError as error:
        raise RecipeError(
            f"{section}revision: {model_id} has no revision {revision!r}.",
            "Leave it out for the newest, or name a branch, tag or commit.",
        ) from error
    except RepositoryNotFoundError as error:
        raise RecipeError(
            f"{section}{key}: the hub shows no {model_id} to you, and there is no such folder.",
            f"{hint} If it is private, log in with `hf auth login`.",
        ) from error
    except HFValidationError as error:
        raise RecipeError(f"{section}{key}: {model_id!r} is not a model name.", hint) from error
    except HfHubHTTPError as error:
        status = error.response.status_code
        raise ResourceError(
            f"{section}{key}: the hub answered {status} for {model_id}.",
            _ADVICE.get(status, "Try again later; what was fetched is kept."),
        ) from error
    except (LocalEntryNotFoundError, RevisionResolutionError) as error:
        raise unreachable(model_id, error.__cause__ or error, section, key=key) from error
    except UNREACHABLE as error:
        raise ResourceError(
            f"{section}{key}: the connection to the hub broke while fetching {model_id}.",
            "Start again; what was fetched is kept.",
        ) from error


def unreachable(
    model_id: str, cause: BaseException, section: str = "base_model.", *, key: str = "id"
) -> ResourceError:
    """Return the error of a model that is not whole in the cache while the hub is away."""
    return ResourceError(
        f"{section}{key}: {model_id} is not complete in the cache, and the hub cannot be reached "
        f"({type(cause).__name__}).",
        "Connect, or name a local folder or a built-in model.",
    )
