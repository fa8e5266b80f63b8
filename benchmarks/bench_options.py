"""Options of a benchmark that are numbers, each with what it is if left out."""

from __future__ import annotations

import argparse


def numbers_of(doc: str | None, **defaults: float) -> argparse.Namespace:
    """Return the numbers that the command line gives.

    Args:
        doc: The benchmark's docstring; its first line is the help's.
        defaults: By name; an option takes whole numbers where its default is one.
    """
    parser = argparse.ArgumentParser(description=(doc or "").partition("\n")[0])
    for name, default in defaults.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(default), default=default)
    return parser.parse_args()
