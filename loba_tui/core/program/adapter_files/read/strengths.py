"""The strengths that PEFT's configuration gives the layers of a file, beside or inside it."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from loba_tui.core.adapter_keys.names import COMPONENTS
from loba_tui.core.errors import CorruptError, RecipeError
from loba_tui.core.file_sources import read_source
from loba_tui.core.foreign_json import parse_object

CONFIG_KEY = "lora_adapter_metadata"
"""Where diffusers has PEFT's configuration, each of its keys after a component."""
PEFT_CONFIG_KEY = "peft_config"
"""Where our files of kinds that diffusers does not read have it."""
CONFIG_NAME = "adapter_config.json"
"""The file that PEFT writes beside the weights."""
_MOST_BYTES = 4 * 2**20
# PEFT takes the names in patterns for regular expressions; a stranger's could never end.
_PLAIN_NAME = re.compile(r"\^?[\w.]{1,400}\$?")


@dataclass(frozen=True)
class Strengths:
    """PEFT's configuration of each component, as far as it decides strengths."""

    by_component: Mapping[str, Mapping[str, Any]]

    def alpha(self, component: str, module: str, rank: int) -> float | None:
        """Return alpha of a layer, as it stands over the rank; None where nothing says it."""
        config = self.by_component.get(component) or self.by_component.get("")
        if not config:
            return None
        alpha = config.get("lora_alpha", config.get("alpha"))
        for name, value in (config.get("alpha_pattern") or {}).items():
            plain = name.removeprefix("^").removesuffix("$")
            is_end = not name.startswith("^") and module.endswith(f".{plain}")
            if module == plain or is_end:
                alpha = value
                break
        if alpha is None:
            return None
        return float(alpha) * (math.sqrt(rank) if config.get("use_rslora") else 1.0)


NONE = Strengths(MappingProxyType({}))


def strengths_of(path: Path, metadata: Mapping[str, str], form: str) -> Strengths:
    """Return what a file's metadata, or the configuration beside it, says of strengths.

    Raises:
        CorruptError: It cannot be read.
        RecipeError: It names layers by regular expressions.
    """
    if CONFIG_KEY in metadata:
        return _checked(path, _by_component(_table(path, CONFIG_KEY, metadata[CONFIG_KEY])))
    if PEFT_CONFIG_KEY in metadata:
        return _checked(path, {"": _table(path, PEFT_CONFIG_KEY, metadata[PEFT_CONFIG_KEY])})
    beside = path.with_name(CONFIG_NAME)
    if form == "PEFT" and beside.is_file():
        try:
            content = read_source(beside, _MOST_BYTES)
        except OSError as error:
            raise CorruptError(f"{beside} cannot be read.", "Fetch it again.") from error
        return _checked(beside, {"": _table(path, CONFIG_NAME, content)})
    return NONE


def _table(path: Path, name: str, content: str | bytes) -> dict[str, Any]:
    try:
        return parse_object(content)
    except ValueError as error:
        raise CorruptError(f"{path}: its {name} is not a JSON table.", "Fetch it again.") from error


def _by_component(packed: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for key, value in packed.items():
        component, _, name = key.partition(".")
        if component in COMPONENTS:
            found.setdefault(component, {})[name] = value
    return found


def _checked(path: Path, by_component: Mapping[str, Mapping[str, Any]]) -> Strengths:
    for config in by_component.values():
        patterns = config.get("alpha_pattern") or {}
        ranks = config.get("rank_pattern") or {}
        if not (isinstance(patterns, dict) and isinstance(ranks, dict)):
            raise CorruptError(f"{path}: a pattern of its configuration is no table.")
        alphas = [config.get("lora_alpha"), config.get("alpha"), *patterns.values()]
        for alpha in alphas:
            if alpha is not None and not _is_number(alpha):
                raise CorruptError(f"{path}: alpha in its configuration is not a number.")
        for name in (*patterns, *ranks):
            if not _PLAIN_NAME.fullmatch(name):
                raise RecipeError(
                    f"{path}: its configuration names layers by the regular"
                    f" expression {name[:80]!r}.",
                    "Save it with the layers' plain names.",
                )
    return Strengths(by_component)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and _is_finite(value)


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(float(value))
    except OverflowError:
        return False
