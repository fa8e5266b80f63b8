"""How long does a run take to stop when it is told to?

Starts the slider recipe, sends SIGTERM at a random moment (start, loading, training, drawing,
measuring), takes the time until the process has ended, and resumes it, again and again. It must
have saved and ended with exit code 75; the last one runs to its end, and its adapter must be that
of a run which was never stopped.

    python benchmarks/stopping.py [--times 8] [--steps 40]
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import bench
from bench_options import numbers_of

from loba_tui.core.errors import ExitCode
from loba_tui.core.plugins import SHIPPED
from loba_tui.core.recipe.load import dump_recipe, load_recipe
from loba_tui.core.run.directory import RunDir
from loba_tui.core.run.launch import PROGRAM


def main() -> int:
    arguments = numbers_of(__doc__, times=8, steps=40)
    rng = random.Random(0)
    recipe = load_recipe(
        bench.RECIPES / "slider_unet.yaml", [f"train.steps={arguments.steps}"], plugins=SHIPPED
    )
    with tempfile.TemporaryDirectory(prefix="loba-stopping-") as folder:
        environ = {**os.environ, "XDG_STATE_HOME": f"{folder}/state"}
        runs = [RunDir.create(Path(folder), name) for name in ("stopped", "unbroken")]
        for run_dir in runs:
            run_dir.recipe.path.write_text(dump_recipe(recipe))
        begin = time.monotonic()
        _start(runs[1], environ).wait()
        whole = time.monotonic() - begin
        print(f"undisturbed, the run takes {whole:.0f} s")
        slowest, wrong = 0.0, 0
        for _ in range(arguments.times):  # each goes on from the last
            process = _start(runs[0], environ)
            try:
                process.wait(timeout=rng.uniform(1, whole / 2))
                print("  it was done before it was told to stop")
                break
            except subprocess.TimeoutExpired:
                pass
            phase = _phase(runs[0])
            begin = time.monotonic()
            process.send_signal(signal.SIGTERM)
            code = process.wait()
            seconds = time.monotonic() - begin
            print(f"  {phase:10} {seconds:6.2f} s, exit {code}")
            slowest = max(slowest, seconds)
            # Before it has taken its signals over, a process ends by them.
            wrong += code not in (ExitCode.RESUMABLE, -signal.SIGTERM, ExitCode.DONE)
        code = _start(runs[0], environ).wait()
        same = all(
            getattr(runs[0], name).read_bytes() == getattr(runs[1], name).read_bytes()
            for name in ("adapter", "adapter_kohya")
        )
    print(f"slowest stop {slowest:.1f} s; other exit codes {wrong}; then exit {code}, same: {same}")
    return 0 if same and not wrong and slowest <= 30 else 1


def _start(run_dir: RunDir, environ: Mapping[str, str]) -> subprocess.Popen[bytes]:
    with run_dir.log.path.open("ab") as log:
        return subprocess.Popen(
            [*PROGRAM, "--run-dir", str(run_dir.path), "--resume"],
            env=environ,
            stdout=log,
            stderr=log,
        )


def _phase(run_dir: RunDir) -> str:
    with contextlib.suppress(OSError, ValueError):
        return str(json.loads(run_dir.status.path.read_bytes())["phase"])
    return "import"


if __name__ == "__main__":
    raise SystemExit(main())
