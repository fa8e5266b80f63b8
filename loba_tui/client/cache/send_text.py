"""Lines and records of `loba cache push-to`: the plan and its result."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from loba_tui.core.text import clean
from loba_tui.core.units import show_size

if TYPE_CHECKING:
    from loba_tui.core.associate.caches.hub.layout import Cache
    from loba_tui.core.associate.caches.transfer.send import SendPlan


def plan_record(found: Cache, plan: SendPlan, host: str) -> dict[str, Any]:
    """Return a plan as JSON holds it."""
    from loba_tui.core.associate.caches.hub.targets import target_name

    return {
        "host": host,
        "path": plan.place.root,
        "free": plan.place.free,
        "sends": [target_name(found, target) for target in plan.targets],
        "files": len(plan.links),
        "size": plan.size,
        "to_send": plan.to_send,
    }


def plan_lines(record: dict[str, Any]) -> Iterator[str]:
    """Yield a plan's record for reading."""
    for name in record["sends"]:
        yield f"  {clean(name)}"
    yield (
        f"{show_size(record['to_send'])} to send of {show_size(record['size'])}, to "
        f"{record['host']}:{clean(record['path'])} with {show_size(record['free'])} free"
    )


def result_lines(record: dict[str, Any], kept: list[str]) -> Iterator[str]:
    """Yield what came of it; `kept` are branches and tags that stand elsewhere there."""
    where = f"{record['host']}:{clean(record['path'])}"
    yield f"{where} holds {record['files']} files of it, each read again and compared"
    for path in kept:
        yield f"  {clean(path)} stands on another commit there and was left as it is"
