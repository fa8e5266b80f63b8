"""Files of the other kinds, held against PEFT's and diffusers' own loaders and written-out algebra.

What LyCORIS' keys mean was read off A1111 and ComfyUI: ΔW = alpha / dim · (w1_a w1_b) ∘ (w2_a w2_b)
for LoHa and alpha / dim · w1 ⊗ w2 for LoKr, dim being the inner size of a product, and the factor 1
where there is no product; dora_scale is the length of each output's weights.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel, get_peft_model_state_dict
from safetensors.torch import load_file, save_file
from tiny_adapters import add_adapter, fresh, move_adapter
from torch import Tensor

from loba_tui.core.adapter_keys.kohya_keys import BlockLayout, from_kohya, to_kohya
from loba_tui.core.associate.containers.base import ModelContainer
from loba_tui.core.errors import CorruptError, NumericsError, RecipeError
from loba_tui.core.owned_files import OwnedFolder
from loba_tui.core.plugins import SHIPPED
from loba_tui.core.program.adapter_files.adapter import convert, read_adapter, write_adapter
from loba_tui.core.program.adapter_files.families import adapter_family
from loba_tui.core.program.adapter_files.file import read_file
from loba_tui.core.program.adapter_files.load import load_adapter
from loba_tui.core.program.adapter_files.notes import notes_of
from loba_tui.core.program.adapter_layers.kinds import tuner_layers
from loba_tui.core.program.adapter_layers.strength import AdapterScale

LINEAR = ("cross_attention", "projection")
KINDS: dict[str, dict[str, Any]] = {
    "loha": {"layers": (*LINEAR, "convolution"), "alpha": 2.0},
    "lokr": {"layers": (*LINEAR, "convolution"), "alpha": 2.0, "rank": 2},
    "dora": {"layers": (*LINEAR, "convolution"), "alpha": 2.0},
    "oft": {"layers": LINEAR},
}
OTHERS = ["loha", "lokr", "oft"]
forms = pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("loha", {}),
        ("lokr", {}),
        pytest.param("lokr", {"rank": 64}, id="lokr, all full"),
        pytest.param("lokr", {"decompose_both": True, "rank": 1}, id="lokr, all products"),
        pytest.param("lokr", {"factor": 8}, id="lokr, another factor"),
    ],
)


def trained(folder: Path, kind: str, **options: Any) -> ModelContainer:
    container = fresh(folder)
    add_adapter(container, kind, {**KINDS[kind], **options})
    move_adapter(container)
    return container


@torch.no_grad()
def prediction(container: ModelContainer, denoiser: Any = None) -> Tensor:
    noise = torch.randn(2, *container.latent_shape(), generator=torch.Generator().manual_seed(0))
    embeds = container.empty_embeds().select([0, 0])
    return container.predict(noise, torch.tensor([100, 800]), embeds, denoiser=denoiser)


@pytest.fixture(scope="module", params=KINDS)
def exported(
    request: pytest.FixtureRequest, tiny_sdxl_folder: Path, tmp_path_factory: Any
) -> tuple[str, Path, ModelContainer]:
    container = trained(tiny_sdxl_folder, request.param)
    folder = tmp_path_factory.mktemp(request.param)
    write_adapter(container.denoiser, OwnedFolder(folder), metadata={"loba.recipe": "x"})
    return request.param, folder, container


def test_an_adapter_comes_back_from_its_file_at_every_scale(
    exported: tuple[str, Path, ModelContainer], tiny_sdxl_folder: Path
) -> None:
    _, folder, container = exported
    other = fresh(tiny_sdxl_folder)
    base = prediction(other)
    load_adapter(other, folder / "adapter.safetensors")
    assert torch.equal(prediction(other), prediction(container))
    assert not torch.allclose(prediction(other), base, atol=1e-3)
    ours, theirs = AdapterScale(container.denoiser), AdapterScale(other.denoiser)
    with ours(-2.0), theirs(-2.0):
        assert torch.equal(prediction(other), prediction(container))
    with theirs(0.0):
        assert torch.equal(prediction(other), base)
    ours.remove()


def test_the_same_adapter_has_the_same_bytes(
    exported: tuple[str, Path, ModelContainer], tmp_path: Path
) -> None:
    _, folder, container = exported
    write_adapter(container.denoiser, OwnedFolder(tmp_path), metadata={"loba.recipe": "x"})
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert len(files) > 1
    for path in files:
        assert path.read_bytes() == (tmp_path / path.relative_to(folder)).read_bytes()
    assert read_adapter(folder / "adapter.safetensors")[2]["loba.recipe"] == "x"


@pytest.mark.parametrize("kind", OTHERS)
def test_peft_loads_the_folder_by_itself(kind: str, tiny_sdxl_folder: Path, tmp_path: Path) -> None:
    container = trained(tiny_sdxl_folder, kind)
    write_adapter(container.denoiser, OwnedFolder(tmp_path))
    plain = fresh(tiny_sdxl_folder)
    model = PeftModel.from_pretrained(plain.denoiser, str(tmp_path / "peft"))
    torch.testing.assert_close(prediction(plain, model), prediction(container))


@pytest.mark.parametrize("kind", ["loha", "lokr"])
def test_the_strength_is_in_the_weights_of_our_own_form(
    kind: str, tiny_sdxl_folder: Path, tmp_path: Path
) -> None:
    """A reader that knows no alpha multiplies the factors, and has the change."""
    container = trained(tiny_sdxl_folder, kind, rank=4, alpha=3.0, layers=["cross_attention"])
    write_adapter(container.denoiser, OwnedFolder(tmp_path))
    file = load_file(tmp_path / "adapter.safetensors")
    for name, layer in tuner_layers(container.denoiser, "default"):
        part = {key.rpartition(".")[2]: v for key, v in file.items() if f".{name}." in key}
        weight = layer.get_base_layer().weight
        expected = layer.get_delta_weight("default")
        dim = next((v.shape[0] for k, v in part.items() if k.endswith("_b")), 1)
        delta = delta_of({**part, "alpha": torch.tensor(float(dim))}, weight.shape)
        torch.testing.assert_close(delta, expected, rtol=1e-5, atol=1e-6)
    config = json.loads(read_file(tmp_path / "adapter.safetensors")[1]["peft_config"])
    assert config["alpha"] == config["r"] == 4


def one_of(file: Mapping[str, Tensor], part: str) -> str:
    """Return the first key of this part of a layer."""
    return next(key for key in file if key.endswith(f".{part}"))


def delta_of(part: Mapping[str, Tensor], shape: torch.Size) -> Tensor:
    """Return the change of a weight as other tools read it off LyCORIS' keys."""

    def product(name: str) -> tuple[Tensor, int | None]:
        if name in part:
            return part[name].flatten(1), None
        left, right = part[f"{name}_a"], part[f"{name}_b"]
        return left @ right, right.shape[0]

    if "hada_w1_a" in part:
        one, dim = product("hada_w1")
        two, _ = product("hada_w2")
        delta = one * two
    else:
        one, dim_one = product("lokr_w1")
        two, dim_two = product("lokr_w2")
        dim = dim_one or dim_two
        kernel = part["lokr_w2"].shape[2:] if "lokr_w2" in part else shape[2:]
        if len(shape) == 4:
            two = two.reshape(two.shape[0], -1, *kernel)
            one = one[..., None, None]
        delta = torch.kron(one, two)
    return (float(part["alpha"]) / dim if dim else 1.0) * delta.reshape(shape)


