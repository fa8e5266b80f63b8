"""Each file operation of a save fails once, with each fault; nothing may be lost.

`benchmarks/fault_matrix.py` prints the same as a table.
"""

from __future__ import annotations

from pathlib import Path

import fault_matrix
import pytest


@pytest.mark.slow
@pytest.mark.parametrize(
    "scenario", [pytest.param(each, id=each.name) for each in fault_matrix.scenarios()]
)
def test_nothing_is_lost_whichever_file_operation_fails(
    scenario: fault_matrix.Scenario, tmp_path: Path
) -> None:
    made = list(fault_matrix.attempts(scenario, tmp_path))
    assert len(made) >= 3 * 8
    assert {attempt.outcome for attempt in made} >= {"killed"}
    assert [attempt for attempt in made if attempt.loss] == []
