"""A user's own drop-ins in every slot of a run: dropped in, trusted and trained with."""

from __future__ import annotations

import json
import os
import signal
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from program_runs import main_with
from safetensors import safe_open

from loba_tui.core.errors import ExitCode, RecipeError
from loba_tui.core.plugins import Plugins
from loba_tui.core.program import main as program
from loba_tui.core.program.drop_ins import load_choice
from loba_tui.core.recipe.sections.method import Choice

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)

# In the specification's style, with a bare **cfg, where it has one.
FILES = {
    "adapters": """
        from peft import LoraConfig
        def get_adapter(targets, **cfg):
            return LoraConfig(r=cfg["rank"], lora_alpha=cfg["alpha"],
                              target_modules=targets["cross_attention"][:4])
    """,
    "methods": """
        from dataclasses import dataclass
        from loba_tui.core.program.method import StepOutput
        REQUIRES = ("target",)
        @dataclass
        class Shrink:
            parts: object
            def step(self, index, progress):
                container = self.parts.container
                latents = container_noise(container, index)
                embeds = self.parts.select([self.parts.concepts[0].target])
                weight = self.parts.density(latents.new_ones(3) / 2, progress).mean()
                scheduler = self.parts.make_noise_scheduler()
                scheduler.set_timesteps(4)
                given = container.predict(latents, scheduler.timesteps[0], embeds,
                                          denoiser=self.parts.student)
                return StepOutput(weight * self.parts.loss(given, 0.5 * latents).mean())
            def state(self):
                return {}
            def load_state(self, state):
                pass
        def container_noise(container, index):
            import torch
            generator = torch.Generator().manual_seed(index)
            return torch.randn(1, *container.latent_shape(), generator=generator)
        def get_method(parts, **cfg):
            return Shrink(parts)
    """,
    "quantizers": """
        import torch
        class Halved:
            def pack(self, weight):
                return {"half": weight.half()}
            def unpack(self, parts, shape, dtype):
                return parts["half"].to(dtype)
            def parts(self, shape):
                return {"half": torch.empty(shape, dtype=torch.float16, device="meta")}
        def get_quantizer(**cfg):
            return Halved()
    """,
    "losses": """
        def get_loss(**cfg):
            return lambda given, wanted: cfg["factor"] * (given - wanted).abs()
    """,
    "measures": """
        LIMITS = (0, 1)
        def get_measure(**cfg):
            return lambda image: float(image.mean())
    """,
    "optimizers": """
        import torch
        def get_optimizer(params, lr, **cfg):
            return torch.optim.Adam(params, lr, **cfg)
    """,
    "noise": """
        from diffusers import DDIMScheduler
        def step_noise(config, **cfg):
            return DDIMScheduler.from_config(config, clip_sample=False, **cfg)
    """,
    "model": """
        from torch.optim.lr_scheduler import ExponentialLR
        def get_scheduler(optimizer, **cfg):
            return ExponentialLR(optimizer, **cfg)
    """,
    "layer": """
        def get_scheduler(optimizer, **cfg):
            return [0.5 if "up_blocks" in group["name"] else 1 for group in optimizer.param_groups]
    """,
    "timestep": """
        def get_timestep_scheduler(**cfg):
            return lambda t, progress: t.double() + 1
    """,
}
RECIPE: dict[str, Any] = {
    "version": 1,
    "name": "mine",
    "base_model": {"id": "builtin:shapes-xl", "device": "cpu"},
    "method": {"name": "mine", "concepts": [{"target": "a red circle"}], "anything": [1]},
    "adapter": {"name": "mine"},
    "optimizer": {"name": "mine", "lr": 1e-3, "betas": [0.8, 0.9]},
    "loss": {"name": "mine", "factor": 2.0},
    "scheduler": {
        "model": {"name": "mine", "gamma": 0.5},
        "layer": {"name": "mine"},
        "noise": {"name": "mine", "timestep_spacing": "trailing"},
        "timestep": {"name": "mine"},
    },
    "train": {"steps": 2, "batch_size": 1},
    "sample": {"scales": [0, 1], "steps": 2, "noise": {"name": "mine"}},
    "proof": {"measure": {"name": "mine"}, "preserve": [{"name": "mine", "of": "all"}]},
}


@pytest.fixture(autouse=True)
def _keep_process_state(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    threads = torch.get_num_threads()
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)
    torch.set_num_threads(threads)


@pytest.fixture
def mine(_keep_process_state: None) -> Plugins:
    return Plugins.of_user(os.environ)


