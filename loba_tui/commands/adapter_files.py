"""`loba adapter`: what an adapter file is."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from loba_tui.commands.options import Json, echo_result
from loba_tui.core.user_folders import with_home

adapter_app = typer.Typer(
    help="Adapter files, of any tool.", no_args_is_help=True, rich_markup_mode=None
)


@adapter_app.callback()
def _adapter() -> None:
    """Keep `show` a command of its own, as Typer drops the name of a single one."""


@adapter_app.command("show")
def adapter_show(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A .safetensors file.")],
    as_json: Json = False,
) -> None:
    """Say what an adapter file is: form, maker, family, layers, strengths, and what is not used.

    The file is not loaded, and nothing else is read.

    Example: loba adapter show downloaded.safetensors
    """
    from loba_tui.client.adapters.show import show_adapter

    found = show_adapter(with_home(file))
    echo_result(found.record(), found.lines(), as_json=as_json)
