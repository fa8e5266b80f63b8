from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from diffusers import DiffusionPipeline, StableDiffusionPipeline, StableDiffusionXLPipeline
from original_checkpoints import original_state, original_vae, save_original
from tiny_sd import open_plain

from loba_tui.core.associate.containers.loading import load_components, load_pipeline
from loba_tui.core.associate.sources.locate import locate
from loba_tui.core.associate.sources.overrides import Overrides
from loba_tui.core.errors import CorruptError, RecipeError

KINDS = ("sdxl", "sd1", "sd2")
FP8 = torch.float8_e4m3fn


@pytest.fixture(scope="session")
def checkpoints(tiny_sdxl_folder, tiny_sd_folder, tmp_path_factory):
    """Return, by kind, a folder and all its weights by the names of a checkpoint."""
    xl = StableDiffusionXLPipeline.from_pretrained(tiny_sdxl_folder)
    sd = open_plain(tiny_sd_folder)
    return {
        "sdxl": (tiny_sdxl_folder, original_state(xl)),
        "sd1": (tiny_sd_folder, original_state(sd)),
        "sd2": (tiny_sd_folder, original_state(sd, open_clip=True)),
    }


@pytest.fixture
def weightless(tmp_path):
    """Return a folder's copy without its weights."""

    def make(folder: Path) -> Path:
        ignore = shutil.ignore_patterns("*.safetensors", "*.bin")
        return shutil.copytree(folder, tmp_path / "config", ignore=ignore)

    return make


def open_file(path: Path, config: Path, dtype=torch.float32, **overrides) -> DiffusionPipeline:
    overrides = {"config": str(config), **overrides}
    return load_pipeline(locate(str(path), overrides=Overrides(**overrides)), dtype=dtype)


def assert_equal(one: DiffusionPipeline, other: DiffusionPipeline) -> None:
    names = [n for n, part in one.components.items() if isinstance(part, torch.nn.Module)]
    assert len(names) >= 3
    for name in names:
        mine, theirs = one.components[name], other.components[name]
        for each in ("named_parameters", "named_buffers"):
            first, second = dict(getattr(mine, each)()), dict(getattr(theirs, each)())
            assert first.keys() == second.keys()
            for key, value in first.items():
                assert value.dtype == second[key].dtype
                assert torch.equal(value, second[key]), f"{name}.{key}"
        assert not mine.training
        assert not any(p.requires_grad for p in mine.parameters())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_checkpoint_is_the_folder_it_was_made_from(
    checkpoints, weightless, tmp_path, kind, dtype
):
    folder, state = checkpoints[kind]
    path = save_original(state, tmp_path / "model.safetensors")
    mine = open_file(path, weightless(folder), dtype)
    assert_equal(mine, load_pipeline(locate(str(folder)), dtype=dtype))
    prompts = ["a red circle", "two blue squares!"]
    theirs = load_pipeline(locate(str(folder)), dtype=dtype)
    for name in ("tokenizer", "tokenizer_2"):
        if getattr(mine, name, None) is not None:
            ids = getattr(mine, name)(prompts).input_ids
            assert ids == getattr(theirs, name)(prompts).input_ids
    assert dict(mine.scheduler.config) == dict(theirs.scheduler.config)


@pytest.mark.parametrize("kind", KINDS)
def test_diffusers_reads_the_same_from_it(checkpoints, tmp_path, kind):
    folder, state = checkpoints[kind]
    path = save_original(state, tmp_path / "model.safetensors")
    oracle = StableDiffusionXLPipeline if kind == "sdxl" else StableDiffusionPipeline
    none = {} if kind == "sdxl" else {"safety_checker": None, "feature_extractor": None}
    theirs = oracle.from_single_file(str(path), config=str(folder), local_files_only=True, **none)
    for part in theirs.components.values():
        if isinstance(part, torch.nn.Module):
            part.requires_grad_(False)
    assert_equal(open_file(path, folder), theirs)


@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16, FP8, torch.float64])
@pytest.mark.parametrize("kind", KINDS)
def test_weights_are_what_was_stored(checkpoints, tmp_path, kind, stored):
    folder, state = checkpoints[kind]
    path = save_original(state, tmp_path / "model.safetensors", stored)
    mine = open_file(path, folder)
    theirs = load_pipeline(locate(str(folder)), dtype=torch.float32)
    for name in ("unet", "vae", "text_encoder"):
        rounded = dict(theirs.components[name].named_parameters())
        for key, value in mine.components[name].named_parameters():
            assert torch.equal(value, rounded[key].to(stored).float()), key


