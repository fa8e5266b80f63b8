"""Whole runs of the program on a small model: resume, determinism, processes, errors."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from program_runs import adapter_hashes, events, main_with, new_run
from safetensors.torch import load_file

from loba_tui.core.errors import ExitCode, Interrupted, RecipeError
from loba_tui.core.plugins import SHIPPED
from loba_tui.core.program import main as program
from loba_tui.core.program.train import train
from loba_tui.core.recipe.load import dump_recipe, parse_recipe
from loba_tui.core.recipe.schema import (
    AdapterSection,
    OptimizerSection,
    Recipe,
    SampleSection,
    SchedulerSection,
)
from loba_tui.core.recipe.sections.method import Choice
from loba_tui.core.run.directory import RunDir
from loba_tui.core.run.launch import Request
from loba_tui.core.run.start_options import StartOptions
from loba_tui.core.run.writer import RunWriter

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)


@pytest.fixture(autouse=True, scope="module")
def _keep_process_state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The program owns its process: threads and the ledger are put back for the tests."""
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        yield
    torch.set_num_threads(threads)


def recipe_on(model: Path, **train_section: Any) -> Recipe:
    concepts = [
        {
            "target": f"a {color} circle",
            "positive": f"a large {color} circle",
            "negative": f"a small {color} circle",
            "preserve": [color],
        }
        for color in ("red", "blue")
    ]
    return parse_recipe(
        {
            "version": 1,
            "name": "test",
            "base_model": {"id": str(model), "device": "cpu"},
            "adapter": {"layers": ["cross_attention"]},
            "method": {"name": "text_slider", "rollout_steps": 6, "concepts": concepts},
            "optimizer": {"lr": 1e-3},
            "scheduler": {"noise": {"name": "euler_ancestral"}},
            "train": {"steps": 6, "batch_size": 2, **train_section},
            "proof": {"enabled": False},
        },
        plugins=SHIPPED,
    )


@pytest.fixture(scope="module")
def recipe_with(small_sdxl_folder: Path) -> Callable[..., Recipe]:
    return functools.partial(recipe_on, small_sdxl_folder)


class StopAfter:
    """A flag that is set once a run has recorded so many steps."""

    def __init__(self, run_dir: RunDir, step: int) -> None:
        self.metrics, self.step = run_dir.metrics, step

    @property
    def is_set(self) -> bool:
        return self.metrics.path.exists() and self.metrics.path.read_text().count("\n") >= self.step


@pytest.fixture(scope="module")
def unbroken(
    recipe_with: Callable[..., Recipe], tmp_path_factory: pytest.TempPathFactory
) -> RunDir:
    run_dir = new_run(recipe_with(), tmp_path_factory.mktemp("unbroken"))
    assert program.main(["--run-dir", str(run_dir.path)]) == ExitCode.DONE
    return run_dir


def test_a_run_leaves_all_its_files(unbroken: RunDir) -> None:
    metrics = [json.loads(line) for line in unbroken.metrics.path.read_text().splitlines()]
    assert [record["step"] for record in metrics] == [1, 2, 3, 4, 5, 6]
    assert set(metrics[0]) >= {"loss", "lr", "grad_norm", "seconds", "memory_mib", "forwards"}
    assert [event["event"] for event in events(unbroken)] == [
        "started",
        "estimated",
        "built",
        "measured_memory",
        "saved",
        "exported",
        "sampled",
        "finished",
    ]
    status = json.loads(unbroken.status.path.read_text())
    assert (status["phase"], status["step"], status["total"]) == ("finished", 6, 6)
    assert not list(unbroken.path.rglob("*.pkl"))
    assert not list(unbroken.path.rglob("*.pt"))


def test_the_same_recipe_and_seed_give_the_same_bytes(
    recipe_with: Callable[..., Recipe], unbroken: RunDir, tmp_path: Path
) -> None:
    again = new_run(recipe_with(), tmp_path)
    assert program.main(["--run-dir", str(again.path)]) == ExitCode.DONE
    assert adapter_hashes(again) == adapter_hashes(unbroken)


