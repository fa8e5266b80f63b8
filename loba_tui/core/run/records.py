"""The records that the program writes and the terminal reads, and how they become JSON.

Version 1 of every record. JSON has no NaN and no infinities, so a float that is not finite is
written as one of the strings "NaN", "Infinity" and "-Infinity", and read back as that float in
metric records. Times are wall clock seconds; durations are measured by a monotonic clock.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from loba_tui.core.foreign_json import parse_object

RECORD_VERSION = 1

FINAL_PHASES = frozenset({"finished", "stopped", "failed"})

MOST_COUNT = 2**53
"""More steps, images or bytes than any run has; figures of time are worked out from them."""
_MOST_SECONDS = 1e9

NON_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


@dataclass(frozen=True)
class Owner:
    """The process that holds a run, so that it can be told from a later one with its pid."""

    pid: int
    host: str
    process_start: float | None
    boot_id: str | None

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Owner:
        """Read the owner out of a record; raise ValueError where it names none."""
        start, boot = data.get("process_start"), data.get("boot_id")
        try:
            return cls(
                pid=int(data["pid"]),
                host=str(data.get("host", "")),
                process_start=None if start is None else float(start),
                boot_id=None if boot is None else str(boot),
            )
        except (KeyError, TypeError, OverflowError) as error:
            raise ValueError(f"not an owner: {error!r}") from error


@dataclass(frozen=True)
class Status:
    """Present state of a run.

    Args:
        step: Steps done, of `total`, which is 0 while unknown.
        heartbeat: Wall time at which this status was written.
        extra: Everything else the program reports, such as device or resident components.
    """

    phase: str
    step: int
    total: int
    heartbeat: float
    owner: Owner | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_final(self) -> bool:
        """Say whether the program has said that it is done."""
        return self.phase in FINAL_PHASES

    def as_json(self) -> dict[str, Any]:
        """Return the flat object that is written to status.json."""
        owner = vars(self.owner) if self.owner else {}
        return {
            "version": RECORD_VERSION,
            "phase": self.phase,
            "step": self.step,
            "total": self.total,
            "heartbeat": self.heartbeat,
            **owner,
            **self.extra,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Status:
        """Read a status, keeping unknown keys in `extra`; raise ValueError if it is not one."""
        rest = dict(data)
        rest.pop("version", None)
        try:
            phase, step = str(rest.pop("phase")), _count(rest.pop("step", 0))
            total, heartbeat = _count(rest.pop("total", 0)), float(rest.pop("heartbeat", 0.0))
            owner = None
            if rest.get("pid") is not None:
                owner = Owner.from_json(rest)
                for key in ("pid", "host", "process_start", "boot_id"):
                    rest.pop(key, None)
        except (KeyError, TypeError, OverflowError) as error:
            raise ValueError(f"not a status: {error!r}") from error
        return cls(phase, step, total, heartbeat, owner, rest)


@dataclass(frozen=True)
class Metric:
    """One training step.

    Args:
        memory_mib: Peak memory of the device, or of the process on the CPU.
        forwards: UNet rows computed since the start; a backward counts as one more forward.
        values: What the method adds.
    """

    step: int
    time: float
    loss: float | None = None
    lr: float | None = None
    grad_norm: float | None = None
    seconds: float | None = None
    memory_mib: float | None = None
    forwards: float | None = None
    values: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Metric:
        """Read a metric; raise ValueError where it is not one."""
        rest = {
            key: NON_FINITE.get(value, value) if isinstance(value, str) else value
            for key, value in data.items()
        }
        rest.pop("version", None)
        try:
            step, time = _count(rest.pop("step")), float(rest.pop("time", 0.0))
            known: dict[str, float | None] = {}
            for key in ("loss", "lr", "grad_norm", "seconds", "memory_mib", "forwards"):
                value = rest.pop(key, None)
                known[key] = None if value is None else float(value)
            if known["seconds"] is not None and not 0 <= known["seconds"] <= _MOST_SECONDS:
                known["seconds"] = None
        except (KeyError, TypeError, OverflowError) as error:
            raise ValueError(f"not a metric: {error!r}") from error
        return cls(step=step, time=time, values=rest, **known)


@dataclass(frozen=True)
class Event:
    """Something that happened: started, saved, sampled, warning, failed, finished and so on."""

    kind: str
    time: float
    data: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Event:
        """Read an event; raise ValueError where it is not one."""
        rest = dict(data)
        rest.pop("version", None)
        try:
            return cls(str(rest.pop("event")), float(rest.pop("time", 0.0)), rest)
        except (KeyError, TypeError, OverflowError) as error:
            raise ValueError(f"not an event: {error!r}") from error


def encode(record: Mapping[str, Any]) -> bytes:
    """Return one record as one line of UTF-8 JSON, newline included."""
    try:
        text = json.dumps(record, default=_plain, allow_nan=False, separators=(",", ":"))
    except ValueError:
        text = json.dumps(finite(record), allow_nan=False, separators=(",", ":"))
    return text.encode() + b"\n"


def decode(line: bytes | str) -> dict[str, Any]:
    """Return the object of one line; raise ValueError where it is not a JSON object."""
    return parse_object(line)


def _count(value: Any) -> int:
    number = int(value)
    if abs(number) > MOST_COUNT:
        raise ValueError("more than can be counted")
    return number


def finite(value: Any) -> Any:
    """Return `value` with every float that is not finite replaced by its documented string."""
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, Mapping):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    if isinstance(value, (str, int, float, bool, type(None))):
        return value
    return finite(_plain(value))


def _plain(value: Any) -> Any:
    """Return a numpy or torch scalar as a number, and everything else as text."""
    item = getattr(value, "item", None)
    return item() if callable(item) else str(value)
