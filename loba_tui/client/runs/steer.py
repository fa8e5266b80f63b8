"""Steer a run, resume it, stop it, remove it."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from typing import Any

from loba_tui.core.errors import InUseError, RecipeError, RefusedError, ResourceError
from loba_tui.core.plugins import Plugins
from loba_tui.core.run import launch, owner
from loba_tui.core.run.control import LIVE_KEYS, MEMORY_KINDS, Command, CommandKind, send
from loba_tui.core.run.directory import RunDir
from loba_tui.core.run.queue import Queue
from loba_tui.core.run.reader import RunReader
from loba_tui.core.run.records import Event, Status, encode
from loba_tui.core.text import clean, did_you_mean, quote
from loba_tui.core.units import show_mib

POLL_SECONDS = 0.1
ANSWER_SECONDS = 10.0
_SIGNAL_AFTER_SECONDS = 2.0
_STOP_SECONDS = 60.0
_RESUMABLE = ("stopped", "failed", "dead", "unknown")


def steer(run_dir: RunDir, command: Command, *, seconds: float = ANSWER_SECONDS) -> str:
    """Send a command to a living run, wait for its answer, and return it as a sentence.

    Raises:
        RecipeError: The run is not alive, or refuses.
    """
    run_dir.require_safe()
    require_alive(run_dir, command.kind)
    reader = RunReader(run_dir)
    reader.skip_to_end()
    name = send(run_dir, command)
    answer = _answer(reader, name, seconds)
    if answer is None:
        return f"{command.kind} is sent; the run takes it at its next step boundary"
    if not answer.data.get("accepted"):
        raise RecipeError(
            clean(answer.data.get("message", "the run refuses")), clean(answer.data.get("hint", ""))
        )
    return _told(answer)


def require_alive(run_dir: RunDir, what: str) -> None:
    """Raise RecipeError where no program works on the run."""
    liveness = RunReader(run_dir).liveness()
    if not liveness.is_alive:
        is_resumable = liveness.state in _RESUMABLE
        raise RecipeError(
            f"{run_dir.name} cannot {what}: it is {liveness.state} ({clean(liveness.reason)}).",
            f"Go on with: loba runs resume {run_dir.name}" if is_resumable else "",
        )


def _answer(reader: RunReader, name: str, seconds: float) -> Event | None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        for event in reader.new_events():
            if event.kind == "command" and event.data.get("id") == name:
                return event
        if not reader.liveness().is_alive:
            return None
        time.sleep(POLL_SECONDS)
    return None


def _told(answer: Event) -> str:
    data = answer.data
    where = f"at step {clean(data.get('step'))}"
    if data.get("command") == "set":
        change = f"{quote(data.get('old'))} → {quote(data.get('new'))}"
        return f"{clean(data.get('key'))}  {change}  {where}"
    if data.get("command") in MEMORY_KINDS:
        num_bytes = data.get("bytes")
        size = f"{show_mib(num_bytes)}  " if isinstance(num_bytes, int) else ""
        return f"{clean(data.get('command'))}ed {clean(data.get('component'))}  {size}{where}"
    words = {"pause": "paused", "resume": "goes on", "save": "saved", "sample": "sampled"}
    return f"{words.get(str(data.get('command')), 'done')} {where}"


def set_command(run_dir: RunDir, assignment: str, plugins: Plugins) -> Command:
    """Return the command for `KEY=VALUE`, checked by the run's own recipe.

    Raises:
        RecipeError: The key cannot be changed while a run goes on, or the value does not fit.
    """
    from loba_tui.core.recipe.load import load_recipe

    key = assignment.partition("=")[0].strip()
    if key not in LIVE_KEYS:
        listed = f"What can be: {', '.join(LIVE_KEYS)}."
        raise RecipeError(
            f"{clean(key)} cannot be changed while a run goes on.",
            did_you_mean(key, LIVE_KEYS, listed),
        )
    value: Any = load_recipe(run_dir.recipe, [assignment], plugins=plugins).model_dump(mode="json")
    for part in key.split("."):
        value = value[part]
    return Command("set", {"key": key, "value": value})


def memory_command(run_dir: RunDir, kind: CommandKind, component: str) -> Command:
    """Return the command that moves a component, checked by what the run says it has.

    Raises:
        RecipeError: It has no such component.
    """
    status = RunReader(run_dir).status()
    extra = status.extra if status is not None else {}
    resident, unloaded = extra.get("resident"), extra.get("unloaded")
    if isinstance(resident, list) and isinstance(unloaded, list):
        known = [str(each.get("component")) for each in resident if isinstance(each, dict)]
        known += [str(each) for each in unloaded]
        if component not in known:
            raise RecipeError(
                f"The model of {run_dir.name} has no component {clean(component)}.",
                did_you_mean(component, known, f"It has {clean(', '.join(known), limit=200)}."),
            )
    return Command(kind, {"component": component})


def stop(run_dir: RunDir, queue: Queue, *, seconds: float = _STOP_SECONDS) -> str:
    """Have a run save and end, wait until it has, and say how far it came.

    A program that is not at its steps, but loads or measures, is sent a signal.

    Raises:
        RecipeError: It is not alive.
        ResourceError: It does not end in time.
    """
    run_dir.require_safe()
    if queue.find(run_dir) is not None and not RunReader(run_dir).liveness().is_alive:
        return take_out(run_dir, queue)
    require_alive(run_dir, "stop")
    reader = RunReader(run_dir)
    send(run_dir, Command("stop"))
    begin, was_signalled = time.monotonic(), False
    while reader.liveness().is_alive:
        waited = time.monotonic() - begin
        if waited > seconds:
            raise ResourceError(
                f"{run_dir.name} has not stopped within {seconds:.0f} s.",
                "It may be in a long step; `loba runs show` tells what it does.",
            )
        if waited > _SIGNAL_AFTER_SECONDS and not was_signalled:
            was_signalled = _signal(run_dir)
        time.sleep(POLL_SECONDS)
    status = reader.status()
    return f"stopped at step {status.step} of {status.total}" if status else "stopped"


def _signal(run_dir: RunDir) -> bool:
    """Ask the program to stop by SIGTERM, if it is certainly the one that holds the run."""
    process = owner.find_holder(run_dir.lock)
    if process is None:
        return False
    try:
        signal.pidfd_send_signal(process, signal.SIGTERM)
    except ProcessLookupError:
        return False
    finally:
        os.close(process)
    return True


def take_out(run_dir: RunDir, queue: Queue) -> str:
    """Take a run that waits out of the queue, and say so.

    Raises:
        InUseError: It has been started.
    """
    entry, reader = queue.find(run_dir), RunReader(run_dir)
    if reader.liveness().is_alive:
        raise InUseError(
            f"{run_dir.name} is started already.", f"End it with: loba runs stop {run_dir.name}"
        )
    if entry is not None:
        queue.remove(entry)
    if reader.liveness().state == "queued":
        stopped = Status("stopped", 0, 0, time.time())
        run_dir.status.replace(encode(stopped.as_json()))
    return f"{run_dir.name} is taken out of the queue"


def resume(run_dir: RunDir, program: Sequence[str]) -> str:
    """Let a paused run go on, or start one that has ended before its last step again.

    Raises:
        RecipeError: There is nothing to resume.
    """
    reader = RunReader(run_dir)
    liveness, status = reader.liveness(), reader.status()
    if liveness.is_alive and status is not None and status.phase == "paused":
        return steer(run_dir, Command("resume"))
    if liveness.state not in _RESUMABLE:
        raise RecipeError(
            f"{run_dir.name} is {liveness.state} ({clean(liveness.reason)}): nothing to resume.",
            f"More steps: loba run --resume {run_dir.name} --set train.steps=N"
            if liveness.state == "finished"
            else "",
        )
    launch.launch(run_dir, argv_extra=["--resume"], program=program)
    return "started again; follow it with: loba runs logs -f " + run_dir.name


def size_of(run_dir: RunDir) -> int:
    """Return the bytes that a run folder takes, links not followed."""
    return sum(facts.st_blocks * 512 for _, facts in run_dir.folder.walk())


def refuse_removal(run_dir: RunDir) -> None:
    """Refuse to delete what is in use, what is no run of ours, and what reaches elsewhere.

    Raises:
        InUseError: It is alive, or waits for its turn.
        RefusedError: It is no run, or holds what is not this user's own file or folder.
    """
    run_dir.require_safe()
    if not run_dir.is_ours():
        raise RefusedError(
            f"{clean(run_dir.path)} does not say that it is a run of LOBA-Trainer.",
            "Nothing is removed; delete it yourself if you know what it is.",
        )
    liveness = RunReader(run_dir).liveness()
    if liveness.is_alive or liveness.state == "queued":
        raise InUseError(
            f"{run_dir.name} is {liveness.state}: {clean(liveness.reason)}.",
            f"End it first: loba runs stop {run_dir.name}",
        )


def remove(run_dir: RunDir) -> None:
    """Delete a run folder that nobody uses.

    Raises:
        InUseError: A program has taken the run.
        ResourceError: It cannot be deleted.
    """
    refuse_removal(run_dir)
    lock = owner.acquire(run_dir.lock)  # held, so that no program takes the run meanwhile
    try:
        run_dir.folder.remove_all(last=run_dir.marker.name)
    except OSError as error:
        raise ResourceError(
            f"{run_dir.path} cannot be removed: {error.strerror or error}."
        ) from error
    finally:
        os.close(lock)
