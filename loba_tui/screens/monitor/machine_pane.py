"""The machine as a table: host, trainer, every GPU with its processes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from textual.containers import VerticalScroll

from loba_tui.client.machine.rank_table import rank_lines
from loba_tui.client.machine.state import MachineState
from loba_tui.core.run.records import Status
from loba_tui.widgets.line import Lines, Piece

_EIGHTHS = " ▏▎▍▌▋▊▉█"


def bar(share: float, width: int = 10) -> str:
    """Return a bar that fills this share of its width."""
    eighths = round(min(1.0, max(0.0, share)) * width * 8)
    full, rest = divmod(eighths, 8)
    return ("█" * full + (_EIGHTHS[rest] if rest else "")).ljust(width, "·")


class MachinePane(VerticalScroll, can_focus=True):
    """Shows what `Machine.look` returned."""

    BINDING_GROUP_TITLE = "Machine"

    def __init__(self) -> None:
        super().__init__(id="machine")

    def compose(self) -> Any:
        yield Lines()

    def show(
        self,
        state: MachineState,
        status: Status | None,
        memory_mib: float | None,
        ranks: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        """Show a state, and what the trainer says of its own memory beside it.

        Args:
            ranks: The processes of the run, where there are several.
        """
        tone = "active" if self.has_focus else "strong"
        rows: list[list[Piece]] = [
            [(" machine ", tone), f" CPU {state.cpu_percent:3.0f}%"],
            [
                "host memory  ",
                bar(state.host_used_gib / state.host_total_gib),
                f" {state.host_used_gib:.1f} of {state.host_total_gib:.1f} GiB",
            ],
        ]
        if state.trainer_gib is not None and status is not None and status.owner is not None:
            pid, gib = status.owner.pid, state.trainer_gib
            rows.append([f"trainer      process {pid}, {gib:.2f} GiB resident"])
        if memory_mib is not None:
            whose = " of torch" if state.gpus else ""
            rows.append([f"it reports   {memory_mib:,.0f} MiB{whose}"])
        rows += [[(line, "bad" if is_silent else "")] for line, is_silent in rank_lines(ranks)]
        held = status.extra.get("resident") if status is not None else None
        if isinstance(held, list):
            rows += [[f"  {_resident(each)}"] for each in held if isinstance(each, Mapping)]
        for gpu in state.gpus:
            rows += _gpu_rows(gpu, status.owner.pid if status and status.owner else None)
        if state.gpu_error:
            rows.append([(state.gpu_error, "dim")])
        self.query_one(Lines).show(rows)

    @property
    def text(self) -> str:
        return self.query_one(Lines).text


def _resident(record: Mapping[str, Any]) -> str:
    """Return a component that the run holds in memory, with its size and where it is."""
    size = record.get("bytes")
    mib = f"{size / 2**20:8,.1f} MiB" if isinstance(size, int) else f"{'':12}"
    return f"{mib}  {record.get('component')} on {record.get('device')}"


def _gpu_rows(gpu: Mapping[str, Any], trainer: int | None) -> list[list[Piece]]:
    used, total = gpu.get("used_mib"), gpu.get("total_mib")
    use, celsius, watts = gpu.get("utilization"), gpu.get("celsius"), gpu.get("watts")
    name = gpu.get("name") or ""
    rows: list[list[Piece]] = [[(f"GPU {gpu.get('index')}", "strong"), f"  {name}"]]
    if isinstance(use, int | float):
        facts = f" {use:3.0f}%"
        facts += f"  {celsius:.0f} °C" if isinstance(celsius, int | float) else ""
        facts += f"  {watts:.0f} W" if isinstance(watts, int | float) else ""
        rows.append(["  busy       ", bar(use / 100), facts])
    if isinstance(used, int | float) and isinstance(total, int | float) and total > 0:
        rows.append(["  memory     ", bar(used / total), f" {used:,.0f} of {total:,.0f} MiB"])
    for process in gpu.get("processes") or ():
        pid, mib = process.get("pid"), process.get("mib")
        size = f"{mib:,.0f} MiB" if isinstance(mib, int | float) else "size not told"
        whose = "this run" if pid == trainer else "another process"
        rows.append([f"  process {pid}  {size}  ", (whose, "" if pid == trainer else "dim")])
    return rows
