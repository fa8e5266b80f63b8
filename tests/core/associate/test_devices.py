import logging

import pytest
import torch

from loba_tui.core.associate.devices import AcceleratorFacts, resolve_device, resolve_dtype
from loba_tui.core.errors import ExitCode, RecipeError, ResourceError

H100 = AcceleratorFacts(
    torch_cuda=(12, 8), driver_cuda=(12, 2), num_cuda=2, bfloat16=True, torch_version="2.13.0+cu128"
)
CPU_BUILD = AcceleratorFacts(torch_version="2.13.0+cpu")
CUDA_13_BUILD_ON_12_2_DRIVER = AcceleratorFacts(
    torch_cuda=(13, 0), driver_cuda=(12, 2), num_cuda=0, torch_version="2.13.0+cu130"
)
MAC = AcceleratorFacts(mps=True, torch_version="2.13.0")


@pytest.mark.parametrize(
    ("name", "local_rank", "expected"),
    [
        ("cuda:122", 0, "cuda:0"),
        ("cuda:122", 1, "cuda:1"),
        ("cuda", 1, "cuda:1"),
        ("cuda:1", 0, "cuda:1"),
        ("auto", 1, "cuda:1"),
        ("cpu", 0, "cpu"),
    ],
)
def test_names_resolve_to_the_device_of_this_process(name, local_rank, expected):
    assert resolve_device(name, local_rank=local_rank, facts=H100) == torch.device(expected)


def test_a_12_2_driver_runs_any_cuda_12_build():
    assert resolve_device("cuda:122", facts=H100).type == "cuda"


def test_cuda_122_without_cuda_says_so_and_names_auto():
    with pytest.raises(ResourceError) as caught:
        resolve_device("cuda:122", facts=CPU_BUILD)
    assert caught.value.exit_code == ExitCode.RESOURCES
    assert "cuda:122" in caught.value.message
    assert "built without CUDA" in caught.value.message
    assert "device: auto" in caught.value.hint


def test_a_cpu_build_beside_a_driver_names_the_build_to_install():
    facts = AcceleratorFacts(driver_cuda=(12, 2), torch_version="2.13.0+cpu")
    with pytest.raises(ResourceError, match=r"torch build for CUDA 12"):
        resolve_device("cuda", facts=facts)


def test_a_cuda_13_build_on_a_12_2_driver_names_the_build_to_install():
    with pytest.raises(ResourceError) as caught:
        resolve_device("cuda:122", facts=CUDA_13_BUILD_ON_12_2_DRIVER)
    assert "driver speaks CUDA 12.2" in caught.value.message
    assert "built for CUDA 13.0" in caught.value.message
    assert "torch build for CUDA 12" in caught.value.hint


def test_cuda_122_refuses_an_older_build_that_plain_cuda_takes():
    facts = AcceleratorFacts(torch_cuda=(11, 8), driver_cuda=(12, 2), num_cuda=1)
    with pytest.raises(ResourceError, match=r"needs 12\.2 or newer"):
        resolve_device("cuda:122", facts=facts)
    assert resolve_device("cuda", facts=facts) == torch.device("cuda:0")


def test_a_rank_beyond_the_devices_is_an_error():
    with pytest.raises(ResourceError, match="number 2"):
        resolve_device("cuda:122", local_rank=2, facts=H100)


@pytest.mark.parametrize(("facts", "expected"), [(MAC, "mps"), (CPU_BUILD, "cpu")])
def test_auto_takes_the_next_best_where_there_is_no_cuda(facts, expected):
    assert resolve_device("auto", facts=facts).type == expected


def test_auto_warns_when_an_installed_driver_is_skipped(caplog):
    with caplog.at_level(logging.WARNING):
        assert resolve_device("auto", facts=CUDA_13_BUILD_ON_12_2_DRIVER).type == "cpu"
    assert "driver speaks CUDA 12.2" in caplog.text


@pytest.mark.parametrize("name", ["gpu", "cuda:", "cuda:x", "CUDA", "", "cpu:0"])
def test_other_names_are_recipe_errors(name):
    with pytest.raises(RecipeError, match="is not a device"):
        resolve_device(name, facts=H100)


@pytest.mark.parametrize(
    ("device", "facts", "expected"),
    [
        ("cpu", CPU_BUILD, torch.float32),
        ("cuda:0", H100, torch.bfloat16),
        ("cuda:0", AcceleratorFacts(torch_cuda=(12, 2), num_cuda=1), torch.float16),
    ],
)
def test_auto_dtype_is_what_the_device_computes_well(device, facts, expected):
    assert resolve_dtype("auto", torch.device(device), facts=facts) is expected


def test_unknown_dtypes_are_recipe_errors():
    with pytest.raises(RecipeError, match="is not a dtype"):
        resolve_dtype("float8", torch.device("cpu"))