_OFFLINE = """
import socket, sys
def blocked(*_, **__):
    raise AssertionError("the network was asked")
for name in ("connect", "connect_ex", "sendto"):
    setattr(socket.socket, name, blocked)
socket.getaddrinfo = socket.create_connection = blocked
import torch
from loba_tui.core.associate.containers.loading import load_pipeline
from loba_tui.core.associate.sources.locate import locate
from loba_tui.core.associate.sources.overrides import Overrides
one = load_pipeline(
    locate(sys.argv[1], overrides=Overrides(config=sys.argv[2])), dtype=torch.float32
)
other = load_pipeline(locate(sys.argv[3]), dtype=torch.float32)
for name, part in one.components.items():
    if isinstance(part, torch.nn.Module):
        for key, value in other.components[name].state_dict().items():
            assert torch.equal(part.state_dict()[key], value), key
print("equal")
"""


@pytest.mark.slow
def test_loading_needs_no_network_at_all(checkpoints, weightless, tmp_path):
    folder, state = checkpoints["sdxl"]
    path = save_original(state, tmp_path / "model.safetensors")
    arguments = [str(path), str(weightless(folder)), str(folder)]
    done = subprocess.run(
        [sys.executable, "-c", _OFFLINE, *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        env={"PATH": "", "HF_HOME": str(tmp_path / "nothing"), "OMP_NUM_THREADS": "1"},
    )
    assert done.stdout == "equal\n", done.stderr


def test_some_components_load_alone(checkpoints, tmp_path):
    folder, state = checkpoints["sdxl"]
    path = save_original(state, tmp_path / "model.safetensors")
    source = locate(str(path), overrides=Overrides(config=str(folder)))
    made = load_components(source, ["text_encoder_2"], dtype=torch.float32, variant=None)
    whole = load_pipeline(locate(str(folder)), dtype=torch.float32)
    for key, value in whole.text_encoder_2.state_dict().items():
        assert torch.equal(made["text_encoder_2"].state_dict()[key], value)


def test_names_of_older_text_encoders_are_read(checkpoints, tmp_path):
    folder, state = checkpoints["sd1"]
    older = {key.replace(".text_model.", "."): value for key, value in state.items()}
    assert older.keys() != state.keys()
    path = save_original(older, tmp_path / "model.safetensors")
    theirs = load_pipeline(locate(str(folder)), dtype=torch.float32)
    assert_equal(open_file(path, folder), theirs)


@pytest.mark.parametrize(
    ("gone", "says"),
    [
        ("model.diffusion_model.out.2.weight", "its unet lacks model.diffusion_model.out.2.weight"),
        ("first_stage_model.quant_conv.bias", "its vae lacks"),
        ("conditioner.embedders.1.model.ln_final.bias", "its text_encoder_2 lacks"),
    ],
)
def test_what_a_file_lacks_is_named(checkpoints, tmp_path, gone, says):
    folder, state = checkpoints["sdxl"]
    path = save_original(
        {k: v for k, v in state.items() if k != gone}, tmp_path / "model.safetensors"
    )
    with pytest.raises(RecipeError, match=says):
        open_file(path, folder)


def test_a_unet_that_has_more_than_its_configuration_is_told_apart(checkpoints, tmp_path):
    folder, state = checkpoints["sdxl"]
    more = {**state, "model.diffusion_model.time_embed.cond_proj.weight": torch.zeros(4, 4)}
    path = save_original(more, tmp_path / "model.safetensors")
    with pytest.raises(RecipeError, match="has more than its configuration"):
        open_file(path, folder)


def test_another_size_than_the_ordinary_one_is_said_before_weights_are_read(checkpoints, tmp_path):
    _, state = checkpoints["sdxl"]
    path = save_original(state, tmp_path / "model.safetensors")
    source = locate(str(path))
    with pytest.raises(RecipeError) as found:
        load_pipeline(source, dtype=torch.float32)
    assert "base_model.config" in found.value.hint


@pytest.mark.parametrize("spoilt", ["no tokenizer", "other length", "other words"])
def test_a_wrong_tokenizer_is_never_taken(checkpoints, weightless, tmp_path, spoilt):
    folder, state = checkpoints["sdxl"]
    path = save_original(state, tmp_path / "model.safetensors")
    config = weightless(folder)
    settings = config / "tokenizer_2" / "tokenizer_config.json"
    if spoilt == "no tokenizer":
        for each in settings.parent.iterdir():
            each.unlink()
    elif spoilt == "other length":
        settings.write_text(json.dumps({**json.loads(settings.read_text()), "model_max_length": 7}))
    else:
        (settings.parent / "tokenizer.json").unlink()
    with pytest.raises(CorruptError, match="tokenizer_2"):
        open_file(path, config)


def test_another_vae_is_taken_from_a_file_or_a_folder(checkpoints, tmp_path):
    folder, state = checkpoints["sdxl"]
    path = save_original(state, tmp_path / "model.safetensors")
    vae = load_pipeline(locate(str(folder)), dtype=torch.float32).vae
    with torch.no_grad():
        for parameter in vae.parameters():
            parameter.mul_(1.5)
    vae.save_pretrained(tmp_path / "whole" / "vae")
    original = original_vae(vae)
    files = [
        save_original(original, tmp_path / "plain.safetensors"),
        save_original(
            {f"first_stage_model.{k}": v for k, v in original.items()}, tmp_path / "p.safetensors"
        ),
        tmp_path / "whole" / "vae" / "diffusion_pytorch_model.safetensors",
        tmp_path / "whole" / "vae",
        tmp_path / "whole",
    ]
    for each in files:
        for base, config in ((path, str(folder)), (folder, None)):
            source = locate(str(base), overrides=Overrides(vae=str(each), config=config))
            found = load_pipeline(source, dtype=torch.float32).vae
            for key, value in vae.state_dict().items():
                assert torch.equal(found.state_dict()[key], value), (each, key)


def test_a_checkpoint_without_a_vae_needs_one(checkpoints, tmp_path):
    folder, state = checkpoints["sd1"]
    without = {k: v for k, v in state.items() if not k.startswith("first_stage_model.")}
    path = save_original(without, tmp_path / "model.safetensors")
    with pytest.raises(RecipeError, match="has no VAE") as found:
        locate(str(path), overrides=Overrides(config=str(folder)))
    assert "base_model.vae" in found.value.hint
    theirs = load_pipeline(locate(str(folder)), dtype=torch.float32)
    assert_equal(open_file(path, folder, vae=str(folder)), theirs)


@pytest.mark.parametrize("kind", ["sdxl", "sd1"])
def test_marker_keys_set_the_schedule(checkpoints, tmp_path, kind):
    folder, state = checkpoints[kind]
    marked = {**state, "v_pred": torch.tensor([]), "ztsnr": torch.tensor([])}
    path = save_original(marked, tmp_path / "model.safetensors")
    config = open_file(path, folder).scheduler.config
    assert config["prediction_type"] == "v_prediction"
    assert config["rescale_betas_zero_snr"] is True
    assert config["timestep_spacing"] == "trailing"
    own = open_file(path, folder, prediction_type="epsilon", zero_snr=False).scheduler.config
    assert own["prediction_type"] == "epsilon"
    assert not own["rescale_betas_zero_snr"]


def test_a_folder_s_schedule_can_be_overridden(tiny_sdxl_folder):
    overrides = Overrides(prediction_type="v_prediction", zero_snr=True)
    source = locate(str(tiny_sdxl_folder), overrides=overrides)
    pipeline = load_pipeline(source, dtype=torch.float32)
    assert pipeline.scheduler.config.prediction_type == "v_prediction"
    betas = (
        type(pipeline.scheduler)
        .from_config(pipeline.scheduler.config, rescale_betas_zero_snr=False)
        .alphas_cumprod
    )
    assert not torch.equal(pipeline.scheduler.alphas_cumprod, betas)


def test_a_damaged_file_is_corrupt(checkpoints, tmp_path):
    folder, state = checkpoints["sd1"]
    path = save_original(state, tmp_path / "model.safetensors")
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CorruptError):
        open_file(path, folder)
