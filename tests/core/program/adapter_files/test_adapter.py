import dataclasses
import json
from pathlib import Path

import pytest
import torch
from diffusers.utils import convert_state_dict_to_kohya
from peft import LoraConfig, get_peft_model_state_dict
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny_adapters import made_folder

from loba_tui.core.associate.containers.base import ModelContainer
from loba_tui.core.associate.model_cache import ModelCache
from loba_tui.core.errors import (
    CorruptError,
    NumericsError,
    RecipeError,
    RefusedError,
    ResourceError,
)
from loba_tui.core.owned_files import OwnedFolder
from loba_tui.core.program.adapter_files import file as adapter_file
from loba_tui.core.program.adapter_files.adapter import convert, read_adapter, write_adapter
from loba_tui.core.program.adapter_files.families import DIFFUSERS_NAME, KOHYA_NAME
from loba_tui.core.program.adapter_files.formats import (
    LoraLayer,
    jsonable,
    layers_from_diffusers,
)
from loba_tui.core.program.adapter_files.load import load_adapter

METADATA = {"loba.recipe": '{"version": 1}', "ss_output_name": "size", "trigger_words": "größer"}
FILES = [DIFFUSERS_NAME, KOHYA_NAME]


def config(container: ModelContainer, kind: str) -> LoraConfig:
    """An adapter whose alpha is not its rank, and differs between layers where it can."""
    groups = container.adapter_targets()
    if kind == "lora":
        targets = groups["self_attention"] + groups["cross_attention"]
        return LoraConfig(r=4, lora_alpha=1.0, target_modules=targets)
    if kind == "rslora":
        targets = groups["cross_attention"]
        return LoraConfig(r=4, lora_alpha=0.7, use_rslora=True, target_modules=targets)
    targets = [name for group in groups.values() for name in group]
    return LoraConfig(
        r=4,
        lora_alpha=0.7,
        target_modules=targets,
        rank_pattern=dict.fromkeys(groups["convolution"], 2),
        alpha_pattern=dict.fromkeys(groups["convolution"], 3.0),
    )


def fresh(folder: Path) -> ModelContainer:
    return ModelCache("cpu").container(str(folder))


@torch.no_grad()
def prediction(container: ModelContainer) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(2, *container.latent_shape(), generator=generator)
    embeds = container.encode_prompts(["a red circle", "a square"])
    return container.predict(noise, torch.tensor([20, 700]), embeds)


def with_adapter(folder: Path, kind: str) -> ModelContainer:
    container = fresh(folder)
    container.denoiser.add_adapter(config(container, kind))
    generator = torch.Generator().manual_seed(3)
    for name, parameter in container.denoiser.named_parameters():
        if "lora_" in name:
            parameter.data.normal_(0, 0.1, generator=generator)
    return container


@dataclasses.dataclass(frozen=True)
class Exported:
    container: ModelContainer
    folder: Path
    prediction: torch.Tensor


@pytest.fixture(scope="module", params=["lora", "locon", "rslora"])
def exported(request, tiny_sdxl_folder, tmp_path_factory) -> Exported:
    container = with_adapter(tiny_sdxl_folder, request.param)
    folder = tmp_path_factory.mktemp(request.param)
    write_adapter(container.denoiser, OwnedFolder(folder), metadata=METADATA)
    return Exported(container, folder, prediction(container))


@pytest.fixture(scope="module")
def locon(tiny_sdxl_folder, tmp_path_factory) -> Exported:
    container = with_adapter(tiny_sdxl_folder, "locon")
    folder = tmp_path_factory.mktemp("locon")
    write_adapter(container.denoiser, OwnedFolder(folder), metadata=METADATA)
    return Exported(container, folder, prediction(container))


