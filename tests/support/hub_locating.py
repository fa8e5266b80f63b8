"""Locating models in a process of its own, which has another hub and cache than this one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

LOCATE = """
import json, sys
from loba_tui.core.associate.sources.locate import locate
from loba_tui.core.errors import LobaError
for model_id, revision in json.loads(sys.argv[1]):
    try:
        source = locate(model_id, revision)
        print(json.dumps({"folder": str(source.folder), "revision": source.revision}))
    except LobaError as error:
        print(json.dumps({"exit_code": error.exit_code, "text": str(error)}))
"""


def locate_in_child(
    endpoint: str, home: Path, cases: list[tuple[str, str | None]], **environment: str
) -> tuple[list[dict[str, Any]], str]:
    """Locate models in a process that has this hub and cache; also returns its stderr."""
    child = subprocess.run(
        [sys.executable, "-c", LOCATE, json.dumps(cases)],
        env={
            **os.environ,
            "HF_ENDPOINT": endpoint,
            "HF_HOME": str(home),
            "NO_PROXY": "*",
            **environment,
        },
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return [json.loads(line) for line in child.stdout.splitlines()], child.stderr
