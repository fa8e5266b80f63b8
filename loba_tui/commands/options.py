"""What the commands of `loba cache` share: their options, the user's cache, and JSON."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from loba_tui.core.associate.caches.hub import cache as hub

Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show the plan and do nothing.")]
NoUndo = Annotated[
    bool, typer.Option("--no-undo", help="Free the space at once; no undo afterwards.")
]
Targets = Annotated[
    list[str],
    typer.Argument(
        metavar="TARGET...",
        help="ID, ID@REVISION, or the beginning of a revision's hash.",
        show_default=False,
    ),
]
Recipes = Annotated[
    list[Path] | None,
    typer.Option(
        "--recipes", metavar="PATH", help="Recipes that may need it; ./recipes if left out."
    ),
]


def open_cache(recipes: list[Path] | None = None) -> hub.HubCache:
    """Return the user's cache with what is known of runs and, where asked for, recipes."""
    from loba_tui.client.cache import hub_text as cache_listing
    from loba_tui.core.associate.caches.hub import cache as hub
    from loba_tui.core.run.directory import Ledger

    given = recipes if recipes is not None else [Path("recipes")]
    usage = hub.usage_of(Ledger.of_user(os.environ), [path for path in given if path.exists()])
    return hub.HubCache(cache_listing.cache_root(os.environ), usage)


def plain(text: object) -> str:
    """Return foreign text for a screen."""
    from loba_tui.core.text import clean

    return clean(text)


def echo_json(document: Any) -> None:
    """Write one JSON document to stdout."""
    # Names may hold bytes that are no UTF-8; escaped, they are JSON all the same.
    typer.echo(json.dumps(document, indent=2))
