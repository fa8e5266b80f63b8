"""Adapters of transformers: our two files in diffusers' own pipelines, and read back."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from lycoris import create_lycoris_from_weights
from peft import LoraConfig, PeftModel
from safetensors.torch import load_file, save_file
from tiny_adapters import add_moved_adapter
from tiny_transformers import TINY, Tiny, as_original, linear_layers
from torch import Tensor, nn

from loba_tui.core.errors import RecipeError
from loba_tui.core.owned_files import OwnedFolder
from loba_tui.core.plugins import SHIPPED
from loba_tui.core.program.adapter_files.adapter import lora_layers, write_adapter
from loba_tui.core.program.adapter_files.comfy import other_file
from loba_tui.core.program.adapter_files.families import adapter_family
from loba_tui.core.program.adapter_files.file import WrittenFile, read_file, serialize
from loba_tui.core.program.adapter_files.formats import config_of, diffusers_file
from loba_tui.core.program.adapter_files.load import load_adapter
from loba_tui.core.program.adapter_files.read.read import read_adapter_file
from loba_tui.core.program.adapter_layers.kinds import (
    adapted_layers,
    leave_out_others,
    tuner_layers,
)
from loba_tui.core.program.combine.merge import low_rank_of
from loba_tui.core.program.training.initial_adapter import InitialFile, begin_with

NEAR = 1e-6
OF_NORM_OUT = "norm_out.linear"


def same(one: Tensor, other: Tensor) -> bool:
    """Say whether predictions are equal but for rounding."""
    return float((one - other).abs().max()) <= NEAR * max(1.0, float(other.abs().max()))


@dataclass(frozen=True)
class Made:
    """A tiny model with an adapter on every linear layer, and its files."""

    tiny: Tiny
    model: nn.Module
    files: dict[str, WrittenFile]

    @property
    def predicted(self) -> Tensor:
        return self.tiny.asked(self.model)


def make(tiny: Tiny, folder: Path, layers: list[str], **options: Any) -> Made:
    model = tiny.made()
    # A rank of its own for two layers, one of which others' names end with, and an alpha that is
    # no power of two of the rank.
    ranks = {f"^{layers[5]}$": 2, f"^{layers[-1]}$": 3}
    config = LoraConfig(
        **{"r": 4, "lora_alpha": 3.0, "rank_pattern": ranks},
        **{"target_modules": layers, **options},
    )
    add_moved_adapter(model, config)
    return Made(tiny, model, write_adapter(model, OwnedFolder(folder)))


@pytest.fixture(scope="module", params=TINY)
def made(request: pytest.FixtureRequest, tmp_path_factory: Any) -> Made:
    tiny = TINY[request.param]
    layers = linear_layers(tiny.made())
    if tiny.name == "FLUX.2":  # whose norm_out diffusers' converter takes halves the wrong way
        layers.remove(OF_NORM_OUT)
    return make(tiny, tmp_path_factory.mktemp("adapter"), layers)


def test_both_files_load_in_the_familys_own_pipeline(made: Made) -> None:
    assert set(made.files) == {"diffusers", "comfy"}
    base = made.tiny.asked(made.tiny.made())
    assert float((made.predicted - base).abs().max()) > 0.1
    for file in made.files.values():
        pipe = made.tiny.pipe(made.tiny.made())
        pipe.load_lora_weights(str(file.path))
        assert same(made.tiny.asked(pipe.transformer), made.predicted), file.path.name


COMFYUIS = {
    "Z-Image": ("diffusion_model.", True),
    "FLUX.1": ("transformer.", True),
    "Qwen-Image": ("diffusion_model.", True),
    "SD 3": ("transformer.", False),
}
"""What ComfyUI has before diffusers' names, and whether diffusers takes an alpha beside them."""


