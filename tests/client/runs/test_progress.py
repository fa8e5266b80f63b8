import io

from loba_tui.client.runs.progress import PlainScreen, Progress
from loba_tui.commands.live_line import open_screen
from loba_tui.core.run.records import Metric, Status


def training(step: int, total: int = 100) -> Status:
    return Status("training", step, total, 0.0)


def test_the_line_tells_step_loss_rate_time_to_go_and_memory() -> None:
    progress = Progress()
    metrics = [Metric(step=s, time=0, loss=0.125, seconds=0.1, memory_mib=2048) for s in (1, 2)]
    progress.update(training(40), metrics)
    assert progress.text() == "training  40/100  loss 0.125  10.0 steps/s  ETA 0:06  2,048 MiB"


def test_slow_steps_are_told_in_seconds_each() -> None:
    progress = Progress()
    progress.update(training(40), [Metric(step=40, time=0, seconds=120)])
    assert progress.text() == "training  40/100  120.0 s/step  ETA 2:00:00"


def test_the_line_holds_whatever_is_known() -> None:
    progress = Progress()
    assert progress.text() == "starting"
    progress.update(Status("load\x1b[2Jing", 0, 0, 0.0), [])
    assert progress.text() == "loading"
    progress.update(training(3, total=0), [Metric(step=3, time=0, loss=float("nan"), seconds=0)])
    assert progress.text() == "training  loss nan"


def test_steps_are_not_told_where_none_are_made() -> None:
    progress = Progress()
    progress.update(Status("loading", 0, 80, 0.0), [])
    assert progress.text() == "loading"
    for phase in ("calibrating", "measuring"):
        counts = {"measured": 8, "to_measure": 16}
        progress.update(Status(phase, 80, 80, 0.0, None, counts), [])
        assert progress.text() == f"{phase}  8/16 images"
    progress.update(Status("checking data", 0, 80, 0.0), [])
    assert progress.text() == "checking data"
    progress.update(Status("checking data", 0, 80, 0.0, None, {"images": 3, "of_images": 9}), [])
    assert progress.text() == "checking data  3/9 images"


def test_a_model_that_is_fetched_is_told_with_its_size():
    progress = Progress()
    came = {"fetched": 1_200_000_000, "to_fetch": 6_900_000_000}
    progress.update(Status("loading", 0, 80, 0.0, None, came), [])
    assert progress.text() == "loading  fetched 1.2 GB of 6.9 GB"
    assert progress.num_tenths == 1
    progress.update(Status("loading", 0, 80, 0.0, None, {"fetched": 9, "to_fetch": 9}), [])
    assert progress.text() == "loading"


def test_steps_ahead_of_the_status_count() -> None:
    progress = Progress()
    progress.update(training(40), [Metric(step=45, time=0)])
    assert progress.step == 45


def test_plain_lines_come_at_tenths_or_after_ten_seconds() -> None:
    now = 0.0
    stream = io.StringIO()
    screen = PlainScreen(stream, clock=lambda: now)
    progress = Progress()
    for step in range(1001):
        progress.update(training(step, 1000), [])
        screen.show(progress)
    steps = [int(line.split()[1].split("/")[0]) for line in stream.getvalue().splitlines()]
    assert steps == [0, 100, 200, 300, 400, 500, 600, 700, 800, 900, 1000]
    now = 9.0
    screen.show(progress)
    assert len(stream.getvalue().splitlines()) == 11
    now = 10.0
    screen.show(progress)
    assert len(stream.getvalue().splitlines()) == 12


def test_without_a_terminal_lines_are_plain() -> None:
    assert isinstance(open_screen(io.StringIO(), {"TERM": "xterm"}), PlainScreen)
