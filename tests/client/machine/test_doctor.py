"""What the doctor finds, by making it happen; nothing of the torch stack is imported for it."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from loba_tui.client.machine import doctor
from loba_tui.core.associate.devices import AcceleratorFacts
from loba_tui.core.errors import ExitCode
from loba_tui.core.findings import Finding, bad, worst_code
from loba_tui.core.program.serving.device_check import device_findings
from loba_tui.core.run.directory import RunDir
from loba_tui.core.run.examine import examine_run
from loba_tui.core.run.writer import RunWriter


def make_run(folder: Path, steps: tuple[int, ...] = (1, 2)) -> RunDir:
    run_dir = RunDir.create(folder, "run")
    with RunWriter.open(run_dir) as writer:
        for step in range(1, steps[-1] + 1):
            writer.metric(step=step, loss=0.5)
        writer.status(phase="finished", step=steps[-1], total=steps[-1])
    for step in steps:
        path = run_dir.checkpoints.path / f"step-{step:06d}"
        path.mkdir()
        contents = {"state.json": b"{}", "adapter.safetensors": b"weights"}
        for name, content in contents.items():
            (path / name).write_bytes(content)
        sums = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
        (path / "manifest.json").write_text(json.dumps(sums))
    save_file({"a.lora_A.weight": torch.ones(2, 2)}, run_dir.adapter.path, {"loba.step": "2"})
    return run_dir


def problems(findings: object) -> dict[str, int]:
    return {f.check: f.exit_code for f in findings if f.state == "bad"}  # type: ignore[attr-defined]


def test_a_good_run_has_no_problem(tmp_path: Path):
    findings = list(doctor.run_folder(make_run(tmp_path)))
    assert problems(findings) == {}
    assert worst_code(findings) == ExitCode.DONE
    assert {f.check for f in findings if f.message.startswith("good")} >= {
        "step-000001/adapter.safetensors",
        "step-000002/state.json",
        "adapter.safetensors",
    }


def test_each_damaged_file_of_a_checkpoint_is_named(tmp_path: Path):
    run_dir = make_run(tmp_path)
    (run_dir.checkpoints.path / "step-000002" / "adapter.safetensors").write_bytes(b"weightz")
    (run_dir.checkpoints.path / "step-000002" / "state.json").unlink()
    findings = list(examine_run(run_dir))
    assert problems(findings) == {
        "step-000002/adapter.safetensors": ExitCode.CORRUPT,
        "step-000002/state.json": ExitCode.CORRUPT,
    }


def test_a_run_without_any_good_checkpoint_is_said_to_be_lost(tmp_path: Path):
    run_dir = make_run(tmp_path)
    for step in (1, 2):
        (run_dir.checkpoints.path / f"step-{step:06d}" / "manifest.json").write_text("{")
    findings = list(examine_run(run_dir))
    assert "checkpoints" in problems(findings)
    assert worst_code(findings) == ExitCode.CORRUPT


@pytest.mark.parametrize("name", ["../../outside", "/etc/hostname", "a/b"])
def test_a_manifest_never_opens_what_lies_outside(tmp_path: Path, name: str):
    run_dir = make_run(tmp_path)
    (run_dir.checkpoints.path / "step-000002" / "manifest.json").write_text(json.dumps({name: "0"}))
    found = problems(examine_run(run_dir))
    assert found == {f"step-000002/{name}": ExitCode.REFUSED}


def test_a_linked_checkpoint_file_is_refused(tmp_path: Path):
    run_dir = make_run(tmp_path)
    file = run_dir.checkpoints.path / "step-000002" / "state.json"
    file.unlink()
    file.symlink_to(tmp_path / "elsewhere")
    assert problems(examine_run(run_dir)) == {
        "folder": ExitCode.REFUSED,
        "step-000002/state.json": ExitCode.REFUSED,
    }


def test_a_truncated_adapter_is_corrupt(tmp_path: Path):
    run_dir = make_run(tmp_path)
    run_dir.adapter.path.write_bytes(run_dir.adapter.path.read_bytes()[:-3])
    assert problems(doctor.run_folder(run_dir)) == {"adapter.safetensors": ExitCode.CORRUPT}


def test_a_run_that_died_is_told_how_to_go_on(tmp_path: Path):
    run_dir = RunDir.create(tmp_path, "run")
    program = (
        "import os, sys; from pathlib import Path;"
        "from loba_tui.core.run.writer import RunWriter;"
        "from loba_tui.core.run.directory import RunDir;"
        "w = RunWriter.open(RunDir(Path(sys.argv[1])));"
        "w.status(phase='training', step=1, total=9); w.flush(); os._exit(1)"
    )
    subprocess.run([sys.executable, "-c", program, str(run_dir.path)], check=False)
    process = next(f for f in examine_run(run_dir) if f.check == "process")
    assert process.message.startswith("dead")
    assert "--resume" in process.hint


def test_old_libraries_are_found(monkeypatch: pytest.MonkeyPatch):
    versions = {"torch": "2.9.1+cu128", "diffusers": "0.38.0", "safetensors": "0.8.0rc1"}
    monkeypatch.setattr(doctor, "LISTED", ())
    monkeypatch.setattr(metadata, "version", lambda name: versions.get(name, "99.0"))
    found = {f.check: f for f in doctor.installation() if f.state == "bad"}
    assert set(found) == {"torch", "safetensors"}
    assert "2.13" in found["torch"].message
    assert found["torch"].exit_code == ExitCode.REFUSED


@pytest.mark.parametrize(
    ("older", "newer"),
    [("2.9.1", "2.10.0"), ("2.10.0rc1", "2.10.0"), ("2.10.0", "2.10.0.post1"), ("5.3", "5.3.1")],
)
def test_versions_are_ordered(older: str, newer: str):
    assert doctor.release(older) <= doctor.release(newer)
    assert doctor.release(older) < (99,)


def test_the_token_is_never_shown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("HF_TOKEN", "canary-token-4711")
    shown = [str(finding) for finding in doctor.hub()]
    assert any("there is a token" in text for text in shown)
    assert not any("canary" in text for text in shown)


def test_a_full_file_system_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(doctor, "MIN_FREE_BYTES", 2**60)
    assert problems(doctor.machine(tmp_path)) == {"disk": ExitCode.RESOURCES}


def test_a_cuda_13_build_on_an_older_driver_names_the_build_to_install():
    facts = AcceleratorFacts(torch_cuda=(13, 0), driver_cuda=(12, 2), torch_version="2.12.0+cu130")
    found = {f.check: f for f in device_findings(facts)}
    assert found["CUDA"].state == "bad"
    assert "CUDA 12" in found["CUDA"].hint


def test_a_machine_without_a_driver_is_in_order():
    assert problems(device_findings(AcceleratorFacts())) == {}


def test_the_worst_finding_makes_the_exit_code():
    low = bad("disk", "", "", ExitCode.RESOURCES)
    assert worst_code([Finding("a", "ok", ""), low]) == ExitCode.RESOURCES
    assert worst_code([low, bad("x", "", "", ExitCode.CORRUPT)]) == ExitCode.CORRUPT


def test_the_terminal_side_loads_no_torch():
    program = (
        "import sys; from pathlib import Path; from loba_tui.client.machine import doctor;"
        "list(doctor.installation()); list(doctor.machine(Path('.'))); list(doctor.hub());"
        "assert not {'torch', 'diffusers', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_the_package_asks_for_what_doctor_asks_for() -> None:
    pyproject = Path(__file__).parents[3] / "pyproject.toml"
    asked = tomllib.loads(pyproject.read_text())["project"]["dependencies"]
    for name, floor in doctor.FLOORS.items():
        (bound,) = (each for each in asked if each.startswith(f"{name}>="))
        least = bound.removeprefix(f"{name}>=").partition(",")[0]
        assert doctor.release(least) >= (*floor, 0, 0)[:3], bound
