"""Recipes as users write them, one of each kind: the answer to each, and what a good one means.

The mistakes are those of editors, spreadsheets, web pages, other tools' habits, and attacks.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from loba_tui import cli
from loba_tui.core.associate.sources.locate import locate
from loba_tui.core.errors import RecipeError
from loba_tui.core.plugins import SHIPPED
from loba_tui.core.recipe.load import load_recipe

TEXT = """\
version: 1
name: t
base_model: {id: builtin:shapes-xl, device: cpu}
adapter: {name: lora, rank: 4, alpha: 4, layers: [cross_attention]}
method:
  name: text_slider
  concepts:
    - {target: a circle, positive: a large circle, negative: a small circle}
optimizer: {name: adamw, lr: 1.0e-3}
train: {steps: 2, batch_size: 2, seed: 0}
"""
JSON = (
    '{"version":1,"name":"t","base_model":{"id":"builtin:shapes-xl"},"method":{"name":"text_slider"'
    ',"concepts":[{"target":"a","positive":"b","negative":"c"}]}}'
)
LAUGHS = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{b}: &{b} [{','.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdef", "bcdefg", strict=True)
)


def put(*changes: str) -> str:
    """Return the text with each pair of old and new replaced."""
    text = TEXT
    for old, new in zip(changes[::2], changes[1::2], strict=True):
        assert old in text
        text = text.replace(old, new)
    return text


def lr(value: str) -> str:
    return put("1.0e-3", value)


def steps(value: str) -> str:
    return put("steps: 2", f"steps: {value}")


def positive(value: str) -> str:
    return put("positive: a large circle", f"positive: {value}")


def target(value: str) -> str:
    return put("target: a circle", f"target: {value}")


def name(value: str) -> str:
    return put("name: t\n", f"name: {value}\n")


GOOD: dict[str, tuple[str | bytes, str, Any]] = {
    "bom": (b"\xef\xbb\xbf" + TEXT.encode(), "name", "t"),
    "cr": (TEXT.replace("\n", "\r").encode(), "train.steps", 2),
    "crlf": (TEXT.replace("\n", "\r\n").encode(), "train.steps", 2),
    "json": (JSON, "method.concepts.0.negative", "c"),
    "lr-1e-4": (lr("1e-4"), "optimizer.lr", 1e-4),
    "lr-dots": (lr("1.e-4"), "optimizer.lr", 1e-4),
    "lr-dot first": (lr(".0001"), "optimizer.lr", 1e-4),
    "name-date": (name("2024-01-01"), "name", "2024-01-01"),
    "name-no": (name("no"), "name", "no"),
    "neg-is-target": (
        put("a small circle", "a circle"), "method.concepts.0.negative", "a circle"
    ),
    "pos-is-target": (positive("a circle"), "method.concepts.0.positive", "a circle"),
    "prompt-colon": (target("(a circle:1.3)"), "method.concepts.0.target", "(a circle:1.3)"),
    "prompt-ctl": (
        positive('"a\\0large\\x1b[31m circle"'),
        "method.concepts.0.positive",
        "a\0large\x1b[31m circle",
    ),
    "prompt-emoji": (
        positive("大きい 😀 circle"), "method.concepts.0.positive", "大きい 😀 circle"
    ),
    "prompt-long": (
        positive("a large circle " * 100),
        "method.concepts.0.positive",
        ("a large circle " * 100).strip(),
    ),
    "rank-big": (put("rank: 4", "rank: 4096"), "adapter.rank", 4096),
    "resolution": (steps("2, resolution: 500"), "train.resolution", 500),
    "scales-dup": (TEXT + "sample: {scales: [1, 1, -1, 0]}\n", "sample.scales", (1, 1, -1, 0)),
    "seed-big": (put("seed: 0", f"seed: {2**64}"), "train.seed", 2**64),
    "weights": (
        positive('"(a large circle:1.4) BREAK <lora:x:1>"'),
        "method.concepts.0.positive",
        "(a large circle:1.4) BREAK <lora:x:1>",
    ),
    "winpath": (put("builtin:shapes-xl", r"C:\models\sdxl"), "base_model.id", r"C:\models\sdxl"),
    "winpath-unc": (
        put("builtin:shapes-xl", r"\\nas\models\x"), "base_model.id", r"\\nas\models\x"
    ),
}  # fmt: skip


def value_at(recipe: Any, key: str) -> Any:
    for step in key.split("."):
        recipe = recipe[int(step)] if step.isdigit() else getattr(recipe, step)
    return recipe


def written(folder: Path, content: str | bytes) -> Path:
    path = folder / "recipe.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize("kind", GOOD)
def test_a_good_recipe_means_what_was_written(kind: str, tmp_path: Path) -> None:
    content, key, value = GOOD[kind]
    path = written(tmp_path, content)
    done = CliRunner().invoke(cli.app, ["validate", str(path)])
    assert (done.exit_code, done.stderr) == (0, "")
    assert value_at(load_recipe(path, plugins=SHIPPED), key) == value


SPACE = "\N{NO-BREAK SPACE}"
BAD: dict[str, tuple[str | bytes, str]] = {
    "alias-bomb": (LAUGHS + TEXT, ":5:11: more than 20000 values"),
    "alpha-0": (put("alpha: 4", "alpha: 0"), "adapter.alpha: expected a number greater than 0"),
    "alpha-neg": (put("alpha: 4", "alpha: -4"), "adapter.alpha: expected a number greater than 0"),
    "alpha-str": (put("alpha: 4", "alpha: '4'"), "got '4'. Did you mean 4?"),
    "anchors": (
        put("- {target", "- &a {target") .replace(
            "small circle}", "small circle}\n    - {<<: *a, target: a square}"
        ),
        ":9:8: merge keys (<<) are not read; write the keys out",
    ),
    "batch-0": (put("batch_size: 2", "batch_size: 0"), "train.batch_size: expected a whole"),
    "bigint": (steps("1" + "0" * 30), "got a number of 31 digits"),
    "biglit": (steps("9" * 10_000), "got a number of 10000 digits"),
    "bool-str": (
        TEXT + 'data: {sources: [{path: x}], flip: "False"}\n', "got 'False'. Did you mean false?"
    ),
    "bool-yes": (
        TEXT + "data: {sources: [{path: x}], flip: yes}\n", "got 'yes'. Did you mean true?"
    ),
    "comment": ("# nothing\n", "the file is empty"),
    "concepts-none": (
        TEXT[: TEXT.index("    - {")] + "    []\n", "text_slider needs at least one concept"
    ),
    "cp1252": (positive("un très grand").encode("cp1252"), ":8:41: the byte 0xe8 is not UTF-8"),
    "curly": (name("“t”"), "name: expected letters, digits"),
    "deep": ("a: " + "[" * 2000 + "]" * 2000 + "\n", "nested more than 32 deep"),
    "docs2": (TEXT + "---\n" + TEXT, ":11:1: a second document begins here"),
    "dtype": (put("device: cpu", "device: cpu, dtype: fp16"), "Did you mean float16?"),
    "dtype bf16": (put("device: cpu", "device: cpu, dtype: bf16"), "Did you mean bfloat16?"),
    "dup": (TEXT + "train: {steps: 3}\n", ":11:1: train: the key was already given on line 10"),
    "emdash": (lr("1e–4"), "got '1e–4'. Did you mean 1e-4?"),  # noqa: RUF001
    "empty": ("", "the file is empty"),
    "env": (
        TEXT + "data: {sources: [{path: ~/photos}, {path: $HOME/photos}]}\n",
        "text_slider trains on prompts alone",
    ),
    "fullwidth": (put("steps: 2", "steps：2"), "not a key of train. Did you mean steps?"),  # noqa: RUF001
    "fwdigits": (steps("２"), "got '２'. Did you mean 2?"),  # noqa: RUF001
    "indent": (put("  name: text", "   name: text"), "indentation does not match"),
    "leco": (
        'prompts_file: "p.yaml"\npretrained_model:\n  name_or_path: "x"\n  v2: false\n'
        'network:\n  type: "c3lier"\n  rank: 4\ntrain:\n  iterations: 500\n  lr: 2e-4\n',
        "a configuration of Concept Sliders or LECO; turn it into a recipe with: loba recipe",
    ),
    "list": ("- a\n- b\n", ":1:1: expected a section"),
    "lora-type": (put("name: lora", "name: c3lier"), "Did you mean locon?"),
    "lora-type LoCon": (put("name: lora", "name: LoCon"), "Did you mean locon?"),
    "lora-type lycoris": (put("name: lora", "name: lycoris"), "Did you mean locon?"),
    "lr-comma": (lr("0,0001"), "a decimal fraction is written with a point: 0.1"),
    "lr-huge": (lr("1e400"), "optimizer.lr: expected a finite number"),
    "lr-inf": (lr(".inf"), "optimizer.lr: expected a finite number"),
    "lr-list": (lr("[1e-4]"), "expected a number greater than 0, got a list of 1"),
    "lr-nan": (lr(".nan"), "expected a number greater than 0, got nan"),
    "lr-neg": (lr("-1e-4"), "expected a number greater than 0, got -0.0001"),
    "lr-null": (lr("null"), "expected a number greater than 0, got nothing"),
    "lr-str": (lr('"1e-4"'), "got '1e-4'. Did you mean 1e-4?"),
    "lr-zero": (lr("0"), "expected a number greater than 0, got 0"),
    "minus": (TEXT + "sample: {scales: [−2, 0, 2]}\n", "got '−2'. Did you mean -2?"),
    "name-long": (name("x" * 300), "(64 at most)"),
    "name-num": (name("123"), "name: expected text, got 123; text that looks like a number"),
    "name-slash": (name("../a b/😀"), "name: expected letters, digits"),
    "nbsp": (put("  name: text", f"{SPACE} {SPACE} name: text"), "line 6 has a space in it"),
    "nbsp-after": (put("name: text", f"name:{SPACE}text"), "line 6 has a space in it"),
    "optim": (put("name: adamw", "name: AdamW8bit"), "Did you mean adamw_8bit?"),
    "optim dadapt": (put("name: adamw", "name: DAdaptAdam"), "Did you mean prodigy?"),
    "prompt-block": (
        TEXT.replace("- {target: a circle, positive", "- target: photo: a circle\n      positive"),
        ":8:20: not valid YAML: a second ': '",
    ),
    "prompt-bracket": (
        target("[red|blue] circle"), "text that begins with { or [ needs quotes"
    ),
    "prompt-empty": (target("''"), "sample.prompts: missing; nothing can be seen of the empty"),
    "prompt-null": (positive("null"), "method.concepts.0.positive: missing"),
    "prompt-num": (target("007"), "expected text, got 7; text that looks like a number"),
    "prompt-same": (positive("a small circle"), "the same prompt as positive"),
    "py-tag": (name("!!python/object/apply:os.system ['id']"), "is not allowed in a recipe"),
    "rank-0": (put("rank: 4", "rank: 0"), "adapter.rank: expected a whole number greater than 0"),
    "rank-float": (put("rank: 4", "rank: 4.0"), "got 4.0. Did you mean 4?"),
    "resolution-pair": (steps("2, resolution: [512, 768]"), "got a list of 2"),
    "resolution-str": (steps("2, resolution: '512,768'"), "got '512,768'"),
    "sched": (
        TEXT + "scheduler: {model: {name: cosine_with_restarts}}\n",
        "Did you mean cosine_restarts?",
    ),
    "seed-neg": (put("seed: 0", "seed: -1"), "a whole number of at least 0, got -1"),
    "seed-null": (put("seed: 0", "seed: null"), "a whole number of at least 0, got nothing"),
    "steps-0": (steps("0"), "a whole number greater than 0, got 0"),
    "steps-float": (steps("1e3"), "got 1000.0. Did you mean 1000?"),
    "steps-float half": (steps("2.5"), "got 2.5\n"),
    "steps-neg": (steps("-1"), "a whole number greater than 0, got -1"),
    "steps-str": (steps("'500'"), "got '500'. Did you mean 500?"),
    "steps-under": (steps("1_000"), "got '1_000'. Did you mean 1000?"),
    "tabs": (put("  name: text", "\tname: text"), "a tab is used to indent"),
    "toml": (
        'pretrained_model_name_or_path = "x"\nlearning_rate = 1e-4\n',
        "a configuration of kohya sd-scripts; turn it into a recipe with: loba recipe import",
    ),
    "unknown": (put("optimizer:", "optimiser:"), "not a key of a recipe. Did you mean optimizer?"),
    "utf16": (b"\xff\xfe" + TEXT.encode("utf-16-le"), "is UTF-16; save it as UTF-8"),
    "version-99": (put("version: 1", "version: 99"), "made for a newer LOBA-Trainer"),
    "version-none": (put("version: 1\n", ""), "version: missing; expected 1"),
    "version-str": (put("version: 1", "version: '1'"), "expected 1, got '1'"),
    "winpath-dq": (
        put("id: builtin:shapes-xl", r'id: "C:\models\new"'), "a backslash in double quotes"
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD)
def test_a_mistake_is_said_where_it_is(kind: str, tmp_path: Path) -> None:
    content, told = BAD[kind]
    path = written(tmp_path, content)
    done = CliRunner().invoke(cli.app, ["validate", str(path)])
    assert done.exit_code == 2, done.stderr
    assert told in done.stderr
    assert len(done.stderr.splitlines()) <= 2
    assert all(line.startswith(str(path)) for line in done.stderr.splitlines())


def test_an_escape_in_a_path_is_refused_and_explained(tmp_path: Path) -> None:
    path = written(tmp_path, put("id: builtin:shapes-xl", r'id: "C:\new\table"'))
    done = CliRunner().invoke(cli.app, ["validate", str(path)])
    assert done.exit_code == 8
    assert "U+000A; in double quotes a backslash makes such" in done.stderr


@pytest.mark.parametrize("model", [r"C:\models\sdxl", r"\\nas\models\x"])
def test_a_path_of_windows_is_no_hub_id(model: str) -> None:
    with pytest.raises(RecipeError, match="there is no folder"):
        locate(model)
