"""Options about processes that would mean nothing are refused, not taken and forgotten."""

from __future__ import annotations

import pytest
from program_runs import shape_slider

from loba_tui.client.launching.place import Wanted, shape_of
from loba_tui.core.errors import RecipeError


@pytest.mark.parametrize(
    ("wanted", "option"),
    [
        (Wanted(iface="lo"), "--iface"),
        (Wanted(port=2000), "--port"),
        (Wanted(restarts=0), "--restarts"),
        (Wanted(processes=1, remote_python="/usr/bin/python3"), "--remote-python"),
    ],
)
def test_one_process_takes_no_way_of_starting_several(wanted: Wanted, option: str) -> None:
    with pytest.raises(RecipeError, match=f"^{option} is for a run of several processes"):
        shape_of(wanted, shape_slider(1))
    assert shape_of(Wanted(processes=2, restarts=0), shape_slider(1)) is not None