@pytest.mark.parametrize("name", COMFYUIS)
def test_comfyui_knows_every_key_of_its_file(name: str, tmp_path: Path) -> None:
    tiny = TINY[name]
    made = make(tiny, tmp_path, linear_layers(tiny.made()))
    prefix, has_alpha = COMFYUIS[name]
    parts = ["lora_A.weight", "lora_B.weight", *(["alpha"] if has_alpha else [])]
    layers = linear_layers(tiny.made())
    file = load_file(made.files["comfy"].path)
    assert set(file) == {f"{prefix}{layer}.{part}" for layer in layers for part in parts}
    if has_alpha:
        assert {float(file[f"{prefix}{layer}.alpha"]) for layer in layers} == {3.0}


def test_both_files_are_put_on_a_container(made: Made) -> None:
    for file in made.files.values():
        container = made.tiny.container(made.tiny.made())
        read = load_adapter(container, file.path)
        assert read.notes() == []
        assert read.keys.family.name == made.tiny.name
        assert same(made.tiny.asked(container.denoiser), made.predicted), file.path.name


def test_what_is_read_is_written_again_to_the_byte(made: Made) -> None:
    family = adapter_family(made.model)
    for form, file in made.files.items():
        _, metadata = read_file(file.path)
        layers = low_rank_of(read_adapter_file(file.path))
        config = made.model.peft_config["default"].to_dict()
        if form == "comfy":
            again = serialize(*other_file(layers, {}, family))
        else:
            again = serialize(*diffusers_file(layers, config, {}, family))
        assert again == file.path.read_bytes(), form
        assert metadata["modelspec.architecture"].endswith("/lora")


@pytest.mark.parametrize("name", TINY)
def test_a_lora_with_alphas_of_their_own_loads_too(name: str, tmp_path: Path) -> None:
    tiny = TINY[name]
    layers = [each for each in linear_layers(tiny.made()) if each != OF_NORM_OUT]
    made = make(tiny, tmp_path, layers, alpha_pattern={f"^{layers[-1]}$": 1.0, layers[7]: 5.0})
    for file in made.files.values():
        pipe = tiny.pipe(tiny.made())
        pipe.load_lora_weights(str(file.path))
        assert same(tiny.asked(pipe.transformer), made.predicted), file.path.name
        container = tiny.container(tiny.made())
        load_adapter(container, file.path)
        assert same(tiny.asked(container.denoiser), made.predicted), file.path.name


def test_one_form_becomes_the_other_to_the_bit(made: Made) -> None:
    trained = lora_layers(made.model, "default", made.model.peft_config["default"].to_dict())
    other = low_rank_of(read_adapter_file(made.files["comfy"].path))
    own = load_file(made.files["diffusers"].path)
    assert other.keys() == trained.keys()
    config = {"peft_type": "LORA", **config_of(other), "use_rslora": False}
    tensors, _ = diffusers_file(other, config, {}, adapter_family(made.model))
    assert tensors.keys() == own.keys()
    assert all(torch.equal(tensors[key], own[key]) for key in own)


KINDS: dict[str, dict[str, Any]] = {
    "dora": {"alpha": 3.0},
    "loha": {"alpha": 3.0, "rank": 2},
    "lokr": {"alpha": 3.0, "rank": 2},
    "oft": {},
}


@pytest.fixture(scope="module", params=[f"{kind} {name}" for kind in KINDS for name in TINY])
def other_kind(request: pytest.FixtureRequest, tmp_path_factory: Any) -> tuple[str, Made]:
    kind, _, name = request.param.partition(" ")
    tiny, model = TINY[name], TINY[name].made()
    layers = [n for n in linear_layers(model) if model.get_submodule(n).in_features % 4 == 0]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = SHIPPED.load("adapters", kind)(
            {"self_attention": layers}, layers=["self_attention"], **KINDS[kind]
        )
        add_moved_adapter(model, config)
    folder = tmp_path_factory.mktemp(kind)
    return kind, Made(tiny, model, write_adapter(model, OwnedFolder(folder)))