@forms
@torch.no_grad()
def test_lycoris_keys_mean_the_same_to_other_tools(
    kind: str, options: dict[str, Any], tiny_sdxl_folder: Path, tmp_path: Path
) -> None:
    container = trained(tiny_sdxl_folder, kind, **options)
    write_adapter(container.denoiser, OwnedFolder(tmp_path))
    plain = fresh(tiny_sdxl_folder)
    modules: dict[str, dict[str, Tensor]] = {}
    for key, tensor in load_file(tmp_path / "adapter.kohya.safetensors").items():
        name, _, part = key.partition(".")
        modules.setdefault(name, {})[part] = tensor
    layout = BlockLayout.of(plain.denoiser.config)
    for name, part in modules.items():
        weight = plain.denoiser.get_submodule(from_kohya(name, layout)).weight
        weight += delta_of(part, weight.shape)
    torch.testing.assert_close(prediction(plain), prediction(container), rtol=1e-3, atol=1e-4)


@forms
@torch.no_grad()
def test_files_with_lycoris_keys_are_read_too(
    kind: str, options: dict[str, Any], tiny_folder: Path, tmp_path: Path
) -> None:
    container = trained(tiny_folder, kind, **options)
    write_adapter(container.denoiser, OwnedFolder(tmp_path))
    other = fresh(tiny_folder)
    load_adapter(other, tmp_path / "adapter.kohya.safetensors")
    ours, theirs = AdapterScale(container.denoiser), AdapterScale(other.denoiser)
    for strength in (1.0, -2.0):
        with ours(strength), theirs(strength):
            torch.testing.assert_close(
                prediction(other), prediction(container), rtol=1e-4, atol=1e-5
            )
    ours.remove()
    _, config, _ = read_adapter(tmp_path / "adapter.kohya.safetensors")
    assert config["peft_type"] == kind.upper()