def assert_same(actual: Exported, loaded: ModelContainer, kind: str = "") -> None:
    if kind == "lora":  # alpha / rank is a power of two
        assert torch.equal(prediction(loaded), actual.prediction)
    else:
        torch.testing.assert_close(prediction(loaded), actual.prediction, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", FILES)
def test_both_files_load_in_diffusers_with_equal_predictions(exported, tiny_sdxl_folder, name):
    container = fresh(tiny_sdxl_folder)
    base = prediction(container)
    container.pipeline.load_lora_weights(str(exported.folder), weight_name=name)
    assert_same(exported, container, exported.folder.name.rstrip("0123456789"))
    assert not torch.allclose(base, exported.prediction)


@pytest.mark.parametrize("name", FILES)
def test_load_adapter_puts_either_file_back_after_the_encoders_are_gone(
    exported, tiny_sdxl_folder, name, caplog
):
    container = fresh(tiny_sdxl_folder)
    embeds = container.encode_prompts(["a red circle", "a square"])
    container.release_text_encoders()
    load_adapter(container, exported.folder / name)
    noise = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        loaded = container.predict(noise, torch.tensor([20, 700]), embeds)
    torch.testing.assert_close(loaded, exported.prediction)
    assert "default" in container.denoiser.peft_config
    assert caplog.text == ""


@pytest.mark.parametrize("name", FILES)
def test_an_adapter_keeps_its_precision_over_a_half_precision_base(locon, tiny_sdxl_folder, name):
    trained = ModelCache("cpu", "bfloat16").container(str(tiny_sdxl_folder))
    trained.denoiser.add_adapter(config(trained, "locon"))
    weights = {n: p for n, p in locon.container.denoiser.named_parameters() if "lora_" in n}
    for parameter_name, parameter in trained.denoiser.named_parameters():
        if parameter_name in weights:
            parameter.data = weights[parameter_name].data
    loaded = ModelCache("cpu", "bfloat16").container(str(tiny_sdxl_folder))
    load_adapter(loaded, locon.folder / name)
    exact = prediction(locon.container)
    rounding = (prediction(trained) - exact).abs().max()
    assert (prediction(loaded) - prediction(trained)).abs().max() <= rounding
    assert all(
        p.dtype == torch.float32 for n, p in loaded.denoiser.named_parameters() if "lora_" in n
    )
    assert loaded.pipeline("a circle", num_inference_steps=1, output_type="latent").images.shape


def test_kohyas_file_has_the_true_alpha_where_diffusers_converter_writes_the_rank(
    tiny_sdxl_folder, tmp_path
):
    container = with_adapter(tiny_sdxl_folder, "lora")
    write_adapter(container.denoiser, OwnedFolder(tmp_path))
    ours = {k: v for k, v in load_file(tmp_path / KOHYA_NAME).items() if k.endswith(".alpha")}
    theirs = convert_state_dict_to_kohya(get_peft_model_state_dict(container.denoiser))
    assert {float(value) for value in ours.values()} == {1.0}
    assert {float(v) for k, v in theirs.items() if k.endswith(".alpha")} == {4.0}


def test_the_same_adapter_has_the_same_bytes(locon, tmp_path):
    first = write_adapter(locon.container.denoiser, made_folder(tmp_path / "a"), metadata=METADATA)
    reordered = dict(reversed(METADATA.items()))
    again = write_adapter(locon.container.denoiser, made_folder(tmp_path / "b"), metadata=reordered)
    for kind in ("diffusers", "kohya"):
        assert first[kind].sha256 == again[kind].sha256
        assert first[kind].path.read_bytes() == again[kind].path.read_bytes()


@pytest.mark.parametrize("name", FILES)
def test_metadata_travels_in_both_files(locon, name):
    _, _, metadata = read_adapter(locon.folder / name)
    assert METADATA.items() <= metadata.items()
    assert metadata["modelspec.title"] == "size"
    assert metadata["modelspec.architecture"] == "stable-diffusion-xl-v1-base/lora"


def test_kohyas_metadata_names_dimension_alpha_and_base(locon):
    _, _, metadata = read_adapter(locon.folder / KOHYA_NAME)
    assert metadata["ss_network_dim"] == "4"
    assert metadata["ss_network_alpha"] == "0.7"
    assert json.loads(metadata["ss_network_args"]) == {"conv_alpha": "3", "conv_dim": "2"}
    assert metadata["ss_base_model_version"] == "sdxl_base_v1-0"


def test_both_formats_read_as_the_same_adapter(locon):
    tensors, peft, _ = read_adapter(locon.folder / DIFFUSERS_NAME)
    kohya_tensors, kohya_peft, _ = read_adapter(locon.folder / KOHYA_NAME)
    assert sorted(peft["target_modules"]) == kohya_peft["target_modules"]
    ours, theirs = (
        layers_from_diffusers(tensors, peft),
        layers_from_diffusers(kohya_tensors, kohya_peft),
    )
    assert ours.keys() == theirs.keys()
    for name, layer in ours.items():
        assert torch.equal(layer.down, theirs[name].down)
        assert torch.equal(layer.up, theirs[name].with_alpha_of_rank().up)


def test_the_strength_is_right_for_a_reader_that_knows_no_configuration(exported):
    """alpha = rank and no key of alphas, as ComfyUI and every PEFT reader take such a file."""
    tensors = load_file(exported.folder / DIFFUSERS_NAME)
    for name, module in exported.container.denoiser.named_modules():
        if hasattr(module, "lora_B") and "default" in module.lora_B:
            down, up = (tensors[f"unet.{name}.lora_{side}.weight"].double() for side in "AB")
            delta = (up.flatten(1) @ down.flatten(1)).reshape(module.weight.shape)
            torch.testing.assert_close(
                delta.float(), module.get_delta_weight("default"), rtol=1e-5, atol=1e-6
            )
    _, peft, _ = read_adapter(exported.folder / DIFFUSERS_NAME)
    assert peft["r"] == peft["lora_alpha"]
    assert peft["rank_pattern"] == peft["alpha_pattern"]
    assert not peft["use_rslora"]


@pytest.mark.parametrize(("rank", "alpha", "ulps"), [(4, 1.0, 0.0), (8, 16.0, 0.0), (4, 0.7, 0.5)])
def test_folding_alpha_rounds_each_weight_once_at_most(rank, alpha, ulps):
    up = torch.randn(64, rank, generator=torch.Generator().manual_seed(0))
    folded = LoraLayer(torch.ones(rank, 3), up, alpha).with_alpha_of_rank()
    exact = up.double() * (alpha / rank)
    ulp = torch.nextafter(folded.up.abs(), torch.tensor(torch.inf)).double() - folded.up.abs()
    assert folded.alpha == rank
    assert ((folded.up - exact).abs() <= ulps * ulp).all()


def test_a_file_of_a_former_version_keeps_its_strength(tiny_sdxl_folder, tmp_path):
    """Its alpha is in the configuration alone."""
    container = with_adapter(tiny_sdxl_folder, "locon")
    former = {
        f"unet.{name}": weight.clone()
        for name, weight in get_peft_model_state_dict(container.denoiser).items()
    }
    packed = jsonable(container.denoiser.peft_config["default"].to_dict())
    text = json.dumps({f"unet.{name}": value for name, value in packed.items()})
    save_file(former, tmp_path / DIFFUSERS_NAME, {"lora_adapter_metadata": text})
    loaded = fresh(tiny_sdxl_folder)
    load_adapter(loaded, tmp_path / DIFFUSERS_NAME)
    assert torch.equal(prediction(loaded), prediction(container))


@pytest.mark.parametrize(("name", "to"), [(DIFFUSERS_NAME, "kohya"), (KOHYA_NAME, "diffusers")])
def test_converted_files_predict_the_same(exported, tiny_sdxl_folder, tmp_path, name, to):
    path = convert(exported.folder / name, to, tmp_path / "converted.safetensors")
    container = fresh(tiny_sdxl_folder)
    load_adapter(container, path)
    assert_same(exported, container, exported.folder.name.rstrip("0123456789"))
    assert METADATA.items() <= read_adapter(path)[2].items()


def test_converting_beside_a_run_finds_its_file_and_keeps_another(locon, tmp_path):
    source = tmp_path / DIFFUSERS_NAME
    source.write_bytes((locon.folder / DIFFUSERS_NAME).read_bytes())
    path = convert(source, "kohya")
    assert path == tmp_path / KOHYA_NAME
    assert load_file(path).keys() == load_file(locon.folder / KOHYA_NAME).keys()
    assert convert(source, "kohya") == path
    path.write_bytes(b"other")
    with pytest.raises(RecipeError, match="there already"):
        convert(source, "kohya")
    assert path.read_bytes() == b"other"


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_weight_that_is_not_finite_is_never_exported(tiny_sdxl_folder, tmp_path, value):
    container = with_adapter(tiny_sdxl_folder, "lora")
    parameter = next(p for n, p in container.denoiser.named_parameters() if "lora_B" in n)
    parameter.data[0, 0] = value
    with pytest.raises(NumericsError, match="not finite"):
        write_adapter(container.denoiser, OwnedFolder(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_an_untrained_adapter_is_never_exported(tiny_sdxl_folder, tmp_path):
    container = fresh(tiny_sdxl_folder)
    container.denoiser.add_adapter(config(container, "lora"))
    with pytest.raises(NumericsError, match="changes nothing"):
        write_adapter(container.denoiser, OwnedFolder(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_what_is_not_lora_is_said_so(tiny_sdxl_folder, tmp_path):
    container = fresh(tiny_sdxl_folder)
    targets = container.adapter_targets()["cross_attention"]
    container.denoiser.add_adapter(LoraConfig(r=2, target_modules=targets, lora_bias=True))
    with pytest.raises(RecipeError, match="no place in a LoRA file"):
        write_adapter(container.denoiser, OwnedFolder(tmp_path))


def test_a_file_that_cannot_be_replaced_leaves_nothing_behind(locon, tmp_path):
    (tmp_path / DIFFUSERS_NAME / "in the way").mkdir(parents=True)
    with pytest.raises(ResourceError, match="cannot be written"):
        write_adapter(locon.container.denoiser, OwnedFolder(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == [DIFFUSERS_NAME]


def test_a_disk_that_gives_back_something_else_is_found(locon, tmp_path, monkeypatch):
    read_file = adapter_file.read_file

    def changed(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
        tensors, metadata = read_file(path)
        return {name: tensor + 1 for name, tensor in tensors.items()}, metadata

    monkeypatch.setattr(adapter_file, "read_file", changed)
    with pytest.raises(ResourceError, match="does not read back"):
        write_adapter(locon.container.denoiser, OwnedFolder(tmp_path))


def test_files_that_are_no_adapters_are_said_so(locon, tiny_sdxl_folder, tmp_path):
    container = fresh(tiny_sdxl_folder)
    with pytest.raises(RecipeError, match="no adapter"):
        load_adapter(container, tmp_path / "missing.safetensors")
    with pytest.raises(RefusedError):
        load_adapter(container, tmp_path / "adapter.pt")
    truncated = tmp_path / "truncated.safetensors"
    truncated.write_bytes((locon.folder / DIFFUSERS_NAME).read_bytes()[:-1])
    with pytest.raises(CorruptError):
        load_adapter(container, truncated)
    other = tmp_path / "other.safetensors"
    save_file({"weight": torch.ones(2)}, other)
    with pytest.raises(RecipeError, match="not a UNet's LoRA"):
        read_adapter(other)
    with pytest.raises(RecipeError, match="not an adapter"):
        load_adapter(container, other)


@pytest.mark.parametrize("name", FILES)
def test_what_a_file_has_for_text_encoders_leaves_the_denoiser_as_it_is(
    locon, tiny_sdxl_folder, tmp_path, name
):
    layer = "text_model.encoder.layers.0.self_attn.q_proj"
    keys = {
        DIFFUSERS_NAME: [f"text_encoder.{layer}.lora_{side}.weight" for side in "AB"],
        KOHYA_NAME: [
            f"lora_te1_{layer.replace('.', '_')}.lora_{way}.weight" for way in ("down", "up")
        ],
    }
    more = {key: torch.ones(2, 2) for key in keys[name]}
    with safe_open(locon.folder / name, "pt") as file:
        metadata = file.metadata()
    save_file({**load_file(locon.folder / name), **more}, tmp_path / name, metadata)
    container = fresh(tiny_sdxl_folder)
    assert load_adapter(container, tmp_path / name).text_encoder_layers == 1
    assert_same(locon, container)


@pytest.mark.parametrize(
    ("part", "value"),
    [("alpha", torch.ones(2)), ("lora_down.weight", torch.tensor(1.0))],
    ids=["two alphas", "no matrix"],
)
def test_a_kohya_file_with_a_part_of_another_shape_is_said_so(locon, tmp_path, part, value):
    file = load_file(locon.folder / KOHYA_NAME)
    file[next(key for key in file if key.endswith(f".{part}"))] = value
    path = tmp_path / "odd.safetensors"
    save_file(file, path)
    with pytest.raises(RecipeError, match="not a UNet's LoRA"):
        read_adapter(path)


def test_files_of_other_tools_are_read_by_diffusers(locon, tiny_sdxl_folder, tmp_path):
    """kohya's keys over diffusers' block names, as sd-scripts writes them for SD 1.x."""
    tensors, peft, _ = read_adapter(locon.folder / DIFFUSERS_NAME)
    foreign = {}
    for key, value in tensors.items():
        module, _, kind = key.removeprefix("unet.").partition(".lora_")
        name = "lora_unet_" + module.replace(".", "_")
        alpha = peft["alpha_pattern"].get(module, peft["lora_alpha"])
        foreign[f"{name}.lora_{'down' if kind[0] == 'A' else 'up'}.weight"] = value
        foreign[f"{name}.alpha"] = torch.tensor(alpha)
    path = tmp_path / "foreign.safetensors"
    save_file(foreign, path)
    container = fresh(tiny_sdxl_folder)
    load_adapter(container, path)
    torch.testing.assert_close(prediction(container), locon.prediction)


@pytest.mark.parametrize("name", FILES)
def test_an_adapter_of_another_architecture_is_said_so(locon, tiny_sdxl_folder, tmp_path, name):
    tensors = load_file(locon.folder / name)
    wider = {
        k: torch.ones(v.shape[0], v.shape[1] + 3)
        if v.ndim == 2 and ("lora_A" in k or "lora_down" in k)
        else v
        for k, v in tensors.items()
    }
    path = tmp_path / name
    save_file(wider, path)
    with pytest.raises(RecipeError, match="not an adapter for this model"):
        load_adapter(fresh(tiny_sdxl_folder), path)


def test_a_file_without_configuration_means_alpha_is_the_rank(locon, tmp_path):
    path = tmp_path / "plain.safetensors"
    save_file(load_file(locon.folder / DIFFUSERS_NAME), path)
    _, peft, _ = read_adapter(path)
    assert peft["r"] == peft["lora_alpha"]
    assert peft["rank_pattern"] == peft["alpha_pattern"]


def test_patterns_that_match_several_layers_are_written_out_by_name(tiny_sdxl_folder, tmp_path):
    container = fresh(tiny_sdxl_folder)
    suffixes = LoraConfig(
        r=2,
        lora_alpha=2.0,
        target_modules=["to_k", "to_v"],
        rank_pattern={"to_v": 3},
        alpha_pattern={"attn2.to_v": 0.5},
    )
    container.denoiser.add_adapter(suffixes)
    for name, parameter in container.denoiser.named_parameters():
        if "lora_" in name:
            parameter.data.fill_(0.05)
    written = write_adapter(container.denoiser, OwnedFolder(tmp_path))
    converted = convert(written["diffusers"].path, "kohya", tmp_path / "converted.safetensors")
    _, peft, _ = read_adapter(written["diffusers"].path)
    assert all(name.endswith(".to_v") for name in peft["alpha_pattern"])
    # diffusers' own reader of kohya files loses the alphas of the latter
    for path in (converted, written["kohya"].path):
        loaded = fresh(tiny_sdxl_folder)
        load_adapter(loaded, path)
        torch.testing.assert_close(prediction(loaded), prediction(container), rtol=1e-5, atol=1e-5)


def test_damaged_files_of_our_own_form_are_said_so(tmp_path):
    path = tmp_path / "adapter.safetensors"
    down, up = "unet.conv_in.lora_A.weight", "unet.conv_in.lora_B.weight"
    save_file({down: torch.ones(1, 2)}, path)
    with pytest.raises(RecipeError, match="lora_A"):
        read_adapter(path)
    both = {down: torch.ones(1, 2), up: torch.ones(2, 1)}
    save_file(both, path, {"lora_adapter_metadata": "{"})
    with pytest.raises(CorruptError):
        read_adapter(path)
    save_file({name.replace("conv_in", "strange"): value for name, value in both.items()}, path)
    with pytest.raises(RecipeError, match="strange"):
        convert(path, "kohya")
