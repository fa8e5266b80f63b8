"""The requests that `loba sample`, `eval`, `merge` and `interfere` make of the program."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from loba_tui.client.runs.resolve import find_run, resolve_adapter, split_strength
from loba_tui.core.errors import RecipeError, ResourceError
from loba_tui.core.files import PRIVATE_DIR_MODE, unwritable
from loba_tui.core.run.directory import Ledger, RunDir
from loba_tui.core.run.launch import Action, Request
from loba_tui.core.text import quote
from loba_tui.core.user_folders import with_home

Number = TypeVar("Number", int, float)


def about_one(action: Action, adapter: Path) -> Request:
    """Return the request about a run's adapter, or about an adapter file.

    Raises:
        LobaError: It is neither, or not finished.
    """
    file, run_dir = resolve_adapter(adapter)
    return Request(action, str(file), run=str(run_dir.path) if run_dir else None, out_dir="")


def about_several(
    action: Action, texts: Sequence[str], ledger: Ledger, *, option: str = "ADAPTER@SCALE"
) -> Request:
    """Return the request about several adapters, each `ADAPTER@SCALE`.

    Raises:
        LobaError: One is neither a run nor an adapter file, or not finished.
    """
    several, runs = [], []
    for text in texts:
        name, strength = split_strength(text, option)
        path = Path(name) if Path(name).exists() else find_run(name, ledger).path
        file, run_dir = resolve_adapter(path)
        several.append((str(file.absolute()), strength))
        runs.append(str(run_dir.path) if run_dir else None)
    # Model, prompts and measure are the first one's.
    return Request(action, several[0][0], run=runs[0], out_dir="", several=tuple(several))


@dataclass(frozen=True)
class Images:
    """Which images are drawn of adapters.

    Attributes:
        prompts: None given takes the recipe's.
        scales: A list such as -2,0,2; empty takes the recipe's, or 0 and 1 for several adapters.
        seeds: A list; empty takes the recipe's.
    """

    prompts: tuple[str, ...]
    scales: str
    seeds: str

    def added_to(self, request: Request) -> Request:
        """Return a request about adapters that asks for these images.

        Raises:
            RecipeError: A list cannot be read, or would show nothing.
        """
        scales = tuple(_numbers("--scales", self.scales, float, -20.0, 20.0))
        if scales and not any(scales):
            raise RecipeError(
                "--scales: at scale 0 an adapter does nothing, so there is nothing to see.",
                "Give at least one other scale, as in --scales -2,0,2",
            )
        if not scales and request.several:
            scales = (0.0, 1.0)
        return replace(
            request,
            prompts=self.prompts,
            scales=scales,
            seeds=tuple(_numbers("--seeds", self.seeds, int, 0, 2**63 - 1)),
        )


def _numbers(
    option: str, text: str, kind: Callable[[str], Number], least: Number, most: Number
) -> list[Number]:
    values = []
    for word in text.replace(",", " ").split():
        try:
            value = kind(word)
        except ValueError:
            value = None
        if value is None or not least <= value <= most:
            raise RecipeError(
                f"{option}: {quote(word)} is not a number from {least} to {most}.",
                f"Write the list as in {option} {'-2,0,2' if least < 0 else '0,1'}",
            )
        values.append(value)
    return values


def _requests_of(run_dir: RunDir) -> Path:
    """Return the folder in a run that requests about its adapter report to."""
    folder = run_dir.folder.folder("requests")
    try:
        folder.make()
    except OSError as error:
        raise unwritable(folder.path, error) from error
    return folder.path


def prepare_request(request: Request, out: Path | None) -> tuple[RunDir, Request]:
    """Make the folder that a request reports to and return it with the completed request.

    Raises:
        RefusedError: The run that it is about holds what is not this user's own file or folder.
        ResourceError: The folder cannot be made.
    """
    run_dir = RunDir.open(request.run) if request.run else None
    if run_dir is not None:
        run_dir.require_safe()
    if out is None:
        parent = Path("output") if run_dir is None else _requests_of(run_dir)
        folder = RunDir.create(parent, request.action)
    else:
        folder = RunDir(Path(os.path.realpath(with_home(out))))
        try:
            folder.path.mkdir(mode=PRIVATE_DIR_MODE, parents=True, exist_ok=True)
        except OSError as error:
            raise ResourceError(
                f"{out} cannot be made: {error.strerror or error}.",
                "Choose a folder that can be written to with --out.",
            ) from error
    return folder, replace(request, out_dir=str(folder.path))
