"""The dashboard's budgets, measured in a real pseudo-terminal: paint, keys, bytes, memory.

python benchmarks/dashboard.py [--rows 1000000] [--only paint,keys,bytes,memory,open]
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import pty
import random
import select
import shutil
import signal
import statistics
import struct
import subprocess
import sys
import tempfile
import termios
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from loba_tui.core.run.directory import Ledger, RunDir
from loba_tui.core.run.writer import RunWriter

LOBA = [sys.executable, "-m", "loba_tui.cli"]


class Terminal:
    """`loba tui` in a pseudo-terminal of a size; what it writes is counted and kept."""

    def __init__(self, arguments: list[str], home: Path, columns: int, rows: int) -> None:
        self.master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        environ = {
            **os.environ,
            "XDG_STATE_HOME": str(home / "state"),
            "XDG_CONFIG_HOME": str(home / "config"),
            "XDG_CACHE_HOME": str(home / "cache"),
            "TERM": "xterm-256color",
            "COLORTERM": "truecolor",
        }
        self.begin = time.perf_counter()
        self.process = subprocess.Popen(
            [*LOBA, "tui", *arguments],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=environ,
            cwd=home,
            start_new_session=True,
        )
        os.close(slave)
        self.num_bytes = 0
        self.text = b""

    def read(self, seconds: float) -> bytes:
        """Return what is written within a time, at once when there is something."""
        if not select.select([self.master], [], [], seconds)[0]:
            return b""
        try:
            found = os.read(self.master, 1 << 16)
        except OSError:
            return b""
        self.num_bytes += len(found)
        self.text = (self.text + found)[-200_000:]
        return found

    def until(self, words: bytes, seconds: float = 60.0) -> float:
        """Read until some text has come; return the seconds since the start."""
        while words not in self.text:
            if time.perf_counter() - self.begin > seconds:
                raise SystemExit(f"{words!r} did not come: {self.text[-500:]!r}")
            self.read(0.2)
        return time.perf_counter() - self.begin

    def settle(self, quiet: float = 0.25) -> None:
        """Read until nothing comes for a while."""
        while self.read(quiet):
            pass

    def press(self, keys: bytes) -> None:
        """Send keys."""
        os.write(self.master, keys)

    def cpu_seconds(self) -> float:
        """Return what it has computed so far, the probe left out."""
        times = psutil.Process(self.process.pid).cpu_times()
        return times.user + times.system

    def memory_mib(self) -> float:
        """Return the memory that it has for itself."""
        return psutil.Process(self.process.pid).memory_full_info().uss / 2**20

    def close(self) -> None:
        """Leave with `q`."""
        self.press(b"q")
        deadline = time.monotonic() + 10
        while self.process.poll() is None and time.monotonic() < deadline:
            self.read(0.1)
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        os.close(self.master)


@contextmanager
def terminal(
    arguments: list[str], home: Path, columns: int = 120, rows: int = 40
) -> Iterator[Terminal]:
    shown = Terminal(arguments, home, columns, rows)
    try:
        yield shown
    finally:
        shown.close()


def record(home: Path, name: str, num_rows: int) -> RunDir:
    """Write a finished run of so many steps."""
    run = RunDir.create(home / "output", name, ledger=Ledger.of_user(environ_of(home)))
    rng = random.Random(0)
    with run.metrics.path.open("w") as stream:
        for step in range(1, num_rows + 1):
            loss = 1 / (1 + step / 1e5) + rng.random() / 10
            stream.write(row(step, loss, rng.random()))
    status = {"phase": "finished", "step": num_rows, "total": num_rows, "heartbeat": time.time()}
    run.status.path.write_text(json.dumps({"version": 1, **status}))
    return run


def row(step: int, loss: float, norm: float) -> str:
    return (
        f'{{"step":{step},"time":{1.76e9 + step},"seconds":0.123456,"memory_mib":1234.5,'
        f'"loss":{loss:.6f},"grad_norm":{norm:.5f},"lr":0.0001,"forwards":{3 * step}}}\n'
    )


def environ_of(home: Path) -> dict[str, str]:
    return {"XDG_STATE_HOME": str(home / "state")}


class Live:
    """A run that goes on at ten steps a second."""

    def __init__(self, home: Path) -> None:
        ledger = Ledger.of_user(environ_of(home))
        self.run = RunDir.create(home / "output", "live", ledger=ledger)
        self._writer = RunWriter.open(self.run)
        self._writer.status(phase="training", step=0, total=100_000)
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._go, daemon=True)
        self._thread.start()

    def _go(self) -> None:
        rng, step = random.Random(1), 0
        while not self._is_over.wait(0.1):
            step += 1
            loss = 1 / (1 + step / 1e3) + rng.random() / 10
            self._writer.metric(
                step=step, loss=loss, lr=1e-4, grad_norm=rng.random(), seconds=0.1, memory_mib=512.0
            )
            self._writer.status(step=step)

    def close(self) -> None:
        self._is_over.set()
        self._thread.join()
        self._writer.close()


def first_paint(home: Path, times: int = 7) -> None:
    """CPU seconds and wall time from the start to the first full screen."""
    for label, arguments, words in (
        ("list of runs", [], b"loss trend"),
        ("monitor", ["--run", "small"], b"gradient norm"),
    ):
        cpu, wall = [], []
        for _ in range(times):
            with terminal(arguments, home) as shown:
                wall.append(shown.until(words))
                cpu.append(shown.cpu_seconds())
        report(f"first paint, {label}", cpu, "s CPU", 0.8, f"wall {statistics.median(wall):.2f} s")


def keys(home: Path, arguments: list[str], label: str, pressed: int = 60) -> None:
    """Milliseconds from a key to the first byte of what it changes."""
    with terminal(arguments, home) as shown:
        shown.until(b"gradient norm")
        shown.settle(0.4)
        found, cpu = [], []
        for number in range(pressed):
            # Down and up, in and out: each changes what is on the screen.
            key = (b"j", b"k", b"+", b"-", b"l", b"l")[number % 6]
            busy, begin = shown.cpu_seconds(), time.perf_counter()
            shown.press(key)
            while not shown.read(2.0):
                pass
            found.append((time.perf_counter() - begin) * 1000)
            shown.settle(0.06)
            cpu.append((shown.cpu_seconds() - busy) * 1000)
        beside = f"90% below {sorted(found)[int(0.9 * pressed)]:.0f} ms"
        report(f"key to paint, {label}", found, "ms", 80, beside)


def traffic(home: Path, arguments: list[str], label: str, seconds: float = 20.0) -> None:
    """Bytes a second to a terminal of 120x40 while nobody presses a key."""
    with terminal(arguments, home) as shown:
        shown.until(b"gradient norm" if arguments else b"loss trend")
        shown.settle(0.3) if not arguments else time.sleep(1.0)
        shown.read(0.01)
        before, busy, begin = shown.num_bytes, shown.cpu_seconds(), time.perf_counter()
        while time.perf_counter() - begin < seconds:
            shown.read(0.2)
        rate = (shown.num_bytes - before) / seconds / 1000
        share = 100 * (shown.cpu_seconds() - busy) / seconds
        report(f"to the terminal, {label}", [rate], "KB/s", 25, f"{share:.1f}% of a core")


def opening(home: Path, name: str, num_rows: int) -> None:
    """CPU seconds from opening an indexed run to its charts, and what its first reading takes."""
    code = f"""
