"""The page that an adapter gets on the hub, written from what its run says of itself.

The block of metadata at its top is what the hub's search and widget and other tools go by:
https://huggingface.co/docs/hub/model-cards
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ruamel.yaml import YAML

from loba_tui.core.adapter_keys.transformers.families import component_of, of_metadata
from loba_tui.core.adapter_metadata import STEP_KEY, VERSION_KEY
from loba_tui.core.names import repository_of
from loba_tui.core.recipe.schema import Recipe
from loba_tui.core.text import clean
from loba_tui.models import BUILTIN_PREFIX

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_MAX_PROMPTS = 8
_MAX_SENTENCE = 400
_REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,127}")


@dataclass(frozen=True)
class CardFacts:
    """The facts that a card is written from.

    Attributes:
        report: What was measured, None where nothing was.
        base_revision: The commit of the base model, None where it has none.
        license: A licence's identifier, None where none is known.
        peft: Name of the folder that PEFT loads, for kinds that diffusers' loader does not take.
        other: Name of the one for other tools, None where there is none.
        pictures: Names of a strip over the scales and of the report's picture, where there are.
    """

    repo_id: str
    recipe: Recipe
    metadata: Mapping[str, str]
    report: Mapping[str, Any] | None
    base_revision: str | None
    license: str | None
    peft: str | None
    other: str | None
    strip: str | None
    picture: str | None


def hub_base(model_id: str) -> str | None:
    """Return a base model's repository where it can be one of the hub."""
    repository = repository_of(model_id)
    return repository if _HUB_ID.fullmatch(repository) else None


def model_card(facts: CardFacts) -> str:
    """Return the card: metadata, and a page for people."""
    stream = io.StringIO()
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    yaml.allow_unicode = True
    yaml.width = 10_000
    yaml.dump(_metadata(facts), stream)
    return f"---\n{stream.getvalue()}---\n\n{_page(facts)}"


def _metadata(facts: CardFacts) -> dict[str, Any]:
    recipe = facts.recipe
    base = hub_base(recipe.base_model.id)
    data: dict[str, Any] = {"library_name": "diffusers", "pipeline_tag": "text-to-image"}
    if facts.license is not None:
        data["license"] = facts.license
    if base is not None:
        data |= {"base_model": base, "base_model_relation": "adapter"}
    trigger = clean(recipe.data.captions.trigger if recipe.data else "", limit=200)
    if trigger:
        data["instance_prompt"] = trigger
    architecture = facts.metadata.get("modelspec.architecture", "")
    families = ("stable-diffusion-xl", "stable-diffusion")
    family = [name for name in families if architecture.startswith(name)][:1]
    if of_metadata(facts.metadata) is not None:
        family = [_plain_tag(architecture)]
    kind = recipe.method.name.replace("_", "-")
    form = ["lora", "template:sd-lora"] if facts.peft is None else ["peft", recipe.adapter.name]
    data["tags"] = ["text-to-image", "diffusers", *form, *family, "loba-trainer", kind]
    prompts = _prompts(facts)
    if facts.strip is not None and prompts:
        data["widget"] = [
            {"text": prompts[0], "output": {"url": facts.strip}},
            *({"text": prompt} for prompt in prompts[1:]),
        ]
    return data


def _plain_tag(architecture: str) -> str:
    return clean(architecture.removesuffix("/lora"), limit=60)


def _prompts(facts: CardFacts) -> list[str]:
    """Return prompts that show the effect: what samples were drawn of, or what was trained."""
    found = facts.recipe.sample.prompts or [
        concept.target for each in facts.recipe.method.concepts for concept in each.expand()[:1]
    ]
    return [text for text in (clean(each, limit=200) for each in found) if text][:_MAX_PROMPTS]


def _page(facts: CardFacts) -> str:
    recipe = facts.recipe
    lines = [f"# {_plain(recipe.name)}", "", _what_it_is(recipe), ""]
    if facts.strip is not None:
        lines += [f"![What each scale makes of each prompt]({facts.strip})", ""]
    lines += _measured(facts)
    lines += _usage(facts)
    lines += _origin(facts)
    return "\n".join(lines) + "\n"


