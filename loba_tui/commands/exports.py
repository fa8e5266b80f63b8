"""`loba export` and `loba extract`: adapters written for other tools, and LoRA made of models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from loba_tui.commands.adapters import answer
from loba_tui.commands.options import Replace, echo_lines, say, user_ledger
from loba_tui.core.errors import RecipeError, RefusedError
from loba_tui.core.text import clean
from loba_tui.core.units import show_mib
from loba_tui.core.user_folders import with_home

Form = Annotated[
    Literal["diffusers", "kohya", "peft", "comfy"],
    typer.Option("--format", help="Keys of the file; peft makes a folder."),
]
Dtype = Annotated[
    Literal["fp32", "fp16", "bf16"] | None,
    typer.Option("--dtype", help="Of the weights; as they are, or fp32, if left out."),
]
OutFile = Annotated[Path | None, typer.Option("--out", metavar="FILE", help="The new file.")]


def export(
    adapter: Annotated[
        str, typer.Argument(metavar="RUN|FILE[@SCALE]", help="A run, or an adapter of any tool.")
    ],
    file_format: Form = "diffusers",
    dtype: Dtype = None,
    rank: Annotated[
        int | None, typer.Option(min=1, help="Most that a layer may have; the loss is said.")
    ] = None,
    into: Annotated[
        Path | None,
        typer.Option("--into", metavar="CHECKPOINT", help="Bake it into this one-file model."),
    ] = None,
    twins: Annotated[
        bool,
        typer.Option("--twins", help="Two files, -plus and -minus, for tools without w < 0."),
    ] = False,
    out: OutFile = None,
    yes: Replace = False,
) -> None:
    """Write an adapter for another tool, in another dtype or rank, or into a checkpoint.

    A run's own files are copied where nothing else is asked for. A @SCALE is multiplied in.

    Example: loba export output/size-slider-… --format kohya --out size.safetensors

    Example: loba export downloaded.safetensors@0.8 --into model.safetensors

    Example: loba export size.safetensors --twins --format kohya
    """
    from loba_tui.client.runs.export import Export, export_adapter, export_request, plain_run

    wanted = Export(adapter, file_format, dtype, rank, into, out, replace=yes, twins=twins)
    run_dir = plain_run(wanted, user_ledger())
    if run_dir is not None:
        say(str(export_adapter(run_dir, file_format, out, replace=yes)))
        return
    _, events = answer(export_request(wanted, user_ledger()), None)
    for event in events:
        if event.kind in ("baked", "written"):
            echo_lines(_written_lines(event.data))


def extract(
    tuned: Annotated[
        Path, typer.Argument(metavar="TUNED", help="A .safetensors checkpoint or diffusers folder.")
    ],
    base: Annotated[
        Path, typer.Argument(metavar="BASE", help="What it was tuned from, in either form.")
    ],
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="The new .safetensors file.")],
    rank: Annotated[int, typer.Option(min=1, help="Of every layer; the loss is said.")] = 32,
    file_format: Annotated[
        Literal["comfy", "kohya", "diffusers"], typer.Option("--format", help="Keys of the file.")
    ] = "comfy",
    dtype: Dtype = None,
    yes: Replace = False,
) -> None:
    """Make a LoRA of what a tuned model's denoiser has over its base, convolutions too.

    Example: loba extract tuned.safetensors base.safetensors --rank 64 --out style.safetensors
    """
    from loba_tui.core.run.launch import Request

    out = with_home(out).absolute()
    if out.suffix != ".safetensors":
        raise RecipeError(f"--out: {out.name} is not a .safetensors file.")
    if out.exists() and not yes:
        raise RefusedError(f"{out} exists already.", "Add --yes to replace it.")
    models = []
    for path in (tuned, base):
        if not with_home(path).exists():
            raise RecipeError(f"There is no {path}.", "Name a checkpoint or a diffusers folder.")
        models.append((str(with_home(path).absolute()), 1.0))
    request = Request("extract", "", run=None, out_dir="", several=tuple(models), rank=rank)
    request = replace(
        request, file=str(out), file_format=file_format, weights_dtype=dtype or "fp32"
    )
    _, events = answer(request, None)
    for event in events:
        if event.kind == "written":
            echo_lines(_written_lines(event.data))


def _written_lines(data: Mapping[str, Any]) -> list[str]:
    lines = [f"{'written':11}{clean(data['path'])}"]
    if "num_tensors" in data:
        size = show_mib(int(data["num_bytes"]))
        lines.append(f"{'changed':11}{int(data['num_tensors'])} tensors of {size}; the rest as is")
    else:
        rank = int(data["largest_rank"])
        lines.append(f"{'layers':11}{int(data['num_layers'])}, rank at most {rank}")
        error = float(data["error"])
        lines.append(f"{'lost':11}{f'{error:.2%} of the change' if error else 'nothing'}")
        lines += [f"  {clean(name)}: {float(share):.2%}" for name, share in data["worst"]]
        if error:
            lines.append(f"{'by layer':11}{clean(data['losses'])}")
    return [*lines, *(f"{'left out':11}{clean(each)}" for each in data["left_out"])]
