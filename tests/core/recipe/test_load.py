"""Every way to get a recipe wrong is one line with a place, and all of them come at once."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from loba_tui.core.errors import RecipeError, RefusedError
from loba_tui.core.plugins import SHIPPED
from loba_tui.core.recipe.load import (
    check_recipe,
    dump_recipe,
    load_recipe,
    parse_recipe,
    recipe_with,
)
from loba_tui.core.recipe.problems import ProblemsFound
from loba_tui.core.recipe.shipped import folder

SMALL = """\
version: 1
base_model: {id: "builtin:shapes-xl"}
method:
  name: text_slider
  concepts:
    - target: a shape
      positive: a large shape
      negative: a small shape
"""
MAPPING: dict[str, Any] = {
    "version": 1,
    "base_model": {"id": "builtin:shapes-xl"},
    "method": {
        "name": "text_slider",
        "concepts": [{"target": "a", "positive": "b", "negative": "c"}],
    },
}
LOOK_ALIKES = """
1e-4 null no ~ true 0x1F +1 .5 1. .inf .nan 2024-01-01 1_000 ' 0o7 1:30 = << *a &a !a %a {{a}}
"""
TOKEN = "hf_" + "aB3dE6gH9jK2mN5pQ8sT1vW4yZ7" * 2


def lines(tmp_path: Path, text: str | bytes, overrides: tuple[str, ...] = ()) -> list[str]:
    """Return the problems of a recipe's text without the file's name."""
    path = tmp_path / "r.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return [str(p).removeprefix(f"{path}:") for p in check_recipe(path, overrides, plugins=SHIPPED)]


def test_the_smallest_recipe_is_under_ten_lines_and_loads(tmp_path: Path) -> None:
    assert len(SMALL.splitlines()) < 10
    assert lines(tmp_path, SMALL) == []


@pytest.mark.parametrize("path", sorted(folder().rglob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_recipes_are_valid_and_name_the_schema(path: Path) -> None:
    assert check_recipe(path, plugins=SHIPPED) == []
    assert "yaml-language-server: $schema=" in path.read_text()


@pytest.mark.parametrize(
    ("added", "expected"),
    [
        ("lr: 1e-4", "9:1: lr: not a key of a recipe. Did you mean optimizer.lr?"),
        ("iterations: 5", "9:1: iterations: not a key of a recipe. Did you mean train.steps?"),
        (
            "zzz: 1",
            "9:1: zzz: not a key of a recipe (version, name, base_model, method, adapter, "
            "optimizer, scheduler, loss, noise, data, train, parallel, validation, sample, save,"
            " proof)",
        ),
        (
            "optimizer: {weight_decy: 1}",
            "9:13: optimizer.weight_decy: not an option of adamw. Did you mean weight_decay?",
        ),
        (
            "optimizer: {steps: 1}",
            "9:13: optimizer.steps: not an option of adamw. Did you mean train.steps?",
        ),
        (
            "train: {learning_rate: 1}",
            "9:9: train.learning_rate: not a key of train. Did you mean optimizer.lr?",
        ),
        (
            "train: {weight_decay: 1}",
            "9:9: train.weight_decay: not a key of train. Did you mean optimizer.weight_decay?",
        ),
        (
            "train:\n  steps: abc",
            "10:3: train.steps: expected a whole number greater than 0, got 'abc'",
        ),
        ("train: {steps: 0}", "9:9: train.steps: expected a whole number greater than 0, got 0"),
        (
            "train: {steps: 1.5}",
            "9:9: train.steps: expected a whole number greater than 0, got 1.5",
        ),
        (
            "train: {steps: true}",
            "9:9: train.steps: expected a whole number greater than 0, got true",
        ),
        (
            "train: {steps: '10'}",
            "9:9: train.steps: expected a whole number greater than 0, got '10'",
        ),
        (
            "train: {max_grad_norm: .inf}",
            "9:9: train.max_grad_norm: expected a finite number",
        ),
        (
            "optimizer: {lr: '2e-4'}",
            "9:13: optimizer.lr: expected a number greater than 0, got '2e-4'",
        ),
        (
            "adapter: {name: lorra}",
            "9:11: adapter.name: there is no adapter called 'lorra'. Did you mean lora?",
        ),
        (
            "adapter: {name: c3lier}",
            "9:11: adapter.name: there is no adapter called 'c3lier'. Did you mean locon?",
        ),
        (
            "optimizer: {name: AdamW8bit}",
            "9:13: optimizer.name: there is no optimizer called 'AdamW8bit'. "
            "Did you mean adamw_8bit?",
        ),
        (
            "train: {steps: 1000000000000000000000000000000}",
            "9:9: train.steps: expected a whole number greater than 0, got a number of 31 digits",
        ),
        (
            "name: 123",
            "9:1: name: expected text, got 123; text that looks like a number, or is true or "
            "false, needs quotes",
        ),
        (
            'base_model: {id: "C:\\models\\sdxl"}',
            "9:22: not valid YAML: a backslash in double quotes begins an escape; write the text, "
            "such as a path of Windows, in single quotes or without quotes",
        ),
        (
            "train:\n\u00a0\u00a0steps: 4\n  seed: 1",
            "11:7: not valid YAML: line 10 has a space in it that is none to YAML",
        ),
        (
            "sample: &a {steps: 5}\ntrain: {<<: *a, seed: 4}",
            "10:9: merge keys (<<) are not read; write the keys out",
        ),
        (
            "scheduler: {model: cosine}",
            "9:13: scheduler.model: expected a section (name), got 'cosine'. "
            "Did you mean {name: cosine}?",
        ),
        (
            "scheduler: {noise: {name: ddimm}}",
            "9:21: scheduler.noise.name: there is no noise scheduler called 'ddimm'. "
            "Did you mean ddim?",
        ),
        (
            "proof: {preserve: [{name: shape_colour}]}",
            "9:21: proof.preserve.0.name: there is no measure called 'shape_colour'. "
            "Did you mean shape_color?",
        ),
        ("loss:", "9:1: loss: expected a section (name, weighting), got nothing"),
        (
            "name: a b",
            "9:1: name: expected letters, digits, '.', '_' or '-' (64 at most), got 'a b'",
        ),
        (
            "sample: {prompts: []}",
            "9:10: sample.prompts: the list is empty; write a prompt, or leave the key out for "
            "the default",
        ),
        ("sample: {prompts: [' ']}", "9:20: sample.prompts.0: the prompt is empty"),
        (
            "sample: {scales: [1, x]}",
            "9:22: sample.scales.1: expected a number from -20 to 20, got 'x'",
        ),
        (
            "sample: {scales: [1]}",
            "9:10: sample.scales: expected a list of at least 2, each item a number from -20 to "
            "20, got a list of 1",
        ),
        ("save: {keep: 1}", "9:8: save.keep: expected a whole number of at least 2, got 1"),
        (
            "version: 1",
            "9:1: version: the key was already given on line 1",
        ),
        ("name: !!python/name:os.system x", "9:7: the tag tag:yaml.org,2002:python/name:os.system"),
        (
            "access_token: abc",
            "9:1: access_token: a recipe holds no token; log in once with: hf auth login",
        ),
    ],
)
def test_one_mistake_is_one_line(tmp_path: Path, added: str, expected: str) -> None:
    found = lines(tmp_path, SMALL + added + "\n")
    assert found[0].startswith(expected)
    assert len(found) == 1


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("version: 1\n", "", "1:1: version: missing; expected 1"),
        ("version: 1", "version: 2", "1:1: version: expected 1, got 2: made for a newer"),
        ("version: 1", "version: '1'", "1:1: version: expected 1, got '1'"),
        ("version: 1", "version: true", "1:1: version: expected 1, got true"),
        ("version: 1", "version: -1", "1:1: version: expected 1, got -1"),
        (
            'base_model: {id: "builtin:shapes-xl"}',
            "base_model: {}",
            "2:1: base_model.id: missing; expected text that is not empty",
        ),
        (
            '"builtin:shapes-xl"}',
            "x, dtype: float8}",
            "2:21: base_model.dtype: expected one of auto, float32, bfloat16, float16, got "
            "'float8'. Did you mean",
        ),
        (
            '"builtin:shapes-xl"}',
            "x, device: 'cuda:a'}",
            "2:21: base_model.device: expected auto, cpu, mps, cuda, cuda:N or cuda:122",
        ),
        (
            "name: text_slider",
            "name: text_slidr",
            "4:3: method.name: there is no method called 'text_slidr'. Did you mean text_slider?",
        ),
        (
            "name: text_slider",
            "name: text_slider\n  scales: [1, 0]",
            "5:15: method.scales.1: expected a number other than 0, got 0",
        ),
        (
            "target: a shape",
            "target: ''",
            "1:1: sample.prompts: missing; nothing can be seen of the empty target, so name a"
            " prompt to draw",
        ),
        (
            "target: a shape",
            "target: ' '",
            "6:7: method.concepts.0.target: the prompt is empty",
        ),
        (
            "target: a shape",
            "target: 7",
            "6:7: method.concepts.0.target: expected text, got 7",
        ),
        (
            "      positive: a large shape\n",
            "",
            "6:7: method.concepts.0.positive: missing; text_slider needs it",
        ),
        (
            "a large shape",
            "a small shape",
            "8:7: method.concepts.0.negative: the same prompt as positive",
        ),
        (
            "a small shape",
            "a small shape\n      guidance: 0",
            "9:7: method.concepts.0.guidance: expected a number greater than 0, got 0",
        ),
        (
            "a large shape",
            "a {color} shape",
            "7:7: method.concepts.0.positive: {color} is not a key of vary (there is no vary)",
        ),
        (
            "a large shape",
            "a {colour} {color}\n      vary: {color: [red]}",
            "7:7: method.concepts.0.positive: {colour} is not a key of vary (vary has color). "
            "Did you mean {color}?",
        ),
        (
            "a large shape",
            "a large shape\n      vary: {color: [red]}",
            "8:14: method.concepts.0.vary.color: no prompt of this concept uses {color}",
        ),
        (
            "a large shape",
            "{color} shape",
            "7:25: not valid YAML: text that begins with { or [ needs quotes",
        ),
        (
            "a large shape",
            "{color}",
            "7:7: method.concepts.0.positive: expected text or null, got a section; text that "
            "begins with { or [ needs quotes",
        ),
        ("a large shape", "a {", "7:7: method.concepts.0.positive: a brace is not closed"),
        (
            "a large shape",
            "a {color.__class__}\n      vary: {color: [red]}",
            "7:7: method.concepts.0.positive: a placeholder is {name} and nothing more",
        ),
        (
            "a large shape",
            "a {color:>999999999}\n      vary: {color: [red]}",
            "7:7: method.concepts.0.positive: a placeholder is {name} and nothing more",
        ),
        (
            "builtin:shapes-xl",
            "builtin:shape-xl",
            "2:14: base_model.id: expected one of builtin:shapes-xl, builtin:shapes-z, got"
            " 'builtin:shape-xl'. Did you mean builtin:shapes-xl?",
        ),
    ],
)
def test_one_wrong_line_is_one_problem(tmp_path: Path, old: str, new: str, expected: str) -> None:
    found = lines(tmp_path, SMALL.replace(old, new))
    assert found[0].startswith(expected)


SHARED = """\
version: 1
base_model: {id: x}
method:
  name: uce
  concepts:
    - {target: "{b}red", neutral: blue, vary: {b: ["a "]}}
    - {target: green, neutral: blue}
  preserve: [a square]
  watch: [a cross]
