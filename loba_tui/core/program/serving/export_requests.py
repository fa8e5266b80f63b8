"""Requests that write files of other tools: an adapter in a form, baked in, or from two models."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from loba_tui import __version__
from loba_tui.core.adapter_keys.names import Component
from loba_tui.core.adapter_keys.twin_files import TWINS, twin_paths
from loba_tui.core.adapter_metadata import VERSION_KEY
from loba_tui.core.program.adapter_files.losses import Losses
from loba_tui.core.program.adapter_files.read.layers import AdapterFile
from loba_tui.core.program.adapter_files.read.read import read_adapter_file
from loba_tui.core.program.exporting.bake import bake
from loba_tui.core.program.exporting.checkpoints import opened_weights
from loba_tui.core.program.exporting.extract import extract
from loba_tui.core.program.exporting.forms import LoraParts, Wanted, as_lora, write_form
from loba_tui.core.run.directory import adapter_source
from loba_tui.core.run.launch import Request
from loba_tui.core.run.writer import RunWriter

LOSSES_JSON = "losses.json"


def serve_export(request: Request, writer: RunWriter) -> None:
    """Write an adapter in another form, or a checkpoint with it in its weights."""
    ((path, strength),) = request.several
    adapter = read_adapter_file(adapter_source(Path(path)))
    for note in adapter.notes():
        writer.warn(note)
    target = Path(request.file)
    target.parent.mkdir(parents=True, exist_ok=True)
    if request.into:
        progress = _progress(writer, "baking")
        baked = bake(adapter, strength, Path(request.into), target, progress)
        writer.event(
            "baked",
            path=str(baked.path),
            num_bytes=baked.num_bytes,
            sha256=baked.sha256,
            num_tensors=baked.num_tensors,
            left_out=baked.left_out,
        )
        return
    wanted = Wanted(request.file_format, request.weights_dtype, request.rank, strength)
    if not request.twins:
        _write(writer, adapter, wanted, target)
        return
    for twin, file in zip(TWINS, twin_paths(target), strict=True):
        _write(writer, adapter, replace(wanted, twin=twin), file)


def _write(writer: RunWriter, adapter: AdapterFile, wanted: Wanted, target: Path) -> None:
    parts = as_lora(adapter, wanted, _progress(writer, "exporting"))
    written, lacking = write_form(parts, adapter.metadata, wanted, target)
    _tell(writer, written.path, parts, [*parts.left_out, *lacking])


def serve_extract(request: Request, writer: RunWriter) -> None:
    """Write the LoRA that is nearest to the difference of two models."""
    (tuned_path, _), (base_path, _) = request.several
    assert request.rank is not None, "the command has a default"
    with opened_weights(Path(tuned_path)) as tuned, opened_weights(Path(base_path)) as base:
        found = extract(tuned, base, request.rank, _progress(writer, "extracting"))
        transformer = base.transformer
    metadata = {
        VERSION_KEY: __version__,
        "loba.extracted": json.dumps(
            {"tuned": Path(tuned_path).name, "base": Path(base_path).name}, sort_keys=True
        ),
    }
    component: Component = "transformer" if transformer else "unet"
    parts = LoraParts(
        {component: found.layers}, found.losses, found.left_out, family_name=transformer
    )
    wanted = Wanted(request.file_format, request.weights_dtype)
    target = Path(request.file)
    target.parent.mkdir(parents=True, exist_ok=True)
    written, lacking = write_form(parts, metadata, wanted, target)
    _tell(writer, written.path, parts, [*parts.left_out, *lacking])


def _progress(writer: RunWriter, phase: str) -> Callable[[int, int], None]:
    return lambda done, total: writer.status(phase=phase, step=done, total=total)


def _tell(writer: RunWriter, path: Path, parts: LoraParts, left_out: list[str]) -> None:
    losses = Losses.of(parts.losses)
    by_layer = {loss.layer: loss.share for loss in parts.losses}
    content = json.dumps(by_layer, indent=2, allow_nan=False) + "\n"
    worst = sorted(parts.losses, key=lambda loss: -loss.share)[:5]
    writer.event(
        "written",
        path=str(path),
        num_layers=sum(len(layers) for layers in parts.layers.values()),
        largest_rank=parts.largest_rank,
        error=losses.share,
        worst=[[loss.layer, loss.share] for loss in worst if loss.share > 0],
        losses=writer.write_file(LOSSES_JSON, content.encode()),
        left_out=left_out,
    )