def _what_it_is(recipe: Recipe) -> str:
    name, method = recipe.adapter.name, recipe.method.name
    sentence = f"A {name} adapter (rank {recipe.adapter.rank}) trained with the method `{method}`"
    concepts = [one for each in recipe.method.concepts for one in each.expand()]
    if concepts and concepts[0].positive and concepts[0].negative:
        first = concepts[0]
        sentence += (
            f": a positive scale moves *{_plain(first.target) or 'any image'}* towards "
            f"*{_plain(first.positive)}*, a negative one towards *{_plain(first.negative)}*"
        )
    elif concepts:
        sentence += f" on *{_plain(concepts[0].target) or 'any image'}*"
    if len(concepts) > 1:
        sentence += f", and {len(concepts) - 1} more of the kind"
    return sentence + "."


def _measured(facts: CardFacts) -> list[str]:
    report = facts.report
    if report is None:
        return []
    sentences = [_plain(each) for each in _list(report.get("verdict"))]
    lines = ["## Measured", "", f"Outcome: **{_plain(report.get('outcome', 'unknown'))}**.", ""]
    lines += [f"- {sentence}" for sentence in sentences]
    if facts.picture is not None:
        lines += ["", f"![Effect over scale]({facts.picture})"]
    return [*lines, "", "All figures: `report.json`.", ""]


def _usage(facts: CardFacts) -> list[str]:
    recipe = facts.recipe
    base = recipe.base_model.id
    shown_base = base if hub_base(base) == base else "PATH_OF_THE_BASE_MODEL"
    low, high = _clean_range(facts.report)
    scale = high if high else low or 1.0
    load = [
        f'pipe.load_lora_weights("{facts.repo_id}", adapter_name="slider")',
        f'pipe.set_adapters("slider", {scale:g})',
    ]
    component = component_of(facts.metadata)
    if facts.peft is not None:
        where = f'"{facts.repo_id}", subfolder="{facts.peft}"'
        load = [f"pipe.{component} = PeftModel.from_pretrained(pipe.{component}, {where})"]
    lines = [
        "## Use",
        "",
        "```python",
        "from diffusers import AutoPipelineForText2Image",
        *(["from peft import PeftModel"] if facts.peft is not None else []),
        "",
        f'pipe = AutoPipelineForText2Image.from_pretrained("{shown_base}")',
        *load,
        *([f"image = pipe({_prompts(facts)[0]!r}).images[0]"] if _prompts(facts) else []),
        "```",
        "",
    ]
    if low or high:
        lines += [f"No artefacts were measured from scale {low:g} to {high:g}.", ""]
    if facts.other is not None:
        what = "the nearest LoRA" if facts.recipe.adapter.name == "dora" else "the same adapter"
        tools = "kohya, A1111 and ComfyUI" if component == "unet" else "ComfyUI"
        lines += [f"`{facts.other}` is {what} for {tools}.", ""]
    return lines


def _origin(facts: CardFacts) -> list[str]:
    recipe = facts.recipe
    base = recipe.base_model.id
    # It may come from an adapter's metadata: what is no name of a revision is left out.
    revision = facts.base_revision or ""
    at = f" at `{revision}`" if _REVISION.fullmatch(revision) else ""
    if base.startswith(BUILTIN_PREFIX):
        shown = f"`{_plain(base)}`, which LOBA-Trainer carries"
    elif hub_base(base):
        shown = f"[{base}](https://huggingface.co/{hub_base(base)}){at}"
    else:
        shown = "a local file" if base.endswith(".safetensors") else "a local folder"
    version = _plain(facts.metadata.get(VERSION_KEY, ""))
    step = _plain(facts.metadata.get(STEP_KEY, str(recipe.train.steps)))
    return [
        "## Origin",
        "",
        f"- base model: {shown}",
        f"- steps: {step}, seed {recipe.train.seed}",
        f"- made with LOBA-Trainer {version}; to make it again: "
        f"`loba run hub://{facts.repo_id}/recipe.yaml`",
    ]


def _clean_range(report: Mapping[str, Any] | None) -> tuple[float, float]:
    found = _list((report or {}).get("clean_range"))
    if len(found) == 2 and all(isinstance(each, int | float) for each in found):
        return float(found[0]), float(found[1])
    return 0.0, 0.0


def _list(value: object) -> Sequence[Any]:
    return value if isinstance(value, list | tuple) else ()


def _plain(text: object) -> str:
    """Return foreign text so that it is only text in Markdown."""
    return re.sub(r"([\\`*_{}\[\]<>|#!])", r"\\\1", clean(text, limit=_MAX_SENTENCE))
