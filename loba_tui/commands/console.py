"""What commands write to stdout."""

from __future__ import annotations

import json
from typing import Any

import typer


def echo_json(document: Any) -> None:
    """Write one JSON document to stdout."""
    typer.echo(json.dumps(document, indent=2, ensure_ascii=False))
