"""A stranger's recipe does nothing before it was shown and agreed to, whatever way it comes."""

from __future__ import annotations

import hashlib
import json
import os
import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hostile_mirror import tree_of
from hub_client import talking_to
from hub_repos import KeptRepo
from hub_server import Hub, serve
from typer.testing import CliRunner, Result

from loba_tui import cli
from loba_tui.client.runs import foreground
from loba_tui.core.recipe.load import parse_text
from loba_tui.core.run.directory import Ledger, RunDir
from loba_tui.core.run.launch import Request

TOKEN = "hf_" + "s3cretS3cret" * 3
TEXT = """\
version: 1
name: photos
base_model: {{id: {model}}}
method: {{name: lora_finetune}}
data: {{sources: [{{path: {path}}}]}}
sample: {{prompts: [a cat]}}
{more}
"""
ADDRESS = "hub://me/sliders/size.yaml"


def recipe_text(model: str = "stranger/model", path: str = "photos", more: str = "") -> str:
    return TEXT.format(model=json.dumps(model), path=json.dumps(path), more=more)


def write_adapter(path: Path, **metadata: Any) -> Path:
    tensor = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
    named = {key.replace("_", ".", 1): value for key, value in metadata.items()}
    header = json.dumps({"__metadata__": named, "unet.x.lora_A.weight": tensor}).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(struct.pack("<Q", len(header)) + header + struct.pack("<2f", 1.0, 2.0))
    return path


class Place:
    """A working folder, a hub that records, and what would have been started."""

    def __init__(self, folder: Path, hub: Hub) -> None:
        self.folder, self.hub = folder, hub
        self.started: list[RunDir | Request] = []
        self.private = folder / "private"
        self.private.mkdir()
        (self.private / "secret.png").write_bytes(b"secret")
        self.work = folder / "work"
        (self.work / "photos").mkdir(parents=True)

    def commands(self, text: str) -> dict[str, list[str]]:
        """Return each way that a stranger's recipe comes by."""
        self.hub.kept["me/sliders"].commit("main", {"size.yaml": text.encode()}, "a recipe")
        file = str(write_adapter(self.work / "evil.safetensors", loba_recipe=text))
        other = str(write_adapter(self.work / "other.safetensors", loba_recipe=text))
        plain = str(write_adapter(self.work / "plain.safetensors"))
        run = str(self.foreign_run(text).path)
        return {
            "run hub": ["run", ADDRESS],
            "plan hub": ["plan", ADDRESS],
            "plan data hub": ["plan", ADDRESS, "--data"],
            "sample by hub": ["sample", plain, "--recipe", ADDRESS],
            "eval by hub": ["eval", plain, "--recipe", ADDRESS],
            "replay file": ["replay", file],
            "sample file": ["sample", file],
            "eval file": ["eval", file],
            "sample several": ["sample", "--adapter", f"{file}@1", "--adapter", f"{other}@1"],
            "interfere files": ["interfere", f"{file}@1", f"{other}@-1"],
            "replay run": ["replay", run],
            "sample run": ["sample", run],
            "eval run": ["eval", run],
            "sample in run": ["sample", f"{run}/adapter/adapter.safetensors"],
            "resume": ["run", "--resume", run],
            "detached": ["run", "--resume", run, "--detach"],
            "queued": ["run", "--resume", run, "--queue"],
            "runs resume": ["runs", "resume", run],
        }

    def foreign_run(self, text: str) -> RunDir:
        folder = RunDir(self.work / "foreign")
        for name in ("control", "checkpoints", "samples", "adapter"):
            (folder.path / name).mkdir(parents=True, exist_ok=True)
        (folder.path / "recipe.yaml").write_text(text)
        (folder.path / "status.json").write_text(
            json.dumps({"version": 1, "phase": "stopped", "step": 1, "total": 9, "heartbeat": 1.0})
        )
        write_adapter(folder.path / "adapter" / "adapter.safetensors", loba_recipe=text)
        return folder

    def tree(self) -> dict[str, bytes | None]:
        found = tree_of(self.folder, but=self.folder / "home" / "hub")
        return {path: held for path, held in found.items() if not path.startswith("home/hub.loba")}

    def about_strangers(self) -> list[str]:
        return [each.path for each in self.hub.requests if "stranger" in each.path]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    with serve({}) as hub, talking_to(hub, tmp_path / "home", monkeypatch):
        hub.kept["me/sliders"] = KeptRepo()
        made = Place(tmp_path, hub)
        (tmp_path / "home" / "state").mkdir(parents=True, exist_ok=True)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.chdir(made.work)

        def start(*arguments: Any, **_: Any) -> list[Any]:
            found = [each for each in arguments if isinstance(each, RunDir | Request)]
            made.started.append(found[-1])
            raise KeyboardInterrupt

        for name in ("run", "detach", "request"):
            monkeypatch.setattr(foreground.Foreground, name, start)
        monkeypatch.setattr("loba_tui.core.run.launch.launch", start)
        monkeypatch.setattr("loba_tui.client.runs.start.enqueue", start)
        yield made


