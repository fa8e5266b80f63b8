"""What a user gets who installs the package instead of cloning the repository."""

import os
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from loba_tui.core.plugins import KINDS

pytestmark = pytest.mark.slow

CHECKOUT = Path(__file__).resolve().parents[1]
NEEDED = {
    "models/shapes-xl/model_index.json",
    "models/shapes-xl/unet/diffusion_pytorch_model.safetensors",
    "models/shapes-xl/vae/diffusion_pytorch_model.safetensors",
    "models/shapes-xl/text_encoder/model.safetensors",
    "models/shapes-xl/text_encoder_2/model.safetensors",
    "models/shapes-xl/tokenizer/tokenizer.json",
    "models/shapes-clip/config.json",
    "models/shapes-clip/model.safetensors",
    "models/shapes-clip/preprocessor_config.json",
    "models/shapes-clip/tokenizer.json",
    "models/lpips-vgg/model.safetensors",
    "models/lpips-vgg/LICENSE",
    "models/data/blueprints/00.png",
    "models/data/blueprints/metadata.jsonl",
    "core/program/optimizers/adamw.py",
    *(f"client/plugins/templates/{name}.py.txt" for name in (*KINDS, "test")),
}


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the sdist from the checkout, and the wheel from the sdist alone."""
    out = tmp_path_factory.mktemp("dist")
    argv = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(CHECKOUT)]
    done = subprocess.run(argv, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return out


def recipes() -> set[str]:
    root = CHECKOUT / "recipes"
    return {path.relative_to(root).as_posix() for path in root.rglob("*.yaml")}


def test_the_sdist_carries_model_recipes_and_tests(dist: Path) -> None:
    (path,) = dist.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {f"loba_tui/{name}" for name in NEEDED} <= names
    assert {f"recipes/{name}" for name in recipes()} <= names
    assert {"LICENSE", "README.md", "pyproject.toml", "tests/test_packaging.py"} <= names


def test_the_wheel_carries_model_and_recipes_and_nothing_beside_the_package(dist: Path) -> None:
    (path,) = dist.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        names = set(archive.namelist())
    assert {f"loba_tui/{name}" for name in NEEDED} <= names
    assert {f"loba_tui/shipped_recipes/{name}" for name in recipes()} <= names
    assert {name.partition("/")[0].partition("-")[0] for name in names} == {
        "loba_tui",
        "loba_trainer",
    }


@pytest.fixture(scope="module")
def installed(dist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the wheel in a new environment that sees this one's libraries, not its checkout."""
    environment = tmp_path_factory.mktemp("fresh") / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(environment)], check=True)
    python = environment / "bin" / "python"
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True)
    # A path file adds the folder only: the editable install's own path file is not read there.
    (Path(site.stdout.strip()) / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")
    (wheel,) = dist.glob("*.whl")
    subprocess.run(
        [
            *[sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet"],
            *["--no-deps", "--no-index", "--ignore-installed", str(wheel)],
        ],
        check=True,
    )
    return environment


@pytest.fixture
def environ(tmp_path: Path) -> Mapping[str, str]:
    environ = {**os.environ, "XDG_STATE_HOME": str(tmp_path / "state")}
    environ.pop("PYTHONPATH", None)
    return environ


def test_an_installed_package_trains_a_shipped_recipe_outside_a_checkout(
    installed: Path, tmp_path: Path, environ: Mapping[str, str]
) -> None:
    overrides = ["--set", "train.steps=1", "--set", "proof.enabled=false"]
    done = subprocess.run(
        [installed / "bin" / "loba", "run", "recipes/slider.yaml", *overrides],
        cwd=tmp_path,
        env=environ,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert str(CHECKOUT) not in done.stderr
    assert str(installed) in done.stderr  # where the shipped recipe was taken from
    assert len(list(tmp_path.glob("output/*/adapter/adapter.safetensors"))) == 1