@torch.no_grad()
def test_layers_of_a_lycoris_file_keep_ranks_and_alphas_of_their_own(
    tiny_sdxl_folder: Path, tmp_path: Path
) -> None:
    plain = fresh(tiny_sdxl_folder)
    names = plain.adapter_targets()["cross_attention"][:3]
    layout, file = BlockLayout.of(plain.denoiser.config), {}
    for rank, name in zip((2, 3, 3), names, strict=True):
        weight = plain.denoiser.get_submodule(name).weight
        part = {
            **{f"hada_w{n}_a": torch.randn(weight.shape[0], rank) for n in "12"},
            **{f"hada_w{n}_b": torch.randn(rank, weight.shape[1]) for n in "12"},
            "alpha": torch.tensor(0.5 * rank**2),
        }
        file |= {f"{to_kohya(name, layout)}.{key}": value for key, value in part.items()}
        weight += delta_of(part, weight.shape)
    save_file(file, tmp_path / "other.safetensors")
    container = fresh(tiny_sdxl_folder)
    load_adapter(container, tmp_path / "other.safetensors")
    torch.testing.assert_close(prediction(container), prediction(plain), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    "change",
    [
        lambda file: file.update(
            {f"{next(iter(file)).partition('.')[0]}.dora_scale": torch.ones(1)}
        ),
        lambda file: file.update(dict.fromkeys([one_of(file, "hada_w1_b")], torch.tensor(1.0))),
        lambda file: file.update(dict.fromkeys([one_of(file, "alpha")], torch.ones(2))),
    ],
    ids=["no length for each output", "no matrix", "two alphas"],
)
def test_a_lycoris_file_that_contradicts_itself_is_refused(
    change: Any, tiny_sdxl_folder: Path, tmp_path: Path
) -> None:
    write_adapter(trained(tiny_sdxl_folder, "loha").denoiser, OwnedFolder(tmp_path))
    path = tmp_path / "adapter.kohya.safetensors"
    file = load_file(path)
    change(file)
    save_file(file, path)
    with pytest.raises(CorruptError, match="contradicts itself"):
        load_adapter(fresh(tiny_sdxl_folder), path)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda file: file.update({"lora_unet_x.hada_w1_a": torch.zeros(2, 2)}), "no layer of"),
        (lambda file: file.pop(one_of(file, "hada_w2_b")), "its hada_w2_b is missing"),
    ],
    ids=["another layer", "a factor too few"],
)
def test_what_a_lycoris_file_has_too_little_or_too_much_of_is_named(
    change: Any, reason: str, tiny_sdxl_folder: Path, tmp_path: Path
) -> None:
    write_adapter(trained(tiny_sdxl_folder, "loha").denoiser, OwnedFolder(tmp_path))
    path = tmp_path / "adapter.kohya.safetensors"
    file = load_file(path)
    change(file)
    save_file(file, path)
    assert reason in load_adapter(fresh(tiny_sdxl_folder), path).notes()[0]


@torch.no_grad()
def test_diffusers_reads_dora_and_other_tools_get_its_change_with_the_error_that_is_said(
    tiny_sdxl_folder: Path, tmp_path: Path
) -> None:
    container = trained(tiny_sdxl_folder, "dora")
    expected = prediction(container)
    written = write_adapter(container.denoiser, OwnedFolder(tmp_path))
    plain = fresh(tiny_sdxl_folder)
    plain.pipeline.load_lora_weights(str(tmp_path), weight_name="adapter.safetensors")
    torch.testing.assert_close(prediction(plain), expected, rtol=1e-4, atol=1e-5)

    file = load_file(tmp_path / "adapter.kohya.safetensors")
    assert not any(key.endswith(".dora_scale") for key in file)
    layout, lost, whole = BlockLayout.of(container.denoiser.config), 0.0, 0.0
    for name, layer in tuner_layers(container.denoiser, "default"):
        # PEFT's own merging is the oracle of W'.
        base = layer.get_base_layer().weight.clone()
        layer.merge(adapter_names=["default"])
        change = layer.get_base_layer().weight - base
        layer.unmerge()
        key = to_kohya(name, layout)
        down, up = file[f"{key}.lora_down.weight"], file[f"{key}.lora_up.weight"]
        assert float(file[f"{key}.alpha"]) == len(down)
        low_rank = (up.flatten(1) @ down.flatten(1)).reshape(base.shape)
        lost += float((change - low_rank).square().sum())
        whole += float(change.square().sum())
    said = written["kohya"].lost
    assert said is not None
    assert 0.0 < said.share == pytest.approx((lost / whole) ** 0.5, rel=1e-3)
    told = json.loads(read_file(tmp_path / "adapter.kohya.safetensors")[1]["loba.approximation"])
    assert told["error"] == pytest.approx(said.share, abs=1e-6)
    family = adapter_family(container.denoiser)
    (_, note) = notes_of(container.denoiser.peft_config["default"], written, family)
    assert f"lacks {said.share:.1%}" in note


