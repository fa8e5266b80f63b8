"""What a run holds in memory and on disk never shows in what it makes."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from program_runs import events, shape_slider
from safetensors.torch import load_file

from loba_tui.client.runs import describe as listing
from loba_tui.client.runs import steer as runs
from loba_tui.core.errors import RecipeError
from loba_tui.core.plugins import SHIPPED
from loba_tui.core.program.steering.components import Components
from loba_tui.core.program.train import train
from loba_tui.core.recipe.load import dump_recipe
from loba_tui.core.recipe.schema import Recipe
from loba_tui.core.run.control import Command, send
from loba_tui.core.run.directory import RunDir
from loba_tui.core.run.start_options import StartOptions
from loba_tui.core.run.writer import NullWriter, Records, RunWriter

TEXT_ENCODERS = ["text_encoder", "text_encoder_2"]


def recipe(**sections: Any) -> Recipe:
    settings = {
        "name": "held",
        "adapter": {"layers": ["cross_attention"]},
        "train": {"steps": 5, "batch_size": 2},
        "sample": {"every": 3, "steps": 2, "scales": [-1, 1], "prompts": ["a circle"]},
        "proof": {"enabled": False},
    }
    return shape_slider(4, **settings | sections)


class Hand:
    """Sends commands once so many steps are recorded, and looks at the status at each step."""

    def __init__(self, run_dir: RunDir, plan: Mapping[int, list[Command]]) -> None:
        self.run_dir, self.plan = run_dir, dict(plan)
        self.seen: dict[int, dict[str, Any]] = {}

    @property
    def is_set(self) -> bool:
        path = self.run_dir.metrics.path
        step = len(path.read_text().splitlines()) if path.exists() else 0
        for command in self.plan.pop(step, []):
            send(self.run_dir, command)
        if path.exists():
            self.seen[step] = listing.run_record(self.run_dir)
        return False


def run(
    parent: Path,
    plan: Mapping[int, list[Command]],
    wanted: Recipe | None = None,
    **how: Any,
) -> tuple[RunDir, Hand]:
    wanted = wanted or recipe()
    run_dir = RunDir.create(parent, "held")
    run_dir.recipe.path.write_text(dump_recipe(wanted))
    hand = Hand(run_dir, plan)
    with RunWriter.open(run_dir) as writer:
        train(wanted, run_dir, writer, hand, StartOptions(**how), SHIPPED)
        writer.status(phase="finished")
    return run_dir, hand


def results(run_dir: RunDir) -> dict[str, str]:
    files = [run_dir.adapter, run_dir.adapter_kohya, *run_dir.strips()]
    return {file.name: hashlib.sha256(file.path.read_bytes()).hexdigest() for file in files}


def move(kind: Any, component: str) -> Command:
    return Command(kind, {"component": component})


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunDir, Hand]:
    return run(tmp_path_factory.mktemp("plain"), {})


@pytest.fixture(scope="module")
def moved(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunDir, Hand]:
    plan = {
        1: [move("unload", "vae"), move("unload", "unet"), move("offload", "vae")],
        # Step 3 draws a strip, which has the VAE come and go.
        3: [move("unload", "vae"), move("onload", "text_encoder"), move("onload", "nonsense")],
    }
    return run(tmp_path_factory.mktemp("moved"), plan)


def test_moving_components_leaves_every_bit_of_the_results(plain, moved) -> None:
    found = results(moved[0])
    assert {"step-000003.png", "step-000005.png", "adapter.safetensors"} <= found.keys()
    assert found == results(plain[0])


def test_each_command_is_answered(moved) -> None:
    answers = [
        (each["command"], each["accepted"], each.get("component"), each.get("message", ""))
        for each in events(moved[0], "command")
    ]
    assert [answer[:3] for answer in answers] == [
        ("unload", True, "vae"),
        ("unload", False, None),
        ("offload", False, None),
        ("unload", False, None),
        ("onload", True, "text_encoder"),
        ("onload", False, None),
    ]
    assert "training needs unet" in answers[1][3]
    assert "nowhere to offload to" in answers[2][3]
    assert "vae of builtin:shapes-xl is not in memory" in answers[3][3]
    assert "no component nonsense" in answers[5][3]
    assert events(moved[0], "sample_failed") == []


def test_the_status_says_what_is_resident(plain, moved) -> None:
    first = plain[1].seen[1]
    assert [each["component"] for each in first["resident"]] == ["vae", "unet"]
    assert first["unloaded"] == TEXT_ENCODERS
    (vae,) = (each for each in first["resident"] if each["component"] == "vae")
    assert (vae["device"], vae["dtype"]) == ("cpu", "float32")
    folder = Path(__file__).parents[4] / "loba_tui" / "models" / "shapes-xl" / "vae"
    assert vae["bytes"] == pytest.approx(parameters_in(folder) * 4, rel=0.01)
    lines = listing.record_lines(first)
    assert any(line.startswith("in memory") and "vae" in line for line in lines)
    assert any("unloaded" in line and "text_encoder_2" in line for line in lines)
    # The VAE came back for the strip of step 3, and went again after it.
    assert moved[1].seen[3]["unloaded"] == [*TEXT_ENCODERS, "vae"]
    at_the_end = moved[1].seen[5]
    assert at_the_end["unloaded"] == ["text_encoder_2", "vae"]
    assert "text_encoder" in [each["component"] for each in at_the_end["resident"]]
    dead = listing.run_record(moved[0])
    assert (dead["resident"], dead["unloaded"]) == ([], [])


def test_what_moves_by_itself_is_left_alone() -> None:
    from loba_tui.core.associate.model_cache import ModelCache

    cache = ModelCache("cpu")
    container = cache.container("builtin:shapes-xl")
    container.pipeline.vae._hf_hook = object()  # as accelerate marks what it moves
    components = Components(cache, "builtin:shapes-xl", container, NullWriter())
    with pytest.raises(RecipeError, match=r"base_model\.offload moves"):
        components.obey(move("unload", "vae"))
    assert container.pipeline.vae is not None


class Movable(torch.nn.Linear):
    """A network that can be moved where there is no accelerator: "meta" stands for one."""

    def to(self, device: Any) -> Movable:
        return self.to_empty(device=device)


class TwoParts:
    """A pipeline of two networks on the accelerator."""

    def __init__(self) -> None:
        self.components = {name: Movable(3, 3, device="meta") for name in ("unet", "vae")}


def test_what_was_offloaded_goes_back_after_the_pictures(monkeypatch) -> None:
    from loba_tui.core.associate.model_cache import ModelCache

    monkeypatch.setattr(torch.accelerator, "empty_cache", lambda: None)
    cache, pipeline = ModelCache("cpu"), TwoParts()
    cache.device = torch.device("meta")
    cache.put("model", pipeline)
    vae = pipeline.components["vae"]
    container: Any = SimpleNamespace(
        pipeline=pipeline,
        denoiser=pipeline.components["unet"],
        device=cache.device,
        text_encoders=(),
        trains_text_encoders=False,
    )
    components = Components(cache, "model", container, NullWriter())
    answer = components.obey(move("offload", "vae"))
    assert (answer, vae.weight.device.type) == ({"component": "vae", "bytes": 48}, "cpu")
    with components.lent():
        cache.onload("model", "vae")  # as a container does that needs it
        assert vae.weight.device.type == "meta"
    assert vae.weight.device.type == "cpu"
    components.obey(move("onload", "vae"))
    with components.lent():
        pass
    assert vae.weight.device.type == "meta"
    with pytest.raises(RecipeError, match="cannot be offloaded"):
        components.obey(move("offload", "unet"))


def test_a_name_is_checked_before_the_command_is_sent(moved) -> None:
    assert runs.memory_command(moved[0], "unload", "unet") == move("unload", "unet")
    assert runs.memory_command(moved[0], "onload", "vae") == move("onload", "vae")
    with pytest.raises(RecipeError, match="no component vea") as refused:
        runs.memory_command(moved[0], "unload", "vea")
    assert refused.value.hint == "Did you mean vae?"


def parameters_in(folder: Path) -> int:
    from loba_tui.core.associate.safe_files import check_safetensors

    (path,) = folder.glob("*.safetensors")
    header = check_safetensors(path)
    total = 0
    for name, tensor in header.items():
        if name != "__metadata__":
            size = 1
            for side in tensor["shape"]:
                size *= side
            total += size
    return total


def test_the_status_is_written_only_when_something_changed(tmp_path) -> None:
    from loba_tui.core.associate.model_cache import ModelCache

    cache = ModelCache("cpu")
    container = cache.container("builtin:shapes-xl")
    told: list[dict[str, Any]] = []

    class Telling(Records):
        def status(self, **facts: Any) -> None:
            told.append(facts)

    components = Components(cache, "builtin:shapes-xl", container, Telling())
    components.publish()
    components.publish()
    assert len(told) == 1
    with components.lent():
        pass
    assert len(told) == 1
    components.obey(move("unload", "vae"))
    assert told[1]["unloaded"] == ["vae"]
    with components.lent():
        container.require("vae")
        components.publish()
    assert [each["unloaded"] for each in told[1:]] == [["vae"], [], ["vae"]]


def test_a_warm_and_a_cold_cache_on_disk_give_the_same_bytes(plain, tmp_path) -> None:
    tensors = tmp_path / "tensors"
    cold, _ = run(tmp_path, {}, tensors=tensors)
    entries = sorted(tensors.glob("embeds/*/*/*.safetensors"))
    assert len(entries) > 3
    entries[0].write_bytes(entries[0].read_bytes()[:-1] + b"?")
    entries[1].unlink()
    warm, _ = run(tmp_path, {}, tensors=tensors)
    assert results(cold) == results(warm) == results(plain[0])
    (warning,) = [each for each in events(warm, "warning") if "damaged" in each["message"]]
    assert entries[0].name in warning["message"]
    assert sorted(tensors.glob("embeds/*/*/*.safetensors")) == entries


def test_no_text_encoder_is_loaded_where_every_prompt_is_kept(tmp_path, monkeypatch) -> None:
    from loba_tui.core.associate import model_cache
    from loba_tui.core.program.open_model import open_model

    loaded: list[set[str]] = []
    load = model_cache.load_pipeline

    def watched(*args: Any, **how: Any) -> Any:
        pipeline = load(*args, **how)
        loaded.append({name for name, part in pipeline.components.items() if part is not None})
        return pipeline

    monkeypatch.setattr(model_cache, "load_pipeline", watched)
    prompts = ["a red circle", ""]
    cold = open_model(recipe(), prompts=prompts, plugins=SHIPPED, tensors=tmp_path)
    warm = open_model(recipe(), prompts=prompts, plugins=SHIPPED, tensors=tmp_path)
    assert loaded[0] - loaded[1] == set(TEXT_ENCODERS)
    for entry in tmp_path.glob("embeds/*/*/*.safetensors"):
        entry.write_bytes(b"damaged")
    damaged = open_model(
        recipe(), prompts=prompts, plugins=SHIPPED, tensors=tmp_path, on_problem=[].append
    )
    for prompt in prompts:
        for other in (warm, damaged):
            assert (other.embeds[prompt].embeds == cold.embeds[prompt].embeds).all()
            assert (other.embeds[prompt].pooled == cold.embeds[prompt].pooled).all()
    for model in (cold, warm, damaged):
        assert model.container.pipeline.text_encoder is None
        cache = model.wrapper.cache
        assert cache.left_out("builtin:shapes-xl") == TEXT_ENCODERS


@pytest.mark.slow
def test_latents_on_disk_in_memory_or_made_each_time_train_the_same(tmp_path) -> None:
    folder, tensors = tmp_path / "images", tmp_path / "tensors"
    folder.mkdir()
    draw = np.random.default_rng(0)
    for number in range(4):
        pixels = draw.integers(0, 255, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(f"a circle {number}")

    def weights(cache: str, *moves: Command) -> tuple[dict[str, list[float]], list[str]]:
        wanted = recipe(
            method={"name": "lora_finetune"},
            data={"sources": [{"path": str(folder)}], "cache": cache},
        )
        run_dir, hand = run(tmp_path, {1: list(moves)}, wanted, tensors=tensors)
        assert all(each["accepted"] for each in events(run_dir, "command"))
        loaded = load_file(run_dir.adapter.path)
        return {name: value.tolist() for name, value in loaded.items()}, hand.seen[5]["unloaded"]

    expected, _ = weights("memory")
    assert not list(tensors.glob("latents/*/*/*.safetensors"))
    assert weights("disk")[0] == expected
    assert len(list(tensors.glob("latents/*/*/*.safetensors"))) == 4
    warm, unloaded = weights("disk", move("unload", "vae"))
    assert (warm, "vae" in unloaded) == (expected, True)
    each_time, unloaded = weights("none", move("unload", "vae"))
    # Training itself needed the VAE, and so has it back.
    assert (each_time, "vae" in unloaded) == (expected, False)
