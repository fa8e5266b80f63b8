"""Which backend the targets of a `loba cache` command belong to."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from loba_tui.commands.options import open_cache
from loba_tui.core.errors import RecipeError
from loba_tui.core.user_folders import tensors_folder

if TYPE_CHECKING:
    from loba_tui.client.cache.backend import CacheBackend


def backend_of(targets: Sequence[str], recipes: list[Path] | None) -> CacheBackend:
    """Return the backend that targets belong to.

    Raises:
        RecipeError: They belong to two.
    """
    from loba_tui.client.cache.hub_backend import HubBackend
    from loba_tui.client.cache.tensor_backend import TensorBackend
    from loba_tui.core.associate.caches.tensors.scan import is_target

    of_tensors = {is_target(each) for each in targets}
    if len(of_tensors) == 2:
        raise RecipeError(
            "Repositories and kept tensors are not removed by one command.",
            "Name one sort at a time.",
        )
    if True in of_tensors:
        return TensorBackend(tensors_folder(os.environ))
    return HubBackend(open_cache(recipes))