def loba(arguments: Sequence[str]) -> Result:
    done = CliRunner().invoke(cli.app, list(arguments))
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done


WAYS = [
    "run hub", "plan hub", "plan data hub", "sample by hub", "eval by hub", "replay file",
    "sample file", "eval file", "sample several", "interfere files", "replay run", "sample run",
    "eval run", "sample in run", "resume", "detached", "queued", "runs resume",
]  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
def test_without_an_answer_nothing_is_done(place: Place, way: str) -> None:
    command = place.commands(recipe_text())[way]
    before = place.tree()
    done = loba(command)
    assert done.exit_code == 8, done.stderr
    assert "--yes" in done.stderr
    assert not place.started
    assert place.tree() == before
    assert not place.about_strangers()
    assert not [each for each in place.hub.requests if each.has_token]


@pytest.mark.parametrize("way", WAYS)
def test_it_is_shown_with_what_it_would_touch(place: Place, way: str) -> None:
    text = recipe_text(more="# \\x1b is no escape, \u202ethis is")
    done = loba(place.commands(text)[way])
    assert done.exit_code == 8, done.stderr
    assert "lora_finetune" in done.stderr
    assert "stranger/model: revision main of the hub, fetched with your login" in done.stderr
    assert str(place.work / "photos") in done.stderr
    assert "methods/lora_finetune" in done.stderr
    assert not {"\x1b", "\x85", "\u202e"} & set(done.stderr)


@pytest.mark.parametrize("way", WAYS)
def test_a_yes_goes_ahead(place: Place, way: str) -> None:
    command = place.commands(recipe_text())[way]
    done = loba([*command, "--yes"])
    assert done.exit_code == 130, done.stderr
    assert len(place.started) == 1
    (started,) = place.started
    if isinstance(started, Request):
        assert started.recipe is not None
        assert "stranger/model" in started.recipe
    assert not [each for each in place.hub.requests if each.has_token]


@pytest.mark.parametrize(
    ("model", "path"),
    [
        ("stranger/model", "{private}"),
        ("stranger/model", "../private"),
        ("stranger/model", "photos/../../private"),
        ("stranger/model", "~"),
        ("stranger/model", "~root/x"),
        ("{private}", "photos"),
        ("../private", "photos"),
        ("~/model", "photos"),
    ],
)
@pytest.mark.parametrize("way", ["run hub", "replay file", "sample file", "resume", "runs resume"])
def test_a_path_that_leads_elsewhere_is_refused_whatever_is_answered(
    place: Place, way: str, model: str, path: str
) -> None:
    text = recipe_text(*(each.format(private=place.private) for each in (model, path)))
    command = place.commands(text)[way]
    before = place.tree()
    done = loba([*command, "--yes"])
    assert done.exit_code == 8, done.stderr
    assert "a recipe from elsewhere may not" in done.stderr
    assert "--allow-path" in done.stderr
    assert not place.started
    assert place.tree() == before


@pytest.mark.parametrize("key", ["id", "vae", "config"])
@pytest.mark.parametrize("path", ["{private}/model.safetensors", "../private", "~/model"])
@pytest.mark.parametrize("way", ["run hub", "replay file"])
def test_a_file_of_the_model_that_lies_elsewhere_is_refused(
    place: Place, way: str, path: str, key: str
) -> None:
    text = recipe_text().replace(
        'id: "stranger/model"',
        ('id: "stranger/model", ' if key != "id" else "")
        + f"{key}: {json.dumps(path.format(private=place.private))}",
    )
    done = loba([*place.commands(text)[way], "--yes"])
    assert done.exit_code == 8, done.stderr
    assert f"base_model.{key}: a recipe from elsewhere may not" in done.stderr
    assert not place.started


@pytest.mark.parametrize("way", ["run hub", "replay file", "sample file", "resume"])
def test_a_folder_that_the_user_gives_may_be_used(place: Place, way: str) -> None:
    command = place.commands(recipe_text(path=str(place.private)))[way]
    done = loba([*command, "--yes", "--allow-path", str(place.private)])
    assert done.exit_code == 130, done.stderr
    assert str(place.private) in done.stderr
    done = loba([*command, "--yes", "--allow-path", str(place.work)])
    assert done.exit_code == 8