def test_an_interrupted_run_resumes_to_the_same_bytes(
    recipe_with: Callable[..., Recipe], unbroken: RunDir, tmp_path: Path
) -> None:
    recipe = recipe_with()
    run_dir = new_run(recipe, tmp_path)
    with RunWriter.open(run_dir) as writer, pytest.raises(Interrupted, match="step 3 of 6"):
        train(recipe, run_dir, writer, StopAfter(run_dir, 3), StartOptions(), SHIPPED)
    assert not run_dir.adapter.path.exists()
    assert program.main(["--run-dir", str(run_dir.path), "--resume"]) == ExitCode.DONE
    (resumed,) = events(run_dir, "resumed")
    assert resumed["step"] == 3
    assert adapter_hashes(run_dir) == adapter_hashes(unbroken)


def test_averaging_optimizers_export_the_average_and_resume_to_the_same_bytes(
    recipe_with: Callable[..., Recipe], tmp_path: Path
) -> None:
    recipe = recipe_with(steps=4).model_copy(
        update={
            "optimizer": OptimizerSection(name="schedule_free_adamw", lr=1e-3),
            "sample": SampleSection(every=2, steps=2, scales=(-1, 1), prompts=("a circle",)),
        }
    )
    whole, halves = new_run(recipe, tmp_path / "whole"), new_run(recipe, tmp_path / "halves")
    assert program.main(["--run-dir", str(whole.path)]) == ExitCode.DONE

    with RunWriter.open(halves) as writer, pytest.raises(Interrupted):
        train(recipe, halves, writer, StopAfter(halves, 2), StartOptions(), SHIPPED)
    assert program.main(["--run-dir", str(halves.path), "--resume"]) == ExitCode.DONE
    assert adapter_hashes(halves) == adapter_hashes(whole)

    checkpoint = whole.checkpoints.path / "step-000004"
    trained = load_file(checkpoint / "adapter.safetensors")
    iterate = load_file(checkpoint / "optimizer.safetensors")
    # Where the strength stands apart from the weights.
    exported = list(load_file(whole.adapter_kohya.path).values())
    for name, y in trained.items():
        average = torch.lerp(y, iterate[f"{name}::z"], 1 - 1 / 0.9)
        assert any(e.shape == y.shape and torch.allclose(e, average) for e in exported), name


def test_one_learning_rate_for_several_factors_is_refused(
    recipe_with: Callable[..., Recipe], tmp_path: Path
) -> None:
    recipe = recipe_with().model_copy(
        update={
            "optimizer": OptimizerSection(name="prodigy", lr=1.0),
            "scheduler": SchedulerSection(layer=Choice(name="block_wise_decay")),
        }
    )
    with pytest.raises(RecipeError, match="one learning rate"):
        train_in(recipe, tmp_path)


def test_what_a_library_refuses_is_the_recipes_error(
    recipe_with: Callable[..., Recipe], tmp_path: Path
) -> None:
    recipe = recipe_with().model_copy(
        update={"optimizer": OptimizerSection.model_validate({"name": "adamw", "beta1": 1.0})}
    )
    with pytest.raises(RecipeError, match="adamw refuses its options"):
        train_in(recipe, tmp_path)


@pytest.mark.parametrize("section", ["scheduler", "sample"])
def test_a_noise_scheduler_that_does_not_fit_the_model_is_found_before_training(
    recipe_with: Callable[..., Recipe], section: str, tmp_path: Path
) -> None:
    recipe, flow = recipe_with(), Choice(name="flow_match_euler")
    changed = getattr(recipe, section).model_copy(update={"noise": flow})
    with pytest.raises(RecipeError, match="flow-matching"):
        train_in(recipe.model_copy(update={section: changed}), tmp_path)


def test_a_stop_flag_gives_the_signals_back_whatever_happened() -> None:
    before = [signal.getsignal(number) for number in SIGNALS]
    with contextlib.suppress(Interrupted), program.StopFlag() as flag:
        for number in (signal.SIGTERM, signal.SIGHUP):
            os.kill(os.getpid(), number)
        assert flag.is_set
        raise Interrupted("stopped")
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_a_run_in_this_process_gives_the_signals_back(
    recipe_with: Callable[..., Recipe], tmp_path: Path
) -> None:
    before = [signal.getsignal(number) for number in SIGNALS]
    again = new_run(recipe_with(steps=1), tmp_path)
    assert program.main(["--run-dir", str(again.path)]) == ExitCode.DONE
    assert [signal.getsignal(number) for number in SIGNALS] == before


