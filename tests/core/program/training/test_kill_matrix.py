"""A bounded sample of `benchmarks/kill_matrix.py`; CONTRIBUTING.md says how to run thousands."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parents[4] / "benchmarks" / "kill_matrix.py"


@pytest.mark.slow
def test_killed_and_resumed_runs_end_in_the_same_bytes(tmp_path: Path) -> None:
    # A process of its own: it forks, and must not hold what other tests have loaded or locked.
    done = subprocess.run(
        [sys.executable, str(PROGRAM), "--kills", "6"],
        env={**os.environ, "OMP_NUM_THREADS": "1", "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    counts = dict(
        re.findall(r"^(different|unresumable|left behind|in all) +(\d+)", done.stdout, re.M)
    )
    assert counts == {"in all": "6", "different": "0", "unresumable": "0", "left behind": "0"}