@pytest.fixture
def drop(mine: Plugins) -> Callable[[str, str], Path]:
    """Drop a trusted plugin called "mine" into the user's folder."""

    def write(kind: str, text: str) -> Path:
        assert mine.user.folder is not None
        path = mine.user.folder / kind / "mine.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        for folder in path.parents[:3]:
            folder.chmod(0o700)
        path.write_text('"""Mine."""\n' + textwrap.dedent(text))
        path.chmod(0o600)
        mine.user.trust(mine.user.read(kind, "mine"))
        return path

    return write


def run(recipe: dict[str, Any], place: Path) -> tuple[int, Path]:
    (place / "recipe.yaml").write_text(json.dumps(recipe))
    code = program.main(["--recipe", str(place / "recipe.yaml"), "--out_dir", str(place / "out")])
    folders = list((place / "out").iterdir()) if (place / "out").exists() else []
    return code, folders[0] if folders else place


def metrics(run_dir: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def events(run_dir: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run_dir / "events.jsonl").read_text().splitlines()]


def test_a_plugin_of_every_kind_trains_from_a_recipe_without_an_edit_of_any_other_file(
    tmp_path: Path, drop: Callable[[str, str], Path]
) -> None:
    for kind, text in FILES.items():
        drop(kind, text)
    base = {**RECIPE["base_model"], "quantize": {"name": "mine"}}
    code, run_dir = run({**RECIPE, "base_model": base}, tmp_path)
    assert code == ExitCode.DONE
    assert [record["lr"] for record in metrics(run_dir)] == pytest.approx([1e-3, 5e-4])
    report = json.loads((run_dir / "adapter" / "report.json").read_text())
    assert "mine" in json.dumps(report)
    with safe_open(run_dir / "adapter" / "adapter.safetensors", "pt") as file:
        hashes = json.loads(file.metadata()["loba.plugins"])
    assert hashes.keys() == {f"{kind}/mine" for kind in FILES}


