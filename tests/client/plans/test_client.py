"""The process that draws an editor's curves: the real one once, and how it comes and goes."""

from __future__ import annotations

import json
import os
import queue
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from loba_tui.client.plans.client import SECTIONS, Answer, PlanClient
from loba_tui.core.recipe.shipped import folder

SLIDER = (folder() / "slider_unet.yaml").read_text()
PATIENCE = 120.0

ECHO = """
import json, sys
print("a library says hello")
print(json.dumps({"ready": True}), flush=True)
for line in sys.stdin:
    request = json.loads(line)
    if request["recipe"] == "die":
        sys.exit("out of \\x1b[31mluck")
    print(json.dumps({"id": request["id"], "section": "noise", "data": {"got": request["recipe"]}}))
    print(json.dumps({"id": request["id"], "section": "unheard-of", "data": {}}), flush=True)
"""


def stand_in(tmp_path: Path) -> list[str]:
    (tmp_path / "echo.py").write_text(ECHO)
    return [sys.executable, str(tmp_path / "echo.py")]


@pytest.fixture
def answers() -> queue.Queue[Answer]:
    return queue.Queue()


@pytest.fixture
def client(tmp_path: Path, answers: queue.Queue[Answer]) -> Iterator[PlanClient]:
    made = PlanClient(answers.put, program=stand_in(tmp_path))
    yield made
    made.close()


def test_answers_come_under_the_number_of_their_question(
    client: PlanClient, answers: queue.Queue[Answer]
) -> None:
    first, second = client.ask("one"), client.ask("two")
    got = [answers.get(timeout=PATIENCE) for _ in range(2)]
    assert got == [
        Answer(first, "noise", {"got": "one"}),
        Answer(second, "noise", {"got": "two"}),
    ]


def test_a_process_that_died_is_told_once_and_started_anew(
    client: PlanClient, answers: queue.Queue[Answer]
) -> None:
    client.ask("die")
    told = answers.get(timeout=PATIENCE)
    assert (told.number, told.error) == (0, "it ended with 1: out of luck")
    number = client.ask("again")
    assert answers.get(timeout=PATIENCE) == Answer(number, "noise", {"got": "again"})


def test_a_program_that_is_not_there_is_an_answer_too(answers: queue.Queue[Answer]) -> None:
    client = PlanClient(answers.put, program=["/no/such/program"])
    client.ask("one")
    assert "cannot be started: No such file" in answers.get(timeout=PATIENCE).error


def test_closing_ends_the_process_and_says_nothing(
    client: PlanClient, answers: queue.Queue[Answer]
) -> None:
    client.ask("one")
    answers.get(timeout=PATIENCE)
    pid = client.pid
    assert pid is not None
    handle = os.pidfd_open(pid)
    client.close()
    assert select.select([handle], [], [], PATIENCE)[0]
    os.close(handle)
    assert answers.empty()


@pytest.mark.slow
def test_the_program_answers_changes_and_dies_with_its_viewer(
    answers: queue.Queue[Answer],
) -> None:
    client = PlanClient(answers.put)

    def sections(recipe: str) -> dict[str, Answer]:
        number, found = client.ask(recipe), {}
        while "needs" not in found and "" not in found:
            answer = answers.get(timeout=PATIENCE)
            assert answer.number == number
            found[answer.section] = answer
        return found

    found = sections(SLIDER)
    assert set(found) == set(SECTIONS)
    before = found["learning_rate"].data
    assert before is not None
    assert before["base"] == 5e-4
    changed = sections(SLIDER.replace("lr: 5.0e-4", "lr: 1.0e-3"))["learning_rate"].data
    assert changed is not None
    assert changed["lr"] == [2 * rate for rate in before["lr"]]
    one_bad = sections(
        SLIDER.replace("noise: {name: euler_ancestral}", "noise: {name: flow_match_euler}")
    )
    assert "is for flow-matching models" in one_bad["noise"].error
    assert one_bad["layers"].data is not None
    (wrong,) = sections("version: 1").values()
    assert "base_model: missing" in wrong.error
    client.close()


@pytest.mark.slow
def test_the_program_ends_when_its_viewer_is_killed(tmp_path: Path) -> None:
    viewer = (
        "import sys, time\n"
        "from loba_tui.client.plans.client import PlanClient\n"
        "client = PlanClient(print)\n"
        "client.ask(sys.argv[1])\n"
        "print(client.pid, flush=True)\n"
        "time.sleep(600)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", viewer, json.dumps("x")], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    pid = int(process.stdout.readline())
    handle = os.pidfd_open(pid)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert select.select([handle], [], [], PATIENCE)[0]
    os.close(handle)