"""


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("a square", '"{b}square"', "method.preserve.0: {b} has to be a key of every concept's"),
        ("a cross", '"{c}"', "method.watch.0: {c} has to be a key of every concept's vary"),
        ("a cross", '"a {"', "method.watch.0: a brace is not closed"),
        ("a cross", '" "', "method.watch.0: the prompt is empty"),
        ("name: uce", "name: leco", "method.watch: leco does not tell what it does to single"),
    ],
)
def test_prompts_for_all_concepts_are_checked(
    tmp_path: Path, old: str, new: str, expected: str
) -> None:
    assert not lines(tmp_path, SHARED)
    (found,) = lines(tmp_path, SHARED.replace(old, new))
    assert expected in found


def test_a_placeholder_may_be_used_by_the_prompts_for_all_concepts_alone(tmp_path: Path) -> None:
    text = SHARED.replace('"{b}red"', "red").replace(
        "green, neutral: blue", 'green, neutral: blue, vary: {b: ["a ", "the "]}'
    )
    assert not lines(tmp_path, text.replace("a square", '"{b}square"'))


@pytest.mark.parametrize("concepts", ["concepts: []", "concepts:", "scales: [1]"])
def test_a_method_that_needs_concepts_says_so(tmp_path: Path, concepts: str) -> None:
    text = f"version: 1\nbase_model: {{id: x}}\nmethod:\n  name: text_slider\n  {concepts}\n"
    message = "method.concepts: text_slider needs at least one concept (target, positive, negative)"
    assert any(message in line for line in lines(tmp_path, text))


def test_every_mistake_is_reported_in_the_file_s_order(tmp_path: Path) -> None:
    text = SMALL.replace("a small shape", "''") + (
        "train: {steps: x, batch: 2}\noptimizer: {name: adamm}\nzap: 1\ntrain: {}\n"
    )
    found = lines(tmp_path, text)
    places = [tuple(map(int, line.split(":")[:2])) for line in found]
    assert [place[0] for place in places] == [9, 9, 10, 11, 12]
    assert places == sorted(places)


def test_vary_cannot_multiply_without_bound(tmp_path: Path) -> None:
    keys = "abcdefghijklmnop"
    text = SMALL.replace("a shape", "a " + "".join(f"{{{key}}}" for key in keys)) + "      vary:\n"
    text += "".join(f"        {key}: [x, y]\n" for key in keys)
    (line,) = lines(tmp_path, text)
    assert "vary multiplies to 65536 concepts; at most 10000" in line


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "1:1: the file is empty"),
        (b"# only a comment\n", "the file is empty"),
        (b"just text", "1:1: expected a section"),
        (b"- 1\n- 2\n", "1:1: expected a section"),
        (b"version: 1\ntrain:\n\tsteps: 1\n", "3:1: a tab is used to indent"),
        (b"version: 1\nname: 'open\n", "not valid YAML: a quote or bracket is opened"),
        (b"version: 1\nname: a: b\n", "2:8: not valid YAML: a second ': '"),
        (b"version: 1\nname: \xff\n", "2:7: the byte 0xff is not UTF-8"),
        ("version: 1".encode("utf-16"), " is UTF-16; save it as UTF-8"),
        (b"version: 1\x07", "1:1: the character U+0007 is not allowed"),
        (b'version: "\\ud800"', "1:1: version: not valid text"),
        (b"%YAML 1.1\n---\nversion: 1\n", "only YAML 1.2 is read"),
        (b"version: 1\n---\nversion: 1\n", "a second document begins here"),
        (b"x" * (256 * 1024 + 1), " has 262145 bytes; a recipe has at most 262144"),
        (b"[" * 10_000, "1:33: nested more than 32 deep"),
        (b"a: &a [*a]", "1:8: *a has no finished &a before it"),
        (b"version: 1\n<<: {a: 1}", "merge keys (<<) are not read"),
        (b"? [1, 2]\n: 3", "a key must be text"),
    ],
)
def test_what_is_no_recipe_at_all_says_why(tmp_path: Path, content: bytes, expected: str) -> None:
    assert any(expected in line for line in lines(tmp_path, content))


def test_a_billion_laughs_are_counted_before_they_are_expanded(tmp_path: Path) -> None:
    text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n"
    for level in range(1, 9):
        text += f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 10)}]\n"
    (line,) = lines(tmp_path, text)
    assert "more than 20000 values, aliases expanded" in line


def test_a_byte_order_mark_and_windows_line_ends_are_read(tmp_path: Path) -> None:
    assert lines(tmp_path, b"\xef\xbb\xbf" + SMALL.replace("\n", "\r\n").encode()) == []


def test_aliases_are_read(tmp_path: Path) -> None:
    text = SMALL + "sample: {prompts: &p [a shape]}\nproof: {prompts: *p}\n"
    assert lines(tmp_path, text) == []


def test_a_missing_file_names_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "slider.yaml").write_text(SMALL)
    (problem,) = check_recipe(tmp_path / "slidr.yml", plugins=SHIPPED)
    assert str(problem) == (
        f"{tmp_path}/slidr.yml: there is no such file. Did you mean {tmp_path}/slider.yaml?"
    )
    (problem,) = check_recipe(tmp_path / "no" / "x.yaml", plugins=SHIPPED)
    assert "there is no folder" in problem.message
    (problem,) = check_recipe(tmp_path, plugins=SHIPPED)
    assert problem.message == "is a folder, not a recipe; it holds slider.yaml"


def test_what_is_not_an_ordinary_file_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")
    (problem,) = check_recipe(tmp_path / "pipe.yaml", plugins=SHIPPED)
    assert problem.message == "is not an ordinary file"


@pytest.mark.parametrize(
    "text",
    [
        f"{SMALL}token: {TOKEN}\n",
        f"{SMALL}# {TOKEN}\n",
        SMALL.replace("a shape", TOKEN),
        SMALL.replace("a shape", '"' + TOKEN.replace("_", "\\u005f") + '"'),
        f"{TOKEN}: [",
        SMALL + '"' + TOKEN.replace("_", "\\u005f") + '": 1',
    ],
)
def test_a_token_is_refused_and_never_repeated(tmp_path: Path, text: str) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(text)
    with pytest.raises(RefusedError) as caught:
        load_recipe(path, plugins=SHIPPED)
    assert caught.value.exit_code == 8
    assert TOKEN[3:] not in str(caught.value)
    assert TOKEN[3:].lower() not in str(caught.value.__cause__).lower()


@pytest.mark.parametrize("override", [f"base_model.id={TOKEN}", f"{TOKEN}=1"])
def test_a_token_in_an_override_is_refused_and_never_repeated(
    tmp_path: Path, override: str
) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(SMALL)
    with pytest.raises(RefusedError) as caught:
        load_recipe(path, [override], plugins=SHIPPED)
    assert TOKEN not in str(caught.value)


def test_hostile_text_reaches_no_message(tmp_path: Path) -> None:
    name = tmp_path / "a\x1b[31m\u202e.yaml"
    name.write_text(SMALL + '"k\\e[2J": "\\e]0;x\\a"\ntrain: {steps: "\\e[2Jx"}\n')
    shown = "\n".join(map(str, check_recipe(name, plugins=SHIPPED)))
    assert "train.steps" in shown
    assert not any(character in shown for character in "\x1b\x07\u202e\x9b")


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("train.steps=abc", "train.steps: expected a whole number greater than 0, got 'abc'"),
        ("train.stepz=1", "train.stepz: not a key of train. Did you mean steps?"),
        ("lr=1", "lr: not a key of a recipe. Did you mean optimizer.lr?"),
        ("train", "expected key.path=value"),
        ("=1", "expected key.path=value"),
        ("train..steps=1", "expected key.path=value"),
        ("method.concepts.3.target=a", "method.concepts.3: method.concepts is a list of 1"),
        ("version.x=1", "version.x: version is a value, not a section"),
        ("method.scales=[1, 0]", "method.scales.1: expected a number other than 0, got 0"),
        ("train.steps=[1", "not valid YAML: a '[' is not closed, or a comma is missing"),
        ("optimizer=sgd", "optimizer: expected a section (name, lr), got 'sgd'. Did you mean"),
    ],
)
def test_overrides_are_located_as_they_were_given(
    tmp_path: Path, override: str, expected: str
) -> None:
    (line,) = lines(tmp_path, SMALL, (override,))
    assert line.startswith(f"--set {override}: {expected}")


def test_overrides_make_sections_and_change_items(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(SMALL)
    recipe = load_recipe(
        path,
        [
            "train.steps=7",
            "method.concepts.0.guidance=2",
            "optimizer={name: sgd, lr: 1e-3}",
            "sample.prompts=[a, b]",
            "train.resolution=",
        ],
        plugins=SHIPPED,
    )
    assert recipe.train.steps == 7
    assert recipe.method.concepts[0].guidance == 2.0
    assert (recipe.optimizer.name, recipe.optimizer.lr) == ("sgd", 1e-3)
    assert recipe.sample.prompts == ("a", "b")
    assert recipe.train.resolution is None


def test_a_version_0_file_is_told_to_migrate(tmp_path: Path) -> None:
    (line,) = lines(tmp_path, "pretrained_model: x\nlr: 1e-4\n")
    assert "loba recipe migrate" in line
    (line,) = lines(tmp_path, "version: 0\nlr: 1e-4\n")
    assert "loba recipe migrate" in line


def test_flags_are_checked_like_files() -> None:
    with pytest.raises(ProblemsFound, match=r"<flags>: train\.steps: expected a whole number"):
        parse_recipe({**MAPPING, "train": {"steps": "x"}}, plugins=SHIPPED)
    with pytest.raises(RefusedError):
        parse_recipe({**MAPPING, "name": TOKEN}, plugins=SHIPPED)
    with pytest.raises(RecipeError):
        parse_recipe({}, plugins=SHIPPED)


@pytest.mark.parametrize("path", sorted(folder().rglob("*.yaml")), ids=lambda path: path.stem)
def test_a_dumped_recipe_loads_to_the_same(tmp_path: Path, path: Path) -> None:
    recipe = load_recipe(path, plugins=SHIPPED)
    (tmp_path / "r.yaml").write_text(dump_recipe(recipe))
    assert load_recipe(tmp_path / "r.yaml", plugins=SHIPPED) == recipe


@pytest.mark.parametrize(
    "prompt",
    [
        *LOOK_ALIKES.split(),
        *["a: b", "- a", "# a", '"', "a\nb", " a ", "日本", "@a", "x " * 200],
        *["a\u2028b", "a\x85b", "\u00a0a", "a\tb", "👩", "a\r\nb"],
    ],
)
def test_any_prompt_survives_a_dump(tmp_path: Path, prompt: str) -> None:
    concept = {"target": prompt, "positive": prompt + "b", "negative": "c"}
    mapping = {**MAPPING, "method": {"name": "text_slider", "concepts": [concept]}}
    recipe = parse_recipe(mapping, plugins=SHIPPED)
    (tmp_path / "r.yaml").write_text(dump_recipe(recipe), encoding="utf-8")
    assert load_recipe(tmp_path / "r.yaml", plugins=SHIPPED) == recipe


@pytest.mark.parametrize("preserve", ["", "3", "text", "{a: b}"])
def test_a_preserve_that_is_no_list_is_a_problem(tmp_path: Path, preserve: str) -> None:
    """Found by benchmarks/fuzz.py: an empty one beside `vary` was a traceback."""
    path = tmp_path / "r.yaml"
    path.write_text(
        "version: 1\nbase_model: {id: 'builtin:shapes-xl'}\nmethod:\n  name: text_slider\n"
        "  concepts:\n    - target: a {x}\n      positive: b\n      negative: c\n"
        f"      vary: {{x: [q]}}\n      preserve: {preserve}\n"
    )
    for problem in check_recipe(path, plugins=SHIPPED):
        assert problem.line > 0


def test_one_value_of_a_recipe_is_set_and_checked_like_any_other() -> None:
    recipe = parse_recipe(MAPPING, plugins=SHIPPED)
    changed = recipe_with(recipe, "train.steps", 7, plugins=SHIPPED)
    assert changed == parse_recipe(MAPPING | {"train": {"steps": 7}}, plugins=SHIPPED)
    with pytest.raises(ProblemsFound, match=r"train.steps: expected a whole number"):
        recipe_with(recipe, "train.steps", "many", plugins=SHIPPED)
    with pytest.raises(ProblemsFound, match=r"train.steps is a value, not a section"):
        recipe_with(recipe, "train.steps.most", 7, plugins=SHIPPED)
