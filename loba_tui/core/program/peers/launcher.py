"""Place of this process among those that a launcher has started, read from the environment.

torchrun sets RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT. Where some of them are
missing or disagree, torch would train one process by itself in silence, or wait for ever.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from loba_tui.core.errors import RecipeError
from loba_tui.core.text import quote

_HINT = (
    "Start several processes with: loba run RECIPE --processes N, or torchrun --nproc-per-node N -m"
    " loba_tui.core.program.main --recipe RECIPE"
)


@dataclass(frozen=True)
class Place:
    """Place of a process among those of its run, and among those of its host."""

    rank: int = 0
    local_rank: int = 0

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> Place:
        """Return the place that the environment says.

        Raises:
            RecipeError: It says that there are other processes, and not how they come together.
        """
        if not environ.get("WORLD_SIZE"):
            _refuse_lone_leader(environ)
            return cls(local_rank=_number(environ, "LOCAL_RANK", 0))
        size = _number(environ, "WORLD_SIZE", 1)
        rank = _number(environ, "RANK", None if size > 1 else 0)
        local_rank = _number(environ, "LOCAL_RANK", None if size > 1 else 0)
        if not 0 <= rank < size:
            raise RecipeError(
                f"RANK is {rank}, and WORLD_SIZE says that there are {size} processes", _HINT
            )
        local_size = _number(environ, "LOCAL_WORLD_SIZE", size)
        if not 0 <= local_rank < local_size <= size:
            raise RecipeError(
                f"LOCAL_RANK is {local_rank} of LOCAL_WORLD_SIZE {local_size}, and WORLD_SIZE is"
                f" {size}",
                _HINT,
            )
        missing = [key for key in ("MASTER_ADDR", "MASTER_PORT") if not environ.get(key)]
        if size > 1 and missing:
            raise RecipeError(
                f"WORLD_SIZE is {size}, and {' and '.join(missing)} do not say where the processes"
                " come together",
                _HINT,
            )
        return cls(rank, local_rank)


def _refuse_lone_leader(environ: Mapping[str, str]) -> None:
    """Refuse what says that there are others, but not how many.

    accelerate's simple launcher does so for `--num_processes 2 --cpu`: it starts one process.
    """
    for key in ("MASTER_ADDR", "RANK"):
        if environ.get(key) and environ.get(key) != "0":
            raise RecipeError(
                f"{key} is {quote(environ[key])} without WORLD_SIZE: this process would train alone"
                " where several are meant",
                f"{_HINT}. Where one is meant, unset {key}.",
            )


def _number(environ: Mapping[str, str], key: str, default: int | None) -> int:
    text = environ.get(key, "")
    if not text and default is not None:
        return default
    try:
        return int(text)
    except ValueError as error:
        said = f"{key} is {quote(text)}, which is no number" if text else f"{key} is missing"
        raise RecipeError(
            f"{said}, where WORLD_SIZE says that processes train together", _HINT
        ) from error
