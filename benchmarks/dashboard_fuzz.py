"""Random keys, sizes and hostile runs on every screen of the dashboard: no traceback may come.

python benchmarks/dashboard_fuzz.py --keys 10000
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import random
import sys
import tempfile
import time
from pathlib import Path

from bench_options import numbers_of

from loba_tui.app import LobaApp
from loba_tui.client.context import Context
from loba_tui.core.plugins import SHIPPED
from loba_tui.core.run.directory import Ledger, RunDir
from loba_tui.core.run.writer import RunWriter
from loba_tui.core.text import clean

HOSTILE = (
    "\x1b]0;owned\x07\x1b[2J",
    "[/bold][@click=app.quit]x[/]",
    "\u202egnp.exe",
    "a\x00b\x07\x08\x7f\x9b31m",
    "e\u0301\u0327" * 40,
    "👩‍👩‍👧‍👦漢字ﷺ",
    "\ud800\udfff",
    "x" * 5000,
    "$(rm -rf ~) `id` %s {0} \\",
    "",
)
NAMED = (
    *("up", "down", "left", "right", "home", "end", "pageup", "pagedown", "enter", "escape"),
    *("tab", "shift+tab", "space", "backspace", "delete", "ctrl+a", "ctrl+b", "ctrl+c", "ctrl+d"),
    *("ctrl+g", "ctrl+n", "ctrl+p", "ctrl+u", "ctrl+z", "f1", "f12", "insert"),
)
CHARACTERS = "12345jkgGvaondcXRPSIyzpe+-0[],.lsf=?:/LHN!<>x \u202e漢é'\"\\"
NAMES = {
    **{"+": "plus", "-": "minus", "[": "left_square_bracket", "]": "right_square_bracket"},
    **{",": "comma", ".": "full_stop", "=": "equals_sign", "?": "question_mark", ":": "colon"},
    **{"/": "slash", "!": "exclamation_mark", "<": "less_than_sign", ">": "greater_than_sign"},
    **{" ": "space", "'": "apostrophe", '"': "quotation_mark", "\\": "backslash"},
}


class Endless(LobaApp):
    """A dashboard that `q` does not leave."""

    async def action_quit(self) -> None:
        """Stay."""


def make_runs(home: Path, rng: random.Random) -> None:
    """Record runs whose every text is hostile."""
    ledger = Ledger.of_user({"XDG_STATE_HOME": str(home / "state")})
    for number, text in enumerate(HOSTILE):
        # A folder whose name has control characters is no run; all other text may have them.
        name = clean(text.replace("/", "_"))[:80].encode("utf-8", "ignore").decode()
        run = RunDir.create(home / "output", f"{number}{name}", ledger=ledger)
        raw = text.encode("utf-8", "replace")
        run.recipe.path.write_bytes(b"method:\n  name: " + raw + b"\n")
        with RunWriter.open(run) as writer:
            writer.status(phase=rng.choice(["training", "finished", "failed", text[:20]]), total=50)
            writer.event("built", device=text, dtype=text)
            for step in range(1, rng.choice([0, 1, 30, 400]) + 1):
                loss = rng.choice([math.nan, math.inf, 1e300, -1.0, 0.5, 0.25])
                writer.metric(step=step, loss=loss, lr=1e-4, seconds=0.1, **{text[:30] or "x": 1})
            writer.event("warning", message=text)
            writer.event(text[:30] or "saved", step=text, path=text)
            writer.event("failed", message=text, hint=text, traceback=text)
            phase = rng.choice(["training", "stopped", "failed"])
            writer.status(phase=phase, step=7, residents=[text])
        run.log.path.write_bytes((raw + b"\n") * 50)
        (run.samples.path / "step-000001.png").write_bytes(b"\x89PNG\r\n\x1a\n" + raw)
        with run.metrics.path.open("ab") as stream:
            stream.write(b'{"step": 1e999}\n{"step": -5}\n{"step": 3}\n[[[\n{"step": 9, "loss": "')
    odd = home / "output" / "odd"
    odd.mkdir()
    (odd / "status.json").write_text(json.dumps({"phase": "training", "step": "x"}))
    ledger.register(RunDir(odd))


def key(rng: random.Random) -> str:
    """Return a key as Textual's pilot names it."""
    if rng.random() < 0.3:
        return rng.choice(NAMED)
    character = rng.choice(CHARACTERS)
    return NAMES.get(character, character)


async def fuzz(home: Path, *, num_keys: int, seed: int, pace: float = 0.0) -> int:
    """Press random keys in random sizes; return how many were pressed.

    An exception in the app ends it and is raised here.
    """
    rng = random.Random(seed)
    make_runs(home, rng)
    environ = {
        "XDG_STATE_HOME": str(home / "state"),
        "XDG_CONFIG_HOME": str(home / "config"),
        "XDG_CACHE_HOME": str(home / "cache"),
        "HF_HOME": str(home / "hub"),
        "COLORTERM": rng.choice(["truecolor", ""]),
        "TERM": "xterm",
    }
    context = Context(
        environ=environ,
        out_dir=home / "output",
        # What is started here ends at once.
        program=(sys.executable, "-c", "pass"),
        seconds=0.2,
        plugins=SHIPPED,
    )
    app = Endless(context)
    async with app.run_test(size=(80, 24)) as pilot:
        for number in range(num_keys):
            if rng.random() < 0.03:
                width = rng.choice([1, 2, 10, 59, 60, 80, 84, 85, 120, 200, 300])
                height = rng.choice([1, 2, 5, 14, 15, 24, 40, 60, 100])
                await pilot.resize_terminal(width, height)
            await pilot.press(key(rng))
            if pace:
                await pilot.pause(pace)
            if number % 50 == 49:
                await pilot.pause(0.05)
        return num_keys


def main() -> None:
    arguments = numbers_of(__doc__, keys=10_000, seed=0)
    begin, pressed, seed = time.perf_counter(), 0, arguments.seed
    while pressed < arguments.keys:
        with tempfile.TemporaryDirectory() as folder:
            # Nothing that is saved or started by chance may touch the checkout.
            os.chdir(folder)
            num = min(1000, arguments.keys - pressed)
            pressed += asyncio.run(fuzz(Path(folder), num_keys=num, seed=seed))
            os.chdir("/")
        print(f"seed {seed}: {pressed} keys without a traceback", flush=True)
        seed += 1
    print(f"{pressed} keys, {time.perf_counter() - begin:.0f} s")


if __name__ == "__main__":
    main()