def test_an_adapter_to_begin_with_is_a_path_like_the_others(place: Place) -> None:
    begun = "adapter: {{init_from: {}}}".format
    command = place.commands(recipe_text(more=begun(place.private)))["run hub"]
    done = loba([*command, "--yes"])
    assert done.exit_code == 8
    assert "adapter.init_from" in done.stderr
    command = place.commands(recipe_text(more=begun("photos/old.safetensors")))["run hub"]
    done = loba([*command, "--yes"])
    assert done.exit_code == 130, done.stderr
    assert f"begins with {place.work / 'photos' / 'old.safetensors'}" in done.stderr


def test_a_replay_wants_the_very_file_that_the_run_began_with(place: Place) -> None:
    text = recipe_text(more="adapter: {init_from: old.safetensors}")
    old = write_adapter(place.work / "old.safetensors")
    origin = {"file": "old.safetensors", "sha256": hashlib.sha256(old.read_bytes()).hexdigest()}
    file = write_adapter(
        place.work / "new.safetensors", loba_recipe=text, loba_init_from=json.dumps(origin)
    )
    done = loba(["replay", str(file), "--yes"])
    assert done.exit_code == 130, done.stderr
    (started,) = place.started
    assert isinstance(started, RunDir)
    assert str(old) in started.recipe.path.read_text()
    write_adapter(old, loba_other="another file")
    done = loba(["replay", str(file), "--yes"])
    assert done.exit_code == 2
    assert "is another file here" in done.stderr
    old.unlink()
    done = loba(["replay", str(file), "--yes"])
    assert done.exit_code == 2
    assert origin["sha256"] in done.stderr
    assert "is not here" in done.stderr
    assert len(place.started) == 1


def test_steering_that_comes_with_it_is_shown(place: Place) -> None:
    change = {"step": 3, "key": "train.steps", "old": 9, "new": 10**9}
    record = json.dumps({"version": 1, "changes": [change], "passed_over": []})
    file = write_adapter(
        place.work / "evil.safetensors", loba_recipe=recipe_text(), loba_steering=record
    )
    run = place.foreign_run(recipe_text())
    (run.path / "steering.json").write_text(record)
    for command in (["replay", str(file)], ["run", "--resume", str(run.path)]):
        done = loba(command)
        assert done.exit_code == 8
        assert "train.steps becomes 1000000000 after step 3" in done.stderr


@pytest.mark.parametrize(
    "change",
    [
        {"hosts": [{"name": "localhost", "slots": 1}, {"name": "evil.example", "slots": 1}]},
        {"remote_python": "/tmp/evil"},
    ],
)
def test_no_ssh_goes_where_a_strangers_run_says(place: Place, change: dict[str, Any]) -> None:
    run = place.foreign_run(recipe_text())
    shape = {"version": 1, "hosts": [{"name": "localhost", "slots": 2}], **change}
    (run.path / "launch.json").write_text(json.dumps(shape))
    resume = ["run", "--resume", str(run.path), "--yes"]
    for command in (resume, [*resume, "--detach"], ["runs", "resume", str(run.path), "--yes"]):
        done = loba(command)
        assert done.exit_code == 8
        assert "evil" in done.stderr
        assert "launch.json" in done.stderr
    assert not place.started
    run.launch.remove()
    assert loba(resume).exit_code == 130
    assert place.started == [run]


def test_a_path_given_with_set_is_the_users_own(place: Place) -> None:
    command = place.commands(recipe_text(path="/nowhere"))["run hub"]
    value = f"data.sources.0.path={place.private}"
    assert loba([*command, "--yes"]).exit_code == 8
    assert loba([*command, "--yes", "--set", value]).exit_code == 130
    (run_dir,) = place.started
    assert isinstance(run_dir, RunDir)
    assert str(place.private) in (run_dir.path / "recipe.yaml").read_text()


@pytest.mark.parametrize("way", ["run hub", "replay file", "sample file", "resume", "eval by hub"])
@pytest.mark.parametrize("trusted", [True, False])
def test_no_plugin_of_the_users_is_used(
    place: Place, monkeypatch: pytest.MonkeyPatch, way: str, trusted: bool
) -> None:
    config = place.folder / "config"
    monkeypatch.setenv("XDG_CONFIG_HOME", str(config))
    plugin = config / "loba" / "plugins" / "losses" / "mine.py"
    plugin.parent.mkdir(parents=True, mode=0o700)
    (config / "loba").chmod(0o700)
    plugin.write_text('"""Mine."""\ndef get_loss():\n    """Return it."""\n    return None\n')
    plugin.chmod(0o600)
    if trusted:
        assert loba(["plugins", "trust", "losses/mine", "--yes"]).exit_code == 0
    command = place.commands(recipe_text(more="loss: {name: mine}"))[way]
    done = loba([*command, "--yes"])
    assert done.exit_code == 8, done.stderr
    assert "a plugin of yours" in done.stderr
    assert not place.started
    # The user's own recipe may choose it.
    (place.work / "own.yaml").write_text(recipe_text(more="loss: {name: mine}"))
    assert loba(["run", "own.yaml"]).exit_code == (130 if trusted else 8)


