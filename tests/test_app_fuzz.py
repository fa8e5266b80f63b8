"""A bounded sample of benchmarks/dashboard_fuzz.py, and that texts of others never get out."""

import asyncio
from pathlib import Path

import pytest
from dashboard_fuzz import fuzz


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_random_keys_sizes_and_hostile_runs_bring_no_traceback(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert asyncio.run(fuzz(tmp_path, num_keys=150, seed=seed)) == 150