def test_other_kinds_come_back(other_kind: tuple[str, Made]) -> None:
    kind, made = other_kind
    assert set(made.files) == {
        "dora": {"diffusers", "comfy"},
        "oft": {"diffusers", "peft"},
    }.get(kind, {"diffusers", "peft", "comfy"})
    for form, file in made.files.items():
        model = made.tiny.made()
        if form == "peft":
            model = PeftModel.from_pretrained(model, str(file.path.parent)).base_model.model
        else:
            load_adapter(made.tiny.container(model), file.path)
        if file.lost is None:
            assert same(made.tiny.asked(model), made.predicted), form
        else:
            assert file.lost.share < 0.5


def test_diffusers_loads_dora_and_lycoris_its_own(other_kind: tuple[str, Made]) -> None:
    kind, made = other_kind
    if kind == "dora":
        pipe = made.tiny.pipe(made.tiny.made())
        pipe.load_lora_weights(str(made.files["diffusers"].path))
        assert same(made.tiny.asked(pipe.transformer), made.predicted)
    elif kind != "oft":
        layers = {f"lycoris_{name.replace('.', '_')}": layer for name, layer in _tuned(made)}
        network, _ = create_lycoris_from_weights(
            1.0, str(made.files["comfy"].path), made.tiny.made()
        )
        assert {lora.lora_name for lora in network.loras} == layers.keys()
        for lora in network.loras:
            change = layers[lora.lora_name].get_delta_weight("default")
            found = lora.get_weight(change.shape)
            torch.testing.assert_close(found, change, rtol=1e-5, atol=1e-6)


def _tuned(made: Made) -> list[tuple[str, Any]]:
    return list(tuner_layers(made.model, "default"))


@pytest.mark.parametrize("kind", ["lora", "dora", "loha", "oft"])
def test_a_name_that_others_end_with_is_that_of_one_layer(kind: str, tmp_path: Path) -> None:
    tiny = TINY["FLUX.1"]
    model, targets = tiny.made(), {"projection": ["proj_out"]}
    config = SHIPPED.load("adapters", kind)(targets, layers=["projection"])
    leave_out_others(model, config)
    add_moved_adapter(model, config)
    for form, file in write_adapter(model, OwnedFolder(tmp_path)).items():
        other = tiny.made()
        if form == "peft":
            other = PeftModel.from_pretrained(other, str(file.path.parent)).base_model.model
        else:
            load_adapter(tiny.container(other), file.path)
        adapted = {name for name, _ in adapted_layers(other, "default")}
        assert adapted == {"proj_out"}, form
        assert same(tiny.asked(other), tiny.asked(model)), form


@pytest.mark.parametrize("form", ["diffusers", "comfy"])
def test_a_run_begins_with_either_file(made: Made, form: str) -> None:
    model = made.tiny.made()
    layers = [name for name, _ in _tuned(made)]
    ranks = {f"^{name}$": layer.r["default"] for name, layer in _tuned(made)}
    model.add_adapter(LoraConfig(r=4, lora_alpha=4, rank_pattern=ranks, target_modules=layers))
    read = InitialFile.read(str(made.files[form].path))
    told = begin_with(read, model)
    assert (told["layers"], told["fresh"], told["unused"], told["error"]) == (len(layers), 0, 0, 0)
    assert same(made.tiny.asked(model), made.predicted)


def test_a_file_for_another_model_is_refused(made: Made) -> None:
    for other in TINY.values():
        if other.name == made.tiny.name:
            continue
        for file in made.files.values():
            with pytest.raises(RecipeError) as raised:
                load_adapter(other.container(other.made()), file.path)
            told = str(raised.value)
            assert f"is an adapter for {made.tiny.name}, and this model is a" in told
            assert f" {other.name}." in told


