from pathlib import Path

import pytest
import torch

from loba_tui.core.associate.caches.tensors.fingerprint import producer_fingerprint
from loba_tui.core.associate.sources.locate import ModelSource

CPU = torch.device("cpu")


def fingerprint(source: ModelSource, **changes):
    how = {"variant": None, "device": CPU, "dtype": torch.float32, **changes}
    return producer_fingerprint(source, ["vae"], **how)


def test_a_hub_model_is_known_by_its_commit_and_not_read():
    nowhere = Path("/nowhere")
    one = ModelSource("org/model", "hub", nowhere, "a" * 40)
    assert fingerprint(one) == fingerprint(
        ModelSource("org/model", "hub", Path("/moved"), "a" * 40)
    )
    assert fingerprint(one) != fingerprint(ModelSource("org/model", "hub", nowhere, "b" * 40))
    assert fingerprint(one) != fingerprint(one, variant="fp16")


def test_whatever_computes_is_part_of_it(monkeypatch):
    source = ModelSource("org/model", "hub", Path("/nowhere"), "a" * 40)
    first = fingerprint(source)
    assert fingerprint(source, dtype=torch.bfloat16) != first
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        assert fingerprint(source) != first
    finally:
        torch.set_num_threads(threads)
    assert fingerprint(source) == first
    assert {"torch", "diffusers", "transformers"} <= first["machine"].keys()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_another_device_computes_other_bits():
    source = ModelSource("org/model", "hub", Path("/nowhere"), "a" * 40)
    assert fingerprint(source, device=torch.device("cuda:0")) != fingerprint(source)


def test_a_builtin_model_is_known_by_its_content_too(tmp_path):
    (tmp_path / "vae").mkdir()
    (tmp_path / "model_index.json").write_text("{}")
    (tmp_path / "vae" / "w").write_bytes(b"1")
    source = ModelSource("builtin:x", "builtin", tmp_path)
    first = fingerprint(source)
    assert first["model"]["id"] == "builtin:x"
    (tmp_path / "vae" / "w").write_bytes(b"2")
    assert fingerprint(source) != first


def test_a_one_file_model_is_known_by_its_content_configuration_and_vae(tmp_path):
    folder = tmp_path / "config"
    (folder / "vae").mkdir(parents=True)
    (folder / "model_index.json").write_text("{}")
    (folder / "vae" / "config.json").write_text("{}")
    file, vae = tmp_path / "model.safetensors", tmp_path / "vae.safetensors"
    file.write_bytes(b"one")
    vae.write_bytes(b"a vae")

    def known(**changes):
        return fingerprint(ModelSource(str(file), "local", folder, file=file, **changes))

    first = known()
    assert str(tmp_path) not in repr(first)
    assert known(vae=vae) != first
    moved = tmp_path / "moved" / "model.safetensors"
    moved.parent.mkdir()
    moved.write_bytes(b"one")
    assert fingerprint(ModelSource(str(moved), "local", folder, file=moved)) == first
    file.write_bytes(b"two")
    second = known()
    assert second != first
    (folder / "vae" / "config.json").write_text('{"scaling_factor": 1}')
    assert known() != second
    of_hub = ModelSource("me/x:model.safetensors", "hub", folder, "a" * 40, file=file)
    assert fingerprint(of_hub)["model"]["revision"] == "a" * 40