import time
from pathlib import Path
from loba_tui.core.run.directory import RunDir
from loba_tui.client.metrics.index import SeriesIndex
from loba_tui.client.metrics.window import window
run = RunDir(Path({str(home / "output")!r}) / {name!r})
begin = time.process_time()
index = SeriesIndex(run, Path({str(home / "cache" / "loba")!r}))
while index.update():
    pass
for series in index.names[:6]:
    window(index, series, first=1, last={num_rows}, num_columns=160, smoothing=0.9)
print(time.process_time() - begin)
"""
    shutil.rmtree(home / "cache", ignore_errors=True)
    found = [
        float(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout)
        for _ in range(4)
    ]
    beside = f"the first time {found[0]:.1f} s"
    report(f"opening {num_rows:,} rows again", found[1:], "s CPU", 0.5, beside)


def memory(home: Path, num_rows: int) -> None:
    """Growth of the viewer while so many rows are appended to the run that it shows."""
    run = record(home, "growing", 20_000)
    with terminal(["--run", str(run.path)], home) as shown:
        shown.until(b"gradient norm")
        wait(shown, 10.0)
        before = shown.memory_mib()
        rng, step = random.Random(2), 20_000
        peak = before
        with run.metrics.path.open("a") as stream:
            while step < 20_000 + num_rows:
                for _ in range(20_000):
                    step += 1
                    stream.write(row(step, rng.random(), rng.random()))
                stream.flush()
                wait(shown, 0.5)
                peak = max(peak, shown.memory_mib())
        deadline = time.monotonic() + 240
        while num_indexed(home) < step:
            if time.monotonic() > deadline:
                raise SystemExit(f"only {num_indexed(home)} of {step} rows were read")
            wait(shown, 0.5)
            peak = max(peak, shown.memory_mib())
        wait(shown, 5.0)
        after = shown.memory_mib()
    beside = f"from {before:.1f} MiB, peak {peak:.1f} MiB"
    report(f"memory over {num_rows:,} rows", [after - before], "MiB", 5, beside)


def num_indexed(home: Path) -> int:
    """Return how many rows of the run that grows its viewer has read."""
    found = [json.loads(path.read_text()) for path in home.glob("cache/loba/series/*/meta.json")]
    return max((meta["num_rows"] for meta in found if "growing" in meta["source"]), default=0)


def wait(shown: Terminal, seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        shown.read(0.1)


def report(what: str, found: list[float], unit: str, limit: float, beside: str = "") -> None:
    middle = statistics.median(found)
    print(f"{what:44} {middle:8.2f} {max(found):8.2f} {limit:7g}  {unit:6} {beside}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--only", default="paint,keys,bytes,memory,open")
    arguments = parser.parse_args()
    wanted = arguments.only.split(",")
    print(f"{'':44} {'median':>8} {'max':>8} {'limit':>7}  unit")
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        record(home, "small", 1000)
        measured: dict[str, Callable[[], None]] = {"paint": lambda: first_paint(home)}
        for name in wanted:
            if name in measured:
                measured[name]()
        big = None
        if {"open", "keys"} & set(wanted):
            big = record(home, "big", arguments.rows)
            opening(home, big.name, arguments.rows)
        if "keys" in wanted and big is not None:
            keys(home, ["--run", str(big.path)], f"{arguments.rows:,} rows")
        if {"keys", "bytes"} & set(wanted):
            live = Live(home)
            try:
                time.sleep(3.0)
                if "keys" in wanted:
                    keys(home, ["--run", str(live.run.path)], "a live run")
                if "bytes" in wanted:
                    traffic(home, ["--run", str(live.run.path)], "monitor of a live run")
                    traffic(home, [], "list with a live run")
            finally:
                live.close()
        if "memory" in wanted:
            memory(home, arguments.rows)


if __name__ == "__main__":
    main()
