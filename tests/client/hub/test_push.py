"""`loba push` with the real client to a hub on loopback; what it wrote is loaded from there."""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hub_client import talking_to
from hub_repos import KeptRepo
from hub_server import Fault, Hub, serve
from hub_writes import READ_TOKEN, TOKEN, WriteHandler
from huggingface_hub import constants
from huggingface_hub.utils import close_session
from typer.testing import CliRunner, Result

from loba_tui import cli
from loba_tui.core.plugins import SHIPPED
from loba_tui.core.recipe.load import dump_recipe, load_recipe, parse_text
from loba_tui.core.run.directory import Ledger, RunDir

RECIPE = Path(__file__).parents[3] / "recipes/slider.yaml"
EVERYTHING = {
    "README.md",
    "pytorch_lora_weights.safetensors",
    "adapter.kohya.safetensors",
    "recipe.yaml",
    "report.json",
    "report.png",
    "strip.png",
}


def adapter_bytes(**metadata: str) -> bytes:
    tensor = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
    header = json.dumps({"__metadata__": metadata, "unet.x.lora_A.weight": tensor}).encode()
    return struct.pack("<Q", len(header)) + header + struct.pack("<2f", 1.0, 2.0)


def make_run(place: Path, recipe: str | None = None, *, is_own: bool = True) -> RunDir:
    ledger = Ledger.of_user(os.environ) if is_own else None
    run_dir = RunDir.create(place, "size-slider", ledger=ledger)
    text = recipe if recipe is not None else dump_recipe(load_recipe(RECIPE, plugins=SHIPPED))
    run_dir.recipe.path.write_text(text)
    facts = {"loba.version": "0.1.0", "loba.step": "70", "loba.effect.outcome": "works"}
    run_dir.adapter.path.write_bytes(adapter_bytes(**facts))
    run_dir.adapter_kohya.path.write_bytes(adapter_bytes(form="kohya"))
    report = {
        "outcome": "works",
        "verdict": ["It moves <shape_area>."],
        "clean_range": [-2.0, 2.0],
    }
    run_dir.report.path.write_text(json.dumps(report))
    run_dir.report_picture.path.write_bytes(b"\x89PNG report")
    run_dir.sample_strip(35).path.write_bytes(b"\x89PNG early")
    run_dir.sample_strip(70).path.write_bytes(b"\x89PNG late")
    return run_dir


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub that this process's client talks to as the user `me`."""
    with serve({}, WriteHandler) as served, talking_to(served, tmp_path, monkeypatch):
        yield served


@pytest.fixture
def run_dir(hub: Hub, tmp_path: Path) -> RunDir:
    return make_run(tmp_path)


def push(hub: Hub, run_dir: RunDir, *arguments: str, token: str | None = TOKEN) -> Result:
    done = CliRunner().invoke(
        cli.app, ["push", str(run_dir.path), *arguments], env={"HF_TOKEN": token}
    )
    assert done.exception is None or isinstance(done.exception, SystemExit)
    assert TOKEN not in done.stdout + done.stderr
    return done


