"""The keeper of a host's processes: nothing that it has started outlives it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from loba_tui.core.errors import ResourceError
from loba_tui.core.run.launching.on_host import MARK, Orders, environ_of
from loba_tui.core.run.records import encode

KEEPER = (sys.executable, "-P", "-m", "loba_tui.core.run.launching.on_host")
# As torchrun does: ranks in sessions of their own, one of which hears no SIGTERM.
LIKE_TORCHRUN = """
import signal, subprocess, sys, time
rank = "import os, signal, sys, time;"
rank += "signal.signal(signal.SIGUSR1, lambda *_: open(sys.argv[1], 'a').write('heard\\\\n'));"
rank += "signal.signal(signal.SIGTERM, signal.SIG_IGN);"
rank += "open(sys.argv[1], 'a').write(f'{os.getpid()}\\\\n'); time.sleep(600)"
argv = [sys.executable, "-c", rank, sys.argv[1]]
ranks = [subprocess.Popen(argv, start_new_session=True) for _ in range(2)]
ranks[0].wait()
"""


def orders(argv: list[str], mark: str, **changes: object) -> Orders:
    facts = {"folder": "/", "environ": {}, "iface": None, "towards": "127.0.0.1", "slots": 2}
    return Orders(**{"argv": tuple(argv), "mark": mark, "recipe": None, **facts, **changes})


@contextmanager
def kept(told: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Lend a keeper of two ranks, which have written their pids to a file."""
    keeper = subprocess.Popen(KEEPER, stdin=subprocess.PIPE)
    assert keeper.stdin is not None
    try:
        argv = [sys.executable, "-c", LIKE_TORCHRUN, str(told)]
        keeper.stdin.write(orders(argv, str(told)).line())
        keeper.stdin.flush()
        wait_until(lambda: told.exists() and told.read_text().count("\n") == 2)
        yield keeper
    finally:
        keeper.kill()
        keeper.wait()
        for line in told.read_text().split() if told.exists() else []:
            if line.isdecimal() and is_alive(int(line)):
                os.kill(int(line), signal.SIGKILL)


def wait_until(is_so: object, seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not is_so():  # type: ignore[operator]
        assert time.monotonic() < end
        time.sleep(0.02)


def is_alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_signals_reach_the_ranks_and_all_end_with_the_input(tmp_path: Path) -> None:
    told = tmp_path / "told"
    with kept(told) as keeper:
        ranks = [int(line) for line in told.read_text().split()]
        assert keeper.stdin is not None
        keeper.stdin.write(encode({"signal": int(signal.SIGUSR1)}))
        keeper.stdin.flush()
        wait_until(lambda: told.read_text().count("heard") == 2)
        keeper.stdin.close()
        keeper.wait(20)
        assert not any(map(is_alive, ranks))


def test_ranks_end_with_a_torchrun_that_is_killed(tmp_path: Path) -> None:
    told = tmp_path / "told"
    with kept(told) as keeper:
        ranks = [int(line) for line in told.read_text().split()]
        torchrun = psutil.Process(ranks[0]).parent()
        assert torchrun is not None
        torchrun.kill()
        assert keeper.wait(20) != 0
        assert not any(map(is_alive, ranks))


def test_what_an_earlier_keeper_left_behind_is_killed_first(tmp_path: Path) -> None:
    told = tmp_path / "told"
    left = subprocess.Popen(["sleep", "600"], env={**os.environ, MARK: str(told)})
    other = subprocess.Popen(["sleep", "600"], env={**os.environ, MARK: f"{told}/other"})
    try:
        with kept(told):
            assert left.wait(20) == -signal.SIGKILL
            assert other.poll() is None
    finally:
        for each in (left, other):
            each.kill()
            each.wait()


def test_the_interface_is_the_one_that_leads_to_the_meeting_place() -> None:
    found = environ_of(orders(["x"], "m"), {"NCCL_SOCKET_IFNAME": "eth7", "A": "b"})
    assert found["GLOO_SOCKET_IFNAME"].startswith("lo")
    assert found["NCCL_SOCKET_IFNAME"] == "eth7"  # the user knows better
    assert (found["A"], found[MARK]) == ("b", "m")
    assert environ_of(orders(["x"], "m", iface="eth1"), {})["GLOO_SOCKET_IFNAME"] == "eth1"
    with pytest.raises(ResourceError, match=r"nowhere\.invalid"):
        environ_of(orders(["x"], "m", towards="nowhere.invalid"), {})