@torch.no_grad()
def test_a_dora_of_a_former_version_in_kohyas_keys_is_still_read(
    tiny_sdxl_folder: Path, tmp_path: Path
) -> None:
    container = trained(tiny_sdxl_folder, "dora")
    layout, file = BlockLayout.of(container.denoiser.config), {}
    weights = get_peft_model_state_dict(container.denoiser)
    for name, layer in tuner_layers(container.denoiser, "default"):
        key, up = to_kohya(name, layout), weights[f"{name}.lora_B.weight"]
        file[f"{key}.lora_down.weight"] = weights[f"{name}.lora_A.weight"]
        file[f"{key}.lora_up.weight"] = up
        file[f"{key}.alpha"] = torch.tensor(float(layer.lora_alpha["default"]))
        magnitude = weights[f"{name}.lora_magnitude_vector"]
        file[f"{key}.dora_scale"] = magnitude.reshape(-1, *[1] * (up.ndim - 1))
    save_file({key: value.contiguous() for key, value in file.items()}, tmp_path / "a.safetensors")
    other = fresh(tiny_sdxl_folder)
    load_adapter(other, tmp_path / "a.safetensors")
    torch.testing.assert_close(prediction(other), prediction(container), rtol=1e-4, atol=1e-5)


def test_oft_has_no_form_for_other_tools(tiny_sdxl_folder: Path, tmp_path: Path) -> None:
    written = write_adapter(trained(tiny_sdxl_folder, "oft").denoiser, OwnedFolder(tmp_path))
    assert set(written) == {"diffusers", "peft"}
    with pytest.raises(RecipeError, match="OFT adapter, which is not converted"):
        convert(tmp_path / "adapter.safetensors", "kohya")


@pytest.mark.parametrize("kind", OTHERS)
def test_an_untrained_adapter_is_never_exported(
    kind: str, tiny_sdxl_folder: Path, tmp_path: Path
) -> None:
    container = fresh(tiny_sdxl_folder)
    container.denoiser.add_adapter(SHIPPED.load("adapters", kind)(container.adapter_targets()))
    with pytest.raises(NumericsError, match="changes nothing"):
        write_adapter(container.denoiser, OwnedFolder(tmp_path))


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda config: config.update(target_modules="(a+)+$"), CorruptError),
        (lambda config: config.update(r="4"), CorruptError),
        (lambda config: config.update(r=3), RecipeError),
        (lambda config: config.pop("peft_type"), CorruptError),
    ],
)
def test_files_that_were_tampered_with_are_said_so(
    change: Any, error: type[Exception], tiny_sdxl_folder: Path, tmp_path: Path
) -> None:
    write_adapter(trained(tiny_sdxl_folder, "loha").denoiser, OwnedFolder(tmp_path))
    path = tmp_path / "adapter.safetensors"
    tensors, metadata = read_file(path)
    config = json.loads(metadata["peft_config"])
    change(config)
    save_file(tensors, path, {**metadata, "peft_config": json.dumps(config)})
    with pytest.raises(error):
        load_adapter(fresh(tiny_sdxl_folder), path)


@pytest.mark.parametrize(
    "change",
    [
        lambda config: config.update(peft_type="VERA"),
        lambda config: config["target_modules"].pop(),
    ],
    ids=["another kind", "a layer less"],
)
def test_a_configuration_that_does_not_fit_leaves_the_file_s_weights_as_they_are(
    change: Any, tiny_sdxl_folder: Path, tmp_path: Path
) -> None:
    """The tensors' own names say the kind and the layers; none of them is dropped."""
    whole = trained(tiny_sdxl_folder, "loha")
    write_adapter(whole.denoiser, OwnedFolder(tmp_path))
    path = tmp_path / "adapter.safetensors"
    tensors, metadata = read_file(path)
    config = json.loads(metadata["peft_config"])
    change(config)
    save_file(tensors, path, {**metadata, "peft_config": json.dumps(config)})
    other = fresh(tiny_sdxl_folder)
    load_adapter(other, path)
    torch.testing.assert_close(prediction(other), prediction(whole), rtol=1e-4, atol=1e-5)
