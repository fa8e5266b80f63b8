"""The hub's errors while it is pushed to, in the user's words."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    LocalTokenNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from loba_tui.core.associate.caches.transfer.hub_errors import UNREACHABLE
from loba_tui.core.errors import InUseError, LobaError, RecipeError, ResourceError
from loba_tui.core.text import clean

_WRITE_HINT = "Make a token that may write on the hub's page of tokens; then: hf auth login"


@contextmanager
def explained(repo_id: str) -> Iterator[None]:
    """Turn the hub's errors into what the user can do about them."""
    shown = clean(repo_id, limit=120)
    try:
        yield
    except LocalTokenNotFoundError as error:
        raise RecipeError("You are not logged in to the hub.", _WRITE_HINT) from error
    except HFValidationError as error:
        raise RecipeError(
            f"--repo: {shown} is not a repository's name.", "Names are user/name, as on the hub."
        ) from error
    except RevisionNotFoundError as error:
        raise InUseError(f"{shown} changed while it was pushed to.", "Push again.") from error
    except RepositoryNotFoundError as error:
        raise RecipeError(
            f"The hub does not let you write to {shown}.", f"Check the name. {_WRITE_HINT}"
        ) from error
    except HfHubHTTPError as error:
        raise _refusal(shown, error.response.status_code) from error
    except (*UNREACHABLE, RuntimeError) as error:
        # Uploads run in threads, whose errors come wrapped.
        cause = error.__cause__ if isinstance(error, RuntimeError) else error
        if isinstance(cause, HfHubHTTPError):
            raise _refusal(shown, cause.response.status_code) from error
        if isinstance(error, RuntimeError) and not isinstance(cause, UNREACHABLE):
            raise
        raise ResourceError(
            f"The connection to the hub broke ({type(cause).__name__}).",
            "Push again: what was uploaded whole is not uploaded twice.",
        ) from error


def _refusal(shown: str, status: int) -> LobaError:
    if status == 401:
        return RecipeError("The hub does not accept your login.", _WRITE_HINT)
    if status == 403:
        return RecipeError(f"Your login may not write to {shown}.", _WRITE_HINT)
    if status in (409, 412):
        return InUseError(f"{shown} changed while it was pushed to.", "Push again.")
    return ResourceError(f"The hub answered {status} for {shown}.", "Try again later.")
