"""`loba export`: a run's own file copied out, or what the program is asked to write."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from loba_tui.client.runs.requests import about_several
from loba_tui.client.runs.resolve import find_run, split_strength, unfinished
from loba_tui.core.adapter_keys.twin_files import twin_paths
from loba_tui.core.associate.safe_files import check_safetensors
from loba_tui.core.errors import RecipeError, RefusedError, ResourceError
from loba_tui.core.files import staged
from loba_tui.core.run.directory import Ledger, RunDir
from loba_tui.core.run.launch import Request
from loba_tui.core.text import clean
from loba_tui.core.units import show_mib
from loba_tui.core.user_folders import with_home

Form = Literal["diffusers", "kohya", "peft", "comfy"]


@dataclass(frozen=True)
class Export:
    """An adapter, and the form that it is to be written in.

    Attributes:
        adapter: A run or a file, with or without a strength.
        dtype: None leaves the weights as they are, or makes them fp32 where they are made anew.
        rank: Most that a layer may have; None keeps all of it.
        into: The checkpoint that it is baked into; None for none.
        out: None makes a name.
        twins: A plus and a minus file, whose names are made of this one.
    """

    adapter: str
    form: Form
    dtype: Literal["fp32", "fp16", "bf16"] | None
    rank: int | None
    into: Path | None
    out: Path | None
    replace: bool
    twins: bool = False


def plain_run(wanted: Export, ledger: Ledger) -> RunDir | None:
    """Return the run whose own file is what is wanted; None where one has to be written.

    Raises:
        RecipeError: Neither a file nor a run has this name.
    """
    if Path(wanted.adapter).is_file():
        return None
    if wanted.dtype or wanted.rank or wanted.into or wanted.twins or wanted.form == "peft":
        return None
    name, strength = split_strength(wanted.adapter, "RUN")
    if strength != 1.0 or Path(name).is_file():
        return None
    return find_run(name, ledger)


def export_request(wanted: Export, ledger: Ledger) -> Request:
    """Return the request to write an adapter in a form, or into a checkpoint.

    Raises:
        LobaError: The adapter is none, or the new file is there already.
    """
    request = about_several("export", [wanted.adapter], ledger, option="RUN|FILE@SCALE")
    ((path, strength),) = request.several
    source = Path(path)
    if request.run is not None and wanted.into is None:
        # A DoRA's own file depends on the base model; its other one is a LoRA.
        other = RunDir.open(request.run).adapter_other
        if source.name == "adapter.safetensors" and other.is_there():
            source = other.path
    target = _target(wanted, Path(request.run) if request.run else Path(path))
    into = ""
    if wanted.twins and wanted.into is not None:
        raise RecipeError("--into bakes one strength: leave out --twins, or name FILE@-1.")
    if wanted.into is not None:
        if wanted.rank or wanted.dtype:
            raise RecipeError("--into bakes the adapter as it is: leave out --rank and --dtype.")
        if not with_home(wanted.into).is_file():
            raise RecipeError(f"There is no {wanted.into}.", "Name a .safetensors checkpoint.")
        into = str(with_home(wanted.into).absolute())
    return replace(
        request,
        several=((str(source), strength),),
        rank=wanted.rank,
        file=str(target),
        file_format=wanted.form,
        weights_dtype=wanted.dtype or "fp32",
        into=into,
        twins=wanted.twins,
    )


def _target(wanted: Export, adapter: Path) -> Path:
    """Return the new file, which is made below the working directory, or beside a checkpoint."""
    name = adapter.name.removesuffix(".safetensors")
    if wanted.into is not None:
        into = with_home(wanted.into)
        made = into.with_name(f"{into.name.removesuffix('.safetensors')}+{name}.safetensors")
    else:
        made = Path(f"{name}.{wanted.form}{'' if wanted.form == 'peft' else '.safetensors'}")
    target = with_home(wanted.out) if wanted.out is not None else made
    if wanted.twins:
        return _twin_target(target, made, wanted)
    if wanted.form == "peft" and wanted.into is None:
        if target.is_file():
            raise RefusedError(f"{target} is a file.", "Name a folder by --out.")
    elif target.is_dir():
        target = target / made.name
    if target.suffix != ".safetensors" and (wanted.form != "peft" or wanted.into is not None):
        raise RecipeError(f"--out: {target.name} is not a .safetensors file.")
    if target.exists() and not wanted.replace:
        raise RefusedError(f"{target} exists already.", "Add --yes to replace it.")
    return target.absolute()


def _twin_target(target: Path, made: Path, wanted: Export) -> Path:
    """Return the name that both twins' names are made of."""
    if target.is_dir():
        target = target / made.name
    if wanted.form != "peft" and target.suffix != ".safetensors":
        raise RecipeError(f"--out: {target.name} is not a .safetensors file.")
    for twin in twin_paths(target):
        if twin.exists() and not wanted.replace:
            raise RefusedError(f"{twin} exists already.", "Add --yes to replace it.")
    return target.absolute()


def export_adapter(run_dir: RunDir, file_format: str, out: Path | None, *, replace: bool) -> Path:
    """Copy a run's adapter in one format out of its folder and return the new file.

    Raises:
        LobaError: The run is not finished, the file exists, or it cannot be written.
    """
    source = run_dir.adapter
    if file_format != "diffusers":
        source = run_dir.adapter_other if file_format == "comfy" else run_dir.adapter_kohya
    if not source.is_there() and run_dir.adapter_comfy.is_there():
        raise RefusedError(
            f"The adapter of {clean(run_dir.path)} is a transformer's; kohya's form is a UNet's.",
            "Take --format comfy.",
        )
    if not source.is_there() and run_dir.adapter.is_there():
        raise RefusedError(
            f"The adapter of {clean(run_dir.path)} has no form for {file_format}.",
            "Its kind is read by PEFT alone: see the folder adapter/peft of the run.",
        )
    if not source.is_there():
        raise unfinished(run_dir)
    check_safetensors(source)
    target = (
        with_home(out) if out is not None else Path(f"{run_dir.name}.{file_format}.safetensors")
    )
    if target.is_dir():
        target = target / f"{run_dir.name}.{file_format}.safetensors"
    if target.exists() and not replace:
        raise RefusedError(f"{target} exists already.", "Add --yes to replace it.")
    try:
        size, free = source.stat().st_size, shutil.disk_usage(target.absolute().parent).free
        if size > free:
            raise ResourceError(f"{show_mib(size)} are needed, and {show_mib(free)} are free.")
        with staged(target) as temporary, source.open() as stream, temporary.open("xb") as copy:
            shutil.copyfileobj(stream, copy)
    except OSError as error:
        raise ResourceError(
            f"{target} cannot be written: {error.strerror or error}.",
            "Choose another place with --out.",
        ) from error
    return target
