"""A bounded sample of `benchmarks/hangups.py`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parents[1] / "benchmarks" / "hangups.py"


@pytest.mark.slow
def test_a_run_does_not_notice_when_its_viewers_are_hung_up_on(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(PROGRAM), "--times", "3", "--steps", "60"],
        env={**os.environ, "OMP_NUM_THREADS": "1", "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 hang-ups" in done.stdout
