"""A sweep as tasks of Ray (https://docs.ray.io): one run a task, in the foreground.

Where RAY_ADDRESS names a cluster its machines are taken, which have to see the sweep's folder and
to have LOBA-Trainer installed; else a Ray of this machine is started while the sweep lasts.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from loba_tui.client.sweeps.folder import Sweep
from loba_tui.client.sweeps.mark import SweepRun
from loba_tui.client.sweeps.results import Result, SweepReader
from loba_tui.core.errors import ResourceError
from loba_tui.core.run.launching.children import end_with_parent
from loba_tui.core.run.reader import RunReader

_POLL_SECONDS = 0.5
_STOP_SECONDS = 60.0


def require_ray() -> None:
    """Raise ResourceError where Ray is not installed."""
    try:
        import ray  # noqa: F401
    except ImportError as error:
        raise ResourceError(
            "--engine ray needs Ray, which is not installed.",
            "Install it with: pip install 'loba-trainer[ray]'",
        ) from error


def run_with_ray(
    sweep: Sweep,
    *,
    program: Sequence[str],
    environ: Mapping[str, str],
    show: Callable[[Sequence[Result]], None],
) -> None:
    """Train the runs of a sweep that are not finished, as many at once as it has slots.

    A slot of a GPU asks Ray for one GPU, a slot of the CPU for one CPU. Ctrl-C has the runs save
    and end.

    Raises:
        ResourceError: Ray is not installed, or cannot be started.
    """
    require_ray()
    import ray

    settings = sweep.settings
    num_gpus = sum(slot != "cpu" for slot in settings.slots)
    local = {} if environ.get("RAY_ADDRESS") else {"num_cpus": len(settings.slots)}
    if local and num_gpus:
        local["num_gpus"] = num_gpus
    try:
        ray.init(include_dashboard=False, log_to_driver=False, logging_level="ERROR", **local)
    except (RuntimeError, ConnectionError, ValueError, OSError) as error:
        raise ResourceError(f"Ray cannot be started: {error}.", "Look at RAY_ADDRESS.") from error
    try:
        needs = {"num_cpus": 1, "num_gpus": 1 if num_gpus else 0}
        task = ray.remote(**needs, max_retries=settings.retries)(train_run)
        extra = {**settings.environ, **({} if num_gpus else {"CUDA_VISIBLE_DEVICES": ""})}
        waiting = [each for each in sweep.runs if not _is_done(each)]
        _work_off(ray, sweep, waiting, show, lambda each: task.remote(
            [*program, "--run-dir", str(each.run.path), "--resume"], extra, settings.retries
        ))  # fmt: skip
    finally:
        ray.shutdown()


def _work_off(
    ray: Any,
    sweep: Sweep,
    waiting: list[SweepRun],
    show: Callable[[Sequence[Result]], None],
    start: Callable[[SweepRun], Any],
) -> None:
    """Keep every slot busy until nothing waits and nothing goes on."""
    going: list[Any] = []
    reader = SweepReader(sweep)
    try:
        while waiting or going:
            while waiting and len(going) < len(sweep.settings.slots):
                going.append(start(waiting.pop(0)))
            _, going = ray.wait(going, num_returns=1, timeout=_POLL_SECONDS)
            show(reader.look())
    except KeyboardInterrupt:
        # Ray's worker has a KeyboardInterrupt raised within the task, which asks its run to save.
        for each in going:
            ray.cancel(each)
        if going:
            ray.wait(going, num_returns=len(going), timeout=_STOP_SECONDS)
        raise


def _is_done(each: SweepRun) -> bool:
    return RunReader(each.run).liveness().state == "finished" or not each.run.recipe.is_there()


def train_run(argv: Sequence[str], environ: Mapping[str, str], retries: int) -> int:
    """Train one run in the foreground and return its exit status.

    A program that was killed is started again; one that ended by itself is not.
    """
    status = 0
    for _attempt in range(retries + 1):
        child = subprocess.Popen(
            list(argv),
            stdin=subprocess.DEVNULL,
            env={**os.environ, **environ},
            start_new_session=True,
            preexec_fn=end_with_parent,
        )
        try:
            status = child.wait()
        except BaseException:
            child.terminate()
            child.wait(_STOP_SECONDS)
            raise
        if status >= 0:
            break
    return status