def child(hub: Hub, home: Path, *code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", *code],
        env={
            **os.environ,
            "HF_TOKEN": TOKEN,
            "HF_ENDPOINT": hub.endpoint,
            "HF_HOME": str(home / "home"),
            "HF_HUB_DISABLE_XET": "1",
        },
        cwd=home,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def front_matter(card: str) -> dict[str, Any]:
    _, block, page = card.split("---\n", 2)
    assert page.strip()
    found = yaml.safe_load(block)
    assert isinstance(found, dict)
    return found


def test_a_run_is_pushed_whole_in_one_commit_and_private(hub, run_dir):
    done = push(hub, run_dir, "--message", "the first one")
    assert done.exit_code == 0, done.stderr
    repo = hub.kept["me/size-slider"]
    assert repo.private
    assert repo.messages == ["initial commit", "the first one"]
    commit, files = repo.at("main")
    assert commit in done.stdout
    assert 'pipe.load_lora_weights("me/size-slider")' in done.stdout
    assert set(files) == {".gitattributes", *EVERYTHING}
    weights = files["pytorch_lora_weights.safetensors"].read_bytes()
    assert weights == run_dir.adapter.path.read_bytes()
    assert files["strip.png"].read_bytes() == b"\x89PNG late"
    card = files["README.md"].read_bytes().decode()
    data = front_matter(card)
    assert data["library_name"] == "diffusers"
    assert data["pipeline_tag"] == "text-to-image"
    assert data["license"] == "apache-2.0"
    assert {"lora", "diffusers", "text-slider"} <= set(data["tags"])
    assert data["widget"][0] == {
        "text": "a cyan square on a white background",
        "output": {"url": "strip.png"},
    }
    assert "base_model" not in data  # the embedded model has no page of its own
    assert 'pipe.set_adapters("slider", 2)' in card
    assert "*a red circle on a black background* towards" in card
    assert "and 47 more" in card
    assert r"It moves \<shape\_area\>." in card
    assert (
        parse_text(files["recipe.yaml"].read_bytes().decode(), "pushed", plugins=SHIPPED).name
        == "size-slider"
    )


def test_the_card_names_the_base_model_its_licence_and_its_commit(hub, run_dir):
    recipe = RECIPE.with_name("slider_unet.yaml").read_text()
    recipe = recipe.replace("builtin:shapes-xl", "stabilityai/sdxl").replace("unet-size", "size")
    data = "data: {sources: [{path: /home/me/photos}], captions: {trigger: sks style}}"
    method = "method: {name: lora_finetune}\n\n"
    before, _, after = recipe.partition("method:\n")
    recipe = f"{before}{method}{data}\n\noptimizer:{after.partition('optimizer:')[2]}"
    run_dir.recipe.path.write_text(recipe)
    metadata = {
        "loba.base_model_revision": "f" * 40,
        "modelspec.architecture": "stable-diffusion-xl-v1-base/lora",
    }
    run_dir.adapter.path.write_bytes(adapter_bytes(**metadata))
    hub.kept["stabilityai/sdxl"] = KeptRepo()
    hub.cards["stabilityai/sdxl"] = {"license": "openrail++"}
    assert push(hub, run_dir).exit_code == 0
    card = hub.kept["me/size-slider"].at("main")[1]["README.md"].read_bytes().decode()
    data = front_matter(card)
    assert data["base_model"] == "stabilityai/sdxl"
    assert data["base_model_relation"] == "adapter"
    assert data["license"] == "openrail++"
    assert data["instance_prompt"] == "sks style"
    assert "stable-diffusion-xl" in data["tags"]
    assert "f" * 40 in card
    uploaded = hub.kept["me/size-slider"].at("main")[1]["recipe.yaml"].read_bytes().decode()
    assert "path: photos" in uploaded
    assert "/home/me" not in uploaded


def test_a_kind_that_peft_alone_loads_is_pushed_as_its_folder(hub, run_dir):
    peft = run_dir.adapter_dir.path / "peft"
    peft.mkdir()
    (peft / "adapter_config.json").write_text('{"peft_type": "OFT"}')
    (peft / "adapter_model.safetensors").write_bytes(adapter_bytes())
    run_dir.adapter_kohya.path.unlink()
    done = push(hub, run_dir)
    assert done.exit_code == 0, done.stderr
    line = 'PeftModel.from_pretrained(pipe.unet, "me/size-slider", subfolder="peft")'
    assert line in done.stdout
    files = hub.kept["me/size-slider"].at("main")[1]
    assert {"peft/adapter_config.json", "peft/adapter_model.safetensors"} <= set(files)
    # What `load_lora_weights` would take by its name, and could not read, is not there.
    assert "pytorch_lora_weights.safetensors" not in files
    card = files["README.md"].read_bytes().decode()
    assert line in card
    assert "load_lora_weights" not in card
    assert "peft" in front_matter(card)["tags"]
    assert "template:sd-lora" not in front_matter(card)["tags"]


def transformers_run(run_dir):
    about = {"modelspec.architecture": "z-image/lora"}
    run_dir.adapter.path.write_bytes(adapter_bytes(**about))
    run_dir.adapter_kohya.path.unlink()
    run_dir.adapter_comfy.path.write_bytes(adapter_bytes(form="comfy", **about))
    return run_dir


def test_a_transformers_adapter_has_its_file_for_comfyui_beside_it(hub, run_dir):
    done = push(hub, transformers_run(run_dir))
    assert done.exit_code == 0, done.stderr
    files = hub.kept["me/size-slider"].at("main")[1]
    assert "adapter.comfy.safetensors" in files
    card = files["README.md"].read_bytes().decode()
    assert "`adapter.comfy.safetensors` is the same adapter for ComfyUI." in card
    assert "z-image" in front_matter(card)["tags"]


def test_peft_loads_a_transformers_adapter_into_the_transformer(hub, run_dir):
    peft = transformers_run(run_dir).adapter_dir.path / "peft"
    peft.mkdir()
    (peft / "adapter_config.json").write_text('{"peft_type": "OFT"}')
    (peft / "adapter_model.safetensors").write_bytes(adapter_bytes(form="peft"))
    done = push(hub, run_dir)
    assert done.exit_code == 0, done.stderr
    line = 'PeftModel.from_pretrained(pipe.transformer, "me/size-slider", subfolder="peft")'
    assert line in done.stdout
    card = hub.kept["me/size-slider"].at("main")[1]["README.md"].read_bytes().decode()
    assert f"pipe.transformer = {line}" in card


def test_a_dry_run_needs_no_login_and_changes_nothing(hub, run_dir):
    done = push(hub, run_dir, "--dry-run", token=None)
    assert done.exit_code == 0, done.stderr
    assert "you/size-slider@main (private, new)" in done.stdout
    assert hub.kept == {}
    record = json.loads(push(hub, run_dir, "--dry-run", "--json").stdout)
    assert record["repo"] == "me/size-slider"
    assert {each["path"]: each["change"] for each in record["files"]} == dict.fromkeys(
        EVERYTHING, "new"
    )
    assert hub.kept == {}


def test_a_second_push_uploads_only_what_changed_and_asks_before_it_replaces(hub, run_dir):
    assert push(hub, run_dir).exit_code == 0
    again = push(hub, run_dir)
    assert again.exit_code == 0
    assert "nothing changed" in again.stderr
    assert len(hub.kept["me/size-slider"].messages) == 2
    run_dir.report.path.write_text(json.dumps({"outcome": "entangled"}))
    refused = push(hub, run_dir)
    assert refused.exit_code == 8
    assert "report.json will be replaced" in refused.stderr
    assert len(hub.kept["me/size-slider"].messages) == 2
    record = json.loads(push(hub, run_dir, "--yes", "--json").stdout)
    changes = {each["path"]: each["change"] for each in record["files"]}
    assert [path for path in changes if changes[path] == "replaced"] == ["README.md", "report.json"]
    assert record["commit"] == hub.kept["me/size-slider"].refs["main"]


def test_a_branch_is_made_and_main_stays(hub, run_dir):
    done = push(hub, run_dir, "--repo", "size", "--revision", "v2")
    assert done.exit_code == 0, done.stderr
    repo = hub.kept["me/size"]
    assert set(repo.at("main")[1]) == {".gitattributes"}
    assert set(repo.at("v2")[1]) >= EVERYTHING
    assert 'revision="v2"' in done.stdout


def test_public_is_asked_for_and_never_given_by_accident(hub, run_dir):
    refused = push(hub, run_dir, "--public")
    assert refused.exit_code == 8
    assert "everybody will be able to see it" in refused.stderr
    assert hub.kept == {}
    assert push(hub, run_dir, "--public", "--yes").exit_code == 0
    assert not hub.kept["me/size-slider"].private
    again = push(hub, run_dir, "--yes")
    assert again.exit_code == 8
    assert "everybody can read it" in again.stderr


@pytest.mark.parametrize(
    ("token", "code", "phrase"),
    [
        (None, 2, "not logged in"),
        ("hf_" + "wrong" * 5, 2, "does not accept your login"),
        (READ_TOKEN, 2, "may not write"),
    ],
)
def test_a_login_that_does_not_do_is_explained(hub, run_dir, token, code, phrase):
    done = push(hub, run_dir, token=token)
    assert done.exit_code == code
    assert phrase in done.stderr
    assert "hf auth login" in done.stderr
    assert hub.kept == {}


SECRET = "hf_" + "s" * 34


@pytest.mark.parametrize("where", ["recipe", "report", "metadata", "picture", "environment"])
def test_a_file_that_holds_a_token_is_not_uploaded(hub, run_dir, where, monkeypatch):
    if where == "recipe":
        run_dir.recipe.path.write_text(f"# {SECRET}\n" + run_dir.recipe.path.read_text())
    elif where == "report":
        run_dir.report.path.write_text(json.dumps({"outcome": SECRET}))
    elif where == "metadata":
        run_dir.adapter.path.write_bytes(adapter_bytes(comment=SECRET))
    elif where == "picture":
        run_dir.report_picture.path.write_bytes(b"\x89PNG\0" + SECRET.encode())
    else:
        monkeypatch.setenv("MY_API_KEY", "not-like-a-token-at-all")
        run_dir.report.path.write_text(json.dumps({"outcome": "not-like-a-token-at-all"}))
    done = push(hub, run_dir)
    assert done.exit_code == 8
    assert "access token" in done.stderr
    assert SECRET not in done.stderr
    assert hub.kept == {}


@pytest.mark.parametrize("which", ["file", "folder"])
def test_a_link_in_a_run_folder_from_elsewhere_is_not_followed(hub, run_dir, tmp_path, which):
    private = tmp_path / "private"
    private.mkdir()
    (private / "holiday.png").write_bytes(b"\x89PNG me")
    if which == "file":
        run_dir.report.path.unlink()
        run_dir.report.path.symlink_to(private / "holiday.png")
    else:
        shutil.rmtree(run_dir.samples.path)
        run_dir.samples.path.symlink_to(private)
    done = push(hub, run_dir)
    assert done.exit_code == 8
    assert "is a link" in done.stderr
    assert hub.kept == {}


def test_a_run_without_an_adapter_or_with_a_damaged_one_is_not_pushed(hub, run_dir):
    run_dir.adapter_kohya.path.write_bytes(b"\0" * 40)
    damaged = push(hub, run_dir)
    assert damaged.exit_code == 7
    run_dir.adapter.path.unlink()
    missing = push(hub, run_dir)
    assert missing.exit_code == 7
    assert "--resume" in missing.stderr
    assert hub.kept == {}


def test_an_upload_that_breaks_leaves_no_commit_and_is_gone_on_with(hub, run_dir):
    hub.faults = [Fault("/upload/", "cut", method="PUT", times=1000)]
    broken = push(hub, run_dir)
    assert broken.exit_code == 4
    assert "Push again" in broken.stderr
    assert hub.kept["me/size-slider"].messages == ["initial commit"]
    hub.faults = []
    assert push(hub, run_dir).exit_code == 0
    assert set(hub.kept["me/size-slider"].at("main")[1]) >= EVERYTHING


@pytest.mark.parametrize(("status", "code"), [(412, 6), (500, 4)])
def test_a_commit_that_is_refused_is_explained(hub, run_dir, status, code):
    assert push(hub, run_dir).exit_code == 0
    run_dir.report.path.write_text("{}")
    hub.faults = [Fault("/commit/", "status", status, method="POST", times=1000)]
    done = push(hub, run_dir, "--yes")
    assert done.exit_code == code


def test_what_a_strangers_run_names_is_not_asked_for(hub, tmp_path):
    text = RECIPE.read_text().replace("builtin:shapes-xl", "stranger/model")
    done = push(hub, make_run(tmp_path, text, is_own=False))
    assert done.exit_code == 0, done.stderr
    assert "no licence is given" in done.stderr
    assert not [each for each in hub.requests if "stranger" in each.path]
    push(hub, make_run(tmp_path / "own", text))
    assert [each for each in hub.requests if "stranger" in each.path]


@pytest.mark.parametrize(
    ("option", "name", "code"),
    [
        ("--repo", "me/my slider", 2),
        ("--repo", "me/../../etc", 8),
        ("--revision", "../../main", 8),
        ("--revision", "a\nb", 8),
    ],
)
def test_a_name_that_is_none_is_refused(hub, run_dir, option, name, code):
    done = push(hub, run_dir, option, name)
    assert done.exit_code == code
    assert not [each for each in hub.requests if each.method == "POST"]


def test_offline_it_says_so(hub, run_dir, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    close_session()
    done = push(hub, run_dir)
    assert done.exit_code == 4
    assert "connection to the hub" in done.stderr


def test_torch_is_not_loaded_for_it(hub, run_dir):
    code = (
        "import sys, atexit\natexit.register(lambda: print('torch' in sys.modules))\n"
        "from loba_tui.cli import main\nmain()"
    )
    done = child(hub, run_dir.path.parent, code, "push", str(run_dir.path), "--dry-run")
    assert done.stdout.splitlines()[-1] == "False"


LOAD = """
import json, sys, torch
from diffusers import StableDiffusionXLPipeline
pipe = StableDiffusionXLPipeline.from_pretrained(sys.argv[1])
pipe.load_lora_weights("me/size-slider", adapter_name="slider")
weights = {n: p for n, p in pipe.unet.named_parameters() if "lora_" in n}
print(json.dumps([len(weights), sum(float(p.double().sum()) for p in weights.values())]))
"""


@pytest.mark.slow
def test_diffusers_loads_what_was_pushed(hub, run_dir, tiny_sdxl_folder):
    from peft import LoraConfig

    from loba_tui.core.associate.model_cache import ModelCache
    from loba_tui.core.program.adapter_files.adapter import write_adapter

    container = ModelCache("cpu").container(str(tiny_sdxl_folder))
    targets = container.adapter_targets()["cross_attention"]
    container.denoiser.add_adapter(LoraConfig(r=2, lora_alpha=1.0, target_modules=targets))
    named = {n: p for n, p in container.denoiser.named_parameters() if "lora_" in n}
    for number, parameter in enumerate(named.values()):
        parameter.data.fill_(0.01 * (number + 1))
    write_adapter(container.denoiser, run_dir.adapter_dir, metadata={})
    assert push(hub, run_dir).exit_code == 0
    done = child(hub, run_dir.path.parent, LOAD, str(tiny_sdxl_folder))
    assert done.returncode == 0, done.stderr
    # alpha / rank is in the up-projections.
    total = sum(
        float(parameter.detach().double().sum()) * (0.5 if "lora_B" in name else 1.0)
        for name, parameter in named.items()
    )
    assert json.loads(done.stdout) == [len(named), pytest.approx(total)]
    assert "multiple weights" not in done.stderr.lower()