def test_the_users_own_are_not_asked_about(place: Place) -> None:
    text = recipe_text(path=str(place.private))
    (place.work / "own.yaml").write_text(text)
    assert loba(["run", "own.yaml"]).exit_code == 130
    plain = str(write_adapter(place.work / "plain.safetensors"))
    assert loba(["sample", plain, "--recipe", "own.yaml"]).exit_code == 130
    run = place.foreign_run(text)
    Ledger.of_user(os.environ).register(run)
    for command in (["sample", str(run.path)], ["eval", str(run.path)], ["replay", str(run.path)]):
        done = loba(command)
        assert done.exit_code == 130, done.stderr
        assert "from elsewhere" not in done.stderr
    assert loba(["runs", "resume", str(run.path)]).exit_code == 130
    assert loba(["run", "--resume", str(run.path)]).exit_code == 130


def test_a_file_put_beside_the_users_own_adapter_is_not_theirs(place: Place) -> None:
    run = place.foreign_run(recipe_text())
    Ledger.of_user(os.environ).register(run)
    beside = write_adapter(run.path / "adapter" / "evil.safetensors", loba_recipe=recipe_text())
    assert loba(["replay", str(beside)]).exit_code == 8


def test_a_repository_that_is_not_public_is_asked_for_only_after_an_answer(place: Place) -> None:
    place.commands(recipe_text())
    place.hub.kept["me/sliders"].private = True
    done = loba(["run", ADDRESS])
    assert done.exit_code == 8, done.stderr
    assert "does not show it to everybody" in done.stderr
    assert not [each for each in place.hub.requests if each.has_token]
    assert loba(["validate", ADDRESS]).exit_code == 8
    assert loba(["recipe", "diff", ADDRESS, ADDRESS]).exit_code == 2
    assert not [each for each in place.hub.requests if each.has_token]
    assert loba(["run", ADDRESS, "--yes"]).exit_code == 130
    assert [each for each in place.hub.requests if each.has_token]
    assert not place.about_strangers()


def test_to_validate_and_compare_only_reads(place: Place) -> None:
    place.commands(recipe_text())
    assert loba(["validate", ADDRESS]).exit_code == 0
    place.commands(recipe_text(path="../private"))
    assert loba(["validate", ADDRESS]).exit_code == 8
    assert not place.about_strangers()
    assert not [each for each in place.hub.requests if each.has_token]


@pytest.mark.parametrize("recipe", [["list"], {"a": 1}, 3, None])
@pytest.mark.parametrize("command", ["sample", "eval", "replay"])
def test_a_recipe_that_is_no_text_is_none(place: Place, command: str, recipe: Any) -> None:
    file = write_adapter(place.work / "evil.safetensors", loba_recipe=recipe)
    done = loba([command, str(file), "--yes"])
    assert done.exit_code in (2, 7), done.stderr
    assert not place.started


@pytest.mark.parametrize(
    "address",
    [
        "hub://me/sliders/size.yaml@../../../../x",
        "hub://me/sliders/size.yaml@-x",
        "hub://me/sliders/size.yaml@a\nb",
        "hub://../sliders/size.yaml",
        "hub://me/sliders/a\x9b.yaml",
        "hub://me/sliders/-x.yaml",
        "hub://me/sliders/../../../etc/passwd",
        "hub://mе/sliders/size.yaml",  # noqa: RUF001  a Cyrillic letter
    ],
)
def test_an_address_that_leads_elsewhere_is_refused_before_the_hub_is_asked(
    place: Place, address: str
) -> None:
    before = place.tree()
    for command in (["run", address, "--yes"], ["validate", address], ["plan", address, "--yes"]):
        assert loba(command).exit_code in (2, 8)
    assert not place.hub.requests
    assert place.tree() == before


def test_what_was_shown_is_what_is_used(place: Place) -> None:
    command = place.commands(recipe_text())["sample file"]
    loba([*command, "--yes"])
    (started,) = place.started
    assert isinstance(started, Request)
    assert started.recipe is not None
    from loba_tui.core.plugins import SHIPPED

    used = parse_text(started.recipe, "request", plugins=SHIPPED)
    assert used.data is not None
    assert used.data.sources[0].path == str(place.work / "photos")