def test_unet_before_a_transformers_layers_is_an_error(made: Made, tmp_path: Path) -> None:
    tensors, _ = read_file(made.files["diffusers"].path)
    renamed = {f"unet.{key.removeprefix('transformer.')}": t for key, t in tensors.items()}
    save_file(renamed, tmp_path / "f.safetensors")
    with pytest.raises(RecipeError, match="a transformer's layer after unet") as raised:
        load_adapter(made.tiny.container(made.tiny.made()), tmp_path / "f.safetensors")
    assert raised.value.exit_code == 2


@pytest.mark.parametrize("alpha", [None, 3.0], ids=["no alpha", "alpha"])
def test_files_of_the_first_implementations_names_are_put_on_a_model(
    made: Made, alpha: float | None, tmp_path: Path
) -> None:
    """As kohya's sd-scripts writes those of FLUX.1 and SD 3."""
    native = as_original(made.tiny.made())
    generator, file, truth = torch.Generator().manual_seed(5), {}, {}
    for key, tensor in native.items():
        name = key.removeprefix("model.diffusion_model.").removesuffix(".weight")
        if tensor.ndim != 2 or ("blocks." not in name and "layers." not in name):
            continue
        down = 0.1 * torch.randn(2, tensor.shape[1], generator=generator)
        up = 0.1 * torch.randn(tensor.shape[0], 2, generator=generator)
        flat = f"lora_unet_{name.replace('.', '_')}"
        file |= {f"{flat}.lora_down.weight": down, f"{flat}.lora_up.weight": up}
        if alpha is not None:
            file[f"{flat}.alpha"] = torch.tensor(alpha)
        truth[key] = (1.0 if alpha is None else alpha / 2) * up @ down
    save_file(file, tmp_path / "f.safetensors")
    read = read_adapter_file(tmp_path / "f.safetensors")
    assert read.notes() == []
    expected = made.tiny.made()
    for name, layer in read.denoiser_layers.items():
        weight = expected.get_submodule(name).weight
        weight += layer.weight.delta(weight)
    for key, tensor in as_original(expected).items():
        torch.testing.assert_close(tensor, native[key] + truth.get(key, 0), rtol=0, atol=1e-6)
    model = made.tiny.made()
    load_adapter(made.tiny.container(model), tmp_path / "f.safetensors")
    assert same(made.tiny.asked(model), made.tiny.asked(expected))


def test_comfyui_has_flux_2_by_its_authors_names(tmp_path: Path) -> None:
    tiny = TINY["FLUX.2"]
    made = make(tiny, tmp_path, linear_layers(tiny.made()))
    native, file = as_original(tiny.made()), load_file(made.files["comfy"].path)
    names = {key.removesuffix(".lora_A.weight") for key in file if ".lora_A." in key}
    assert len(file) == 2 * len(names)
    for name in names:
        change = file[f"{name}.lora_B.weight"] @ file[f"{name}.lora_A.weight"]
        native[f"model.{name}.weight"] += change
    for _, layer in _tuned(made):
        layer.merge()
    merged = {
        key.replace(".base_layer.", "."): tensor
        for key, tensor in made.model.state_dict().items()
        if ".lora_" not in key
    }
    trained = tiny.made()
    trained.load_state_dict(merged)
    for key, tensor in as_original(trained).items():
        torch.testing.assert_close(native[key], tensor, rtol=0, atol=1e-6)


def test_a_bias_that_is_one_number_fits_no_shared_matrix(tmp_path: Path) -> None:
    name = "diffusion_model.double_blocks.0.img_attn.qkv"
    file = {f"{name}.diff": torch.ones(96, 32), f"{name}.diff_b": torch.tensor(1.0)}
    save_file(file, tmp_path / "f.safetensors")
    tiny = TINY["FLUX.2"]
    with pytest.raises(RecipeError, match="its bias has"):
        load_adapter(tiny.container(tiny.made()), tmp_path / "f.safetensors")
