"""The two rows over the charts that say how a run stands."""

from __future__ import annotations

from loba_tui.client.metrics.index import RATE
from loba_tui.core.units import show_countdown, show_size
from loba_tui.screens.monitor.machine_pane import bar
from loba_tui.screens.monitor.model import Frame
from loba_tui.screens.runs.rows import PHASE_TONES, phase_of, rate_text
from loba_tui.widgets.line import Piece

# States whose reason says nothing that is not there already; that of a stalled one stands first.
_WITHOUT_REASON = ("running", "stalled", "finished", "stopped", "failed")
_PHASES_WITHOUT_ETA = (
    *("calibrating", "attacking", "measuring"),
    *("loading", "encoding", "starting"),
)


def _eta(frame: Frame) -> str:
    rate = frame.latest.get(RATE)
    if frame.status is None or not rate or not frame.liveness.is_alive:
        return ""
    if frame.status.phase in _PHASES_WITHOUT_ETA or frame.status.total <= frame.status.step:
        return ""
    return f"ETA {show_countdown((frame.status.total - frame.status.step) / rate)}"


def heading_rows(frame: Frame, width: int) -> list[list[Piece]]:
    """Return phase, progress, rate and time to go; and below the newest figures."""
    status, tone = frame.status, PHASE_TONES[frame.liveness.state]
    first: list[Piece] = [" ", (phase_of(frame.liveness, status), tone)]
    if status is not None and status.total > 0:
        share = status.step / status.total
        first += ["  ", (bar(share, 20 if width > 100 else 12), tone)]
        first += [f" {status.step:,}/{status.total:,}  {100 * share:.0f}%"]
    if status is not None and status.phase in ("calibrating", "attacking", "measuring"):
        done, total = status.extra.get("measured"), status.extra.get("to_measure")
        if done is not None and total is not None:
            unit = "UNet rows" if status.phase == "attacking" else "images"
            first.append(f"  {done}/{total} {unit}")
    if status is not None and status.phase == "loading":
        done, total = status.extra.get("fetched"), status.extra.get("to_fetch")
        if isinstance(done, int) and isinstance(total, int) and done < total:
            first.append(f"  fetched {show_size(done)} of {show_size(total)}")
    rate = frame.latest.get(RATE)
    if rate and frame.liveness.is_alive:
        first += [f"  {rate_text(rate)}", f"  {_eta(frame)}"]
    if frame.outcome:
        first += ["  measured: ", (frame.outcome, "strong")]
    if frame.share_read < 1.0:
        first.append((f"  reading {100 * frame.share_read:.0f}%", "warn"))
    second: list[Piece] = [" "]
    if frame.liveness.state == "stalled":  # what holds it up comes first, whatever the width
        second += [(frame.liveness.reason, tone), "  "]
    for name, label, form in (
        ("loss", "loss", "{:.4g}"),
        ("lr", "lr", "{:.3g}"),
        ("grad_norm", "grad norm", "{:.3g}"),
        ("memory_mib", "memory", "{:,.0f} MiB"),
    ):
        if name in frame.latest:
            second += [(f"{label} ", "dim"), form.format(frame.latest[name]), "  "]
    if frame.failure and not frame.liveness.is_alive:
        second += [(frame.failure, tone)]
    elif frame.liveness.state not in _WITHOUT_REASON:
        second += [(frame.liveness.reason, tone)]
    return [first, second]


def short_line(frame: Frame) -> str:
    """Return the run's progress in as few words as there are."""
    words = [phase_of(frame.liveness, frame.status)]
    if frame.status is not None and frame.status.total:
        words.append(f"{frame.status.step}/{frame.status.total}")
    if "loss" in frame.latest:
        words.append(f"loss {frame.latest['loss']:.3g}")
    return " ".join([*words, _eta(frame), frame.run.name])