def train_in(recipe: Recipe, folder: Path) -> None:
    run_dir = new_run(recipe, folder)
    with RunWriter.open(run_dir) as writer:
        train(recipe, run_dir, writer, program.StopFlag(), StartOptions(), SHIPPED)


def test_sigint_saves_and_ends_with_75_and_a_second_process_resumes(
    recipe_with: Callable[..., Recipe], tmp_path: Path
) -> None:
    run_dir = new_run(recipe_with(steps=500), tmp_path)
    command = [sys.executable, "-P", "-m", "loba_tui.core.program.main", "--run-dir"]
    with subprocess.Popen([*command, str(run_dir.path)]) as process:
        while process.poll() is None and not run_dir.metrics.path.exists():
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == ExitCode.RESUMABLE
    assert json.loads(run_dir.status.path.read_text())["phase"] == "stopped"
    (saved,) = events(run_dir, "saved")
    assert 1 <= saved["step"] < 500
    assert (run_dir.checkpoints.path / saved["path"] / "manifest.json").is_file()


SLOW_REQUEST = """
import sys, time, types
from pathlib import Path
from loba_tui.core.files import staged
from loba_tui.core.program import main as program

def serve(request, writer, plugins, *, tensors):
    with staged(Path(request.file)) as half:
        half.write_bytes(b"half")
        print("writing", flush=True)
        time.sleep(60)

sys.modules["loba_tui.core.program.serving.requests"] = types.SimpleNamespace(serve=serve)
sys.exit(program.main(["--request", sys.argv[1]]))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_leaves_nothing_half_written_of_a_request(
    tmp_path: Path, number: signal.Signals
) -> None:
    folder = RunDir(tmp_path / "out")
    folder.path.mkdir()
    written = tmp_path / "results" / "x.safetensors"
    written.parent.mkdir()
    request = Request("extract", "", run=None, out_dir=str(folder.path), file=str(written))
    (tmp_path / "request.json").write_text(json.dumps(asdict(request)))
    command = [sys.executable, "-c", SLOW_REQUEST, str(tmp_path / "request.json")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "writing\n"
        process.send_signal(number)
        assert process.wait(30) == ExitCode.INTERRUPTED
    assert list(written.parent.iterdir()) == []
    (stopped,) = events(folder, "stopped")
    assert "half-written is removed" in stopped["message"]
    assert json.loads(folder.status.path.read_text())["phase"] == "stopped"


def test_accumulation_runs_its_micro_steps_within_one_step(
    recipe_with: Callable[..., Recipe], unbroken: RunDir, tmp_path: Path
) -> None:
    run_dir = new_run(recipe_with(steps=2, gradient_accumulation=3), tmp_path)
    assert program.main(["--run-dir", str(run_dir.path)]) == ExitCode.DONE
    forwards = [
        [json.loads(line)["forwards"] for line in run.metrics.path.read_text().splitlines()]
        for run in (run_dir, unbroken)
    ]
    # Micro-steps 3, 4 and 5 draw what steps 4, 5 and 6 draw without accumulation.
    assert forwards[0] == [forwards[1][2], forwards[1][5]]


def test_two_gloo_processes_equal_one_with_twice_the_batch(
    recipe_with: Callable[..., Recipe], tmp_path: Path
) -> None:
    def recipe_of(batch_size: int) -> Recipe:
        recipe = recipe_with(batch_size=batch_size)
        adapter = {**recipe.adapter.model_dump(), "text_encoders": {"lr": 1e-3}}
        return recipe.model_copy(update={"adapter": AdapterSection(**adapter)})

    recipe_file = tmp_path / "recipe.yaml"
    recipe_file.write_text(dump_recipe(recipe_of(2)))
    # On a machine without CUDA this launcher starts CPU processes over gloo.
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu"]
    launcher += ["--num_processes", "2", "--num_machines", "1", "--main_process_port", "0"]
    launcher += ["--mixed_precision", "no", "--dynamo_backend", "no"]
    program_arguments = ["-m", "loba_tui.core.program.main", "--recipe", str(recipe_file)]
    subprocess.run(
        [*launcher, *program_arguments, "--out_dir", str(tmp_path / "two")],
        check=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
    )
    (two,) = (RunDir(path) for path in (tmp_path / "two").iterdir())
    (built,) = events(two, "built")
    assert built["num_processes"] == 2

    one = new_run(recipe_of(4), tmp_path / "one")
    assert program.main(["--run-dir", str(one.path)]) == ExitCode.DONE
    ours, theirs = load_file(two.adapter.path), load_file(one.adapter.path)
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor, theirs[name], rtol=1e-3, atol=2e-5)
    # The trained half is far from its start at zero, so that equality means something.
    up = ("lora_B.weight", "lora_linear_layer.up.weight")
    for part in ("unet.", "text_encoder.", "text_encoder_2."):
        moved = [t for name, t in ours.items() if name.startswith(part) and name.endswith(up)]
        assert max(float(tensor.abs().max()) for tensor in moved) > 1e-3
    losses = [
        [json.loads(line)["loss"] for line in run.metrics.path.read_text().splitlines()]
        for run in (two, one)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def test_the_specifications_flags_train_and_the_adapter_loads_in_diffusers(tmp_path: Path) -> None:
    flags = {
        "pretrained_model": "builtin:shapes-xl",
        "optimizer": "adamw",
        "lr": "1e-4",
        "scheduler": "cosine",
        "noise_scheduler": "ddim",
        "timestep_scheduler": "linear",
        "iterations": "3",
        "batch_size": "2",
        "out_dir": str(tmp_path / "output"),
    }
    code = main_with(flags)
    assert code == ExitCode.DONE
    (run_dir,) = (RunDir(path) for path in (tmp_path / "output").iterdir())
    metrics = [json.loads(line) for line in run_dir.metrics.path.read_text().splitlines()]
    # Half a cosine wave over three steps.
    assert [record["lr"] for record in metrics] == pytest.approx([1e-4, 7.5e-5, 2.5e-5])
    assert run_dir.report.is_there()
    assert run_dir.report_picture.is_there()
    folder = Path(__file__).parents[3] / "loba_tui" / "models" / "shapes-xl"
    pipeline = StableDiffusionXLPipeline.from_pretrained(folder, torch_dtype=torch.float32)
    pipeline.load_lora_weights(run_dir.adapter_dir, weight_name="adapter.safetensors")
    assert pipeline.get_active_adapters()


def test_the_program_starts_as_a_file_too(small_sdxl_folder: Path, tmp_path: Path) -> None:
    model = ["--pretrained_model", str(small_sdxl_folder)]
    flags = [*model, "--iterations", "1", "--batch_size", "1"]
    done = subprocess.run(
        [sys.executable, program.__file__, *flags, "--device", "cpu", "--out_dir", "output"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == ExitCode.DONE, done.stderr
    (run_dir,) = (RunDir(path) for path in (tmp_path / "output").iterdir())
    assert run_dir.adapter.is_there()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], ExitCode.RECIPE, "nothing to train"),
        (["--pretrained_model", "builtin:shape-xl"], ExitCode.RECIPE, "shapes-xl"),
        (["--pretrained_model", "model.ckpt"], ExitCode.REFUSED, "safetensors"),
        (
            ["--pretrained_model", "builtin:shapes-xl", "--optimizer", "adamv"],
            ExitCode.RECIPE,
            "adamw",
        ),
        (
            ["--pretrained_model", "builtin:shapes-xl", "--device", "cuda:122"],
            ExitCode.RESOURCES,
            "auto",
        ),
        (["--run-dir", "/nonexistent"], ExitCode.RECIPE, "not a run folder"),
    ],
)
def test_what_cannot_be_done_is_said_without_a_traceback(
    arguments: list[str],
    code: ExitCode,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    if "cuda:122" in arguments and torch.cuda.is_available():
        pytest.skip("this machine has CUDA")
    (tmp_path / "model.ckpt").write_bytes(b"\x80\x04.")
    assert program.main(arguments) == code
    said = capsys.readouterr().err
    assert message in said
    assert "Traceback" not in said
