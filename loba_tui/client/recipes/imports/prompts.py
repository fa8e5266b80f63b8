"""Prompts to draw, with the flags that tools write behind them: `a cat --n blurry --d 1 --m -3`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from loba_tui.client.recipes.imports.draft import Draft
from loba_tui.client.recipes.imports.settings import as_number

MOST_PROMPTS = 64

_FLAG = re.compile(r"(?<!\s)\s*+--([a-zA-Z]+)(?:\s+|=|$)")
_NAMES = {
    "n": "negative",
    "neg": "negative",
    "d": "seed",
    "seed": "seed",
    "m": "scale",
    "l": "guidance",
    "cfg": "guidance",
    "s": "steps",
    "steps": "steps",
}


@dataclass(frozen=True)
class SamplePrompt:
    """A prompt and what its flags say; what is not here is left out under `others`."""

    text: str
    flags: tuple[tuple[str, str], ...] = ()

    def number(self, name: str) -> float | None:
        """Return the number that a flag gives, or None."""
        return as_number(dict(self.flags).get(name))

    @property
    def negative(self) -> str | None:
        """The negative prompt behind `--n`."""
        return dict(self.flags).get("negative")


def parse_prompt(line: str) -> SamplePrompt:
    """Return a line as a prompt and its flags."""
    first, *rest = _FLAG.split(line[:4096])
    flags = [
        (_NAMES.get(name.lower(), name.lower()), value.strip())
        for name, value in zip(rest[::2], rest[1::2], strict=True)
    ]
    return SamplePrompt(first.strip().rstrip(","), tuple(flags))


def put_prompts(draft: Draft, lines: Sequence[str], key: str) -> list[SamplePrompt]:
    """Put prompts to draw with what their flags say, and return them.

    What differs from prompt to prompt can be said only once here: the first one's stands.
    """
    found = [parse_prompt(line) for line in lines if line.strip() and line.strip()[0] != "#"]
    texts = list(dict.fromkeys(prompt.text for prompt in found if prompt.text))
    if len(texts) > MOST_PROMPTS:
        draft.left(key, f"{len(texts)} prompts", f"the first {MOST_PROMPTS} are taken")
    if texts:
        draft.put("sample.prompts", texts[:MOST_PROMPTS], (key, f"{len(texts)} prompts"))
    _put_scales(draft, found, key)
    for flag, target in (
        ("seed", "sample.seeds"),
        ("guidance", "sample.guidance_scale"),
        ("steps", "sample.steps"),
    ):
        given = list(dict.fromkeys(n for each in found if (n := each.number(flag)) is not None))
        if given:
            value = given[0] if flag == "guidance" else int(given[0])
            draft.put(target, [value] if flag == "seed" else value, (f"{key} --{flag}", value))
        if len(given) > 1:
            others = ", ".join(f"{number:g}" for number in given[1:9])
            draft.left(f"{key} --{flag}", others, "one for all prompts here: the first one's")
    negatives = list(dict.fromkeys(each.negative for each in found if each.negative))
    if negatives:
        draft.put("sample.negative_prompt", negatives[0], (f"{key} --n", negatives[0]))
    for other in negatives[1:]:
        draft.left(f"{key} --n", other, "one negative prompt for all prompts here")
    _tell_of_others(draft, found, key)
    return found


def _put_scales(draft: Draft, found: Sequence[SamplePrompt], key: str) -> None:
    scales = sorted({scale for each in found if (scale := each.number("scale")) is not None})
    if not scales:
        return
    origin = (f"{key} --m", ", ".join(f"{scale:g}" for scale in scales))
    note = "" if 0 in scales else "from --m, and 0: how it looks without the adapter"
    draft.put("sample.scales", sorted({*scales, 0.0}), origin, note)


def _tell_of_others(draft: Draft, found: Sequence[SamplePrompt], key: str) -> None:
    known = set(_NAMES.values())
    others: dict[str, list[str]] = {}
    for prompt in found:
        for name, value in prompt.flags:
            if name not in known and value not in others.setdefault(name, []):
                others[name].append(value)
    for name, values in others.items():
        is_size = name in ("w", "h", "width", "height")
        reason = "pictures are drawn at train.resolution" if is_size else "no such flag here"
        draft.left(f"{key} --{name}", ", ".join(values[:8]), reason)


def scale_pair(draft: Draft, multiplier: float | None, origin: tuple[str, object]) -> None:
    """Put the scales of a tool that draws one strength: with the adapter, and without it."""
    if "sample.scales" in draft.values:
        return
    strength = 1.0 if multiplier in (None, 0) else float(multiplier or 1.0)
    note = "theirs draws one strength; 0 beside it shows what the adapter changes"
    draft.put("sample.scales", sorted({0.0, strength}), origin, note)