def test_a_run_whose_plugin_has_changed_says_so_before_it_goes_on(
    tmp_path: Path, drop: Callable[[str, str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    drop("losses", FILES["losses"])
    recipe = {key: value for key, value in RECIPE.items() if key in ("version", "base_model")}
    recipe |= {
        "method": {
            "name": "text_slider",
            "concepts": [{"target": "a shape", "positive": "large", "negative": "small"}],
        },
        "loss": RECIPE["loss"],
        "train": {"steps": 1, "batch_size": 1},
        "proof": {"enabled": False},
    }
    code, run_dir = run(recipe, tmp_path)
    assert code == ExitCode.DONE
    drop("losses", FILES["losses"].replace(".abs()", ".square()"))
    again = ["--run-dir", str(run_dir), "--resume"]
    assert program.main(again) == ExitCode.RECIPE
    assert "plugin losses/mine was" in capsys.readouterr().err
    assert program.main([*again, "--allow-inexact"]) == ExitCode.DONE


def test_a_plugin_trains_from_the_specifications_flags(
    tmp_path: Path, drop: Callable[[str, str], Path]
) -> None:
    drop("timestep", FILES["timestep"])
    flags = {
        "pretrained_model": "builtin:shapes-xl",
        "timestep_scheduler": "mine",
        "iterations": "2",
        "batch_size": "1",
        "out_dir": str(tmp_path / "out"),
    }
    code = main_with(flags)
    assert code == ExitCode.DONE
    (run_dir,) = (tmp_path / "out").iterdir()
    assert len(metrics(run_dir)) == 2
    assert "name: mine" in (run_dir / "recipe.yaml").read_text()


def test_a_plugin_that_is_not_trusted_is_never_run(
    tmp_path: Path,
    mine: Plugins,
    drop: Callable[[str, str], Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = drop("losses", FILES["losses"])
    path.write_text("import pathlib\npathlib.Path('ran').touch()\n" + path.read_text())
    recipe = {**RECIPE, "method": {"name": "text_slider"}, "loss": RECIPE["loss"]}
    code, _ = run({"version": 1, "base_model": RECIPE["base_model"], **recipe}, tmp_path)
    assert code == ExitCode.REFUSED
    said = capsys.readouterr().err
    assert "loss.name: it has changed since you trusted it" in said
    assert "loba plugins trust losses/mine" in said
    assert not Path("ran").exists()


def test_a_plugin_that_fails_in_the_middle_of_a_run_is_named_with_its_line(
    tmp_path: Path, drop: Callable[[str, str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    path = drop(
        "losses", "def get_loss():\n    return lambda given, wanted: (\n        given / 'x')"
    )
    recipe = {
        **{key: RECIPE[key] for key in ("version", "base_model", "train")},
        "method": {
            "name": "text_slider",
            "concepts": [{"target": "a shape", "positive": "big", "negative": "small"}],
        },
        "loss": {"name": "mine"},
    }
    code, run_dir = run(recipe, tmp_path)
    assert code == ExitCode.RECIPE
    (failed,) = [event for event in events(run_dir) if event["event"] == "failed"]
    assert failed["message"].startswith(f"{path}:4: TypeError")
    assert "Traceback" in failed["traceback"]
    assert f"{path}:4" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("kind", "returns", "wanted"),
    [
        ("adapters", "{}", "a PEFT configuration"),
        ("methods", "None", "an object with step, state and load_state"),
        ("quantizers", "0.5", "an object with pack, unpack and parts"),
        ("losses", "0.5", "a function of prediction and target"),
        ("measures", "1", "a function of an image"),
        ("optimizers", "params", "a torch optimizer"),
        ("noise", "config", "a diffusers scheduler"),
        ("model", "[1.0]", "a function of the step, or a torch LRScheduler"),
        ("layer", "[1.0, 1.0]", "one factor of at least 0 per parameter group; there are 1"),
        ("layer", "[-1.0]", "one factor of at least 0"),
        ("layer", "1.0", "one factor of at least 0 per parameter group, not float"),
        ("timestep", "None", "a function of timesteps and progress"),
    ],
)
def test_a_factory_that_returns_the_wrong_thing_is_told_what_is_wanted(
    mine: Plugins, drop: Callable[[str, str], Path], kind: str, returns: str, wanted: str
) -> None:
    from loba_tui.core.plugins import KINDS

    supplied = KINDS[kind].supplied
    path = drop(kind, f"def {KINDS[kind].factory}({', '.join(supplied)}): return {returns}")
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    given = [optimizer if name == "optimizer" else {} for name in supplied]
    with pytest.raises(RecipeError, match=wanted) as raised:
        load_choice(kind, Choice(name="mine"), mine)(*given)
    assert str(path) in str(raised.value)


def schedule(mine: Plugins, drop: Callable[[str, str], Path], body: str) -> Callable[[int], float]:
    text = f"import torch.optim.lr_scheduler as s\ndef get_scheduler(optimizer, **cfg): {body}"
    drop("model", text)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.2)
    factor: Callable[[int], float] = load_choice("model", Choice(name="mine"), mine)(optimizer, 50)
    assert set(optimizer.param_groups[0]) == set(
        torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))]).param_groups[0]
    )
    return factor


@pytest.mark.parametrize(
    "made",
    [
        "s.CosineAnnealingLR({}, 50)",
        "s.OneCycleLR({}, max_lr=0.6, total_steps=50, cycle_momentum=False)",
        "s.SequentialLR({0}, [s.LinearLR({0}, 0.1, total_iters=5), s.StepLR({0}, 7)], [5])",
        "s.CosineAnnealingWarmRestarts({}, 9)",
    ],
)
def test_a_torch_scheduler_becomes_a_function_of_the_step(
    mine: Plugins, drop: Callable[[str, str], Path], made: str
) -> None:
    factor = schedule(mine, drop, "return " + made.format("optimizer"))
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.2, momentum=0.9)
    oracle = eval(made.format("optimizer"), {"s": torch.optim.lr_scheduler, "optimizer": optimizer})
    expected = []
    for _ in range(50):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        oracle.step() if len(expected) < 50 else None
    # In any order: a resumed run begins in the middle.
    for step in (30, 0, 49, 7, *range(50)):
        assert 0.2 * factor(step) == pytest.approx(expected[step])


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return s.ReduceLROnPlateau(optimizer)", "looks at the loss"),
        ("return s.OneCycleLR(optimizer, max_lr=1, total_steps=50)", "cycle_momentum=False"),
        ("return s.OneCycleLR(optimizer, 1, total_steps=3, cycle_momentum=False)", "at step 4"),
    ],
)
def test_a_torch_scheduler_that_is_no_function_of_the_step_is_refused(
    mine: Plugins, drop: Callable[[str, str], Path], body: str, message: str
) -> None:
    with pytest.raises(RecipeError, match=message):
        schedule(mine, drop, body)


def test_a_plain_function_in_the_specifications_style_is_taken_as_it_is(
    mine: Plugins, drop: Callable[[str, str], Path]
) -> None:
    assert schedule(mine, drop, "return lambda step: 1 / (step + 1)")(3) == 0.25
