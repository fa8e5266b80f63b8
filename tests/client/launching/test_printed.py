"""The printed launches are run as they are printed, by bash and by SLURM."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import slurm
from loba_command import Loba, wait_until
from program_runs import new_run, shape_slider
from ruamel.yaml import YAML

from loba_tui.client.launching.printed import Tool, printed_launch
from loba_tui.core.errors import RecipeError
from loba_tui.core.recipe.load import dump_recipe
from loba_tui.core.recipe.schema import Recipe
from loba_tui.core.run.directory import RunDir
from loba_tui.core.run.launching.shape import LaunchShape, make_shape
from loba_tui.core.run.reader import RunReader


def small(**sections: object) -> Recipe:
    return shape_slider(
        2,
        name="printed",
        base_model={"id": "builtin:shapes-xl", "device": "cpu", "threads": 1},
        train={"steps": 4, "batch_size": 1},
        sample={"prompts": ["a red circle"], "scales": [0, 1], "steps": 1},
        proof={"enabled": False},
        **sections,
    )


def printed(tool: Tool, place: Path, shape: LaunchShape | None, **sections: object) -> str:
    recipe = small(**sections)
    return printed_launch(tool, new_run(recipe, place), shape, recipe, [])


def shape(hosts: str, **options: object) -> LaunchShape:
    return make_shape(processes=None, hosts=hosts, **options)  # type: ignore[arg-type]


def require_trained(place: Path, processes: int) -> RunDir:
    (path,) = (place / "output").iterdir()
    reader = RunReader(RunDir(path))
    events = {event.kind: event.data for event in reader.new_events()}
    assert "finished" in events, list(events)
    assert events["built"]["num_processes"] == processes
    return reader.run_dir


@pytest.mark.slow
def test_the_line_of_torchrun_trains_the_run_that_was_made(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(dump_recipe(small()))
    loba = Loba(tmp_path)
    told = loba("run", "recipe.yaml", "--processes", "2", "--print-launch", "torchrun")
    assert told.returncode == 0, told.stderr
    assert len(told.stdout.splitlines()) == 1
    done = subprocess.run(
        ["bash", "-c", told.stdout], env=loba.environ, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    require_trained(tmp_path, 2)


@pytest.mark.slow
@pytest.mark.skipif(bool(slurm.why_not()), reason=slurm.why_not() or "SLURM is there")
def test_slurm_trains_what_the_printed_script_says(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(dump_recipe(small()))
    loba = Loba(tmp_path)
    told = loba("run", "recipe.yaml", "--processes", "2", "--print-launch", "slurm")
    assert told.returncode == 0, told.stderr
    script = tmp_path / "run.sbatch"
    script.write_text(told.stdout)
    folder = tmp_path / "slurm"
    folder.mkdir()
    with slurm.cluster(folder) as environ:
        sent = ["sbatch", str(script)]
        subprocess.run(sent, env={**loba.environ, **environ}, check=True, capture_output=True)
        wait_until(lambda: slurm.num_jobs(environ) == 0, 100)
    require_trained(tmp_path, 2)


@pytest.mark.parametrize("hosts", ["localhost:2", "localhost:4,b:4"])
def test_a_script_of_slurm_is_one_of_bash(tmp_path: Path, hosts: str) -> None:
    text = printed("slurm", tmp_path / "a folder's name", shape(hosts))
    checked = subprocess.run(["bash", "-n"], input=text, capture_output=True, text=True)
    assert (checked.returncode, checked.stderr) == (0, "")
    assert f"--nodes={hosts.count(',') + 1}\n" in text
    assert "--gpus-per-node" not in text  # the recipe is of the CPU


def test_each_host_gets_a_line_of_its_own(tmp_path: Path) -> None:
    text = printed("torchrun", tmp_path, shape("localhost:2,127.0.0.2:3", iface="lo", port=2345))
    first, second = [line for line in text.splitlines() if not line.startswith("#")]
    for line, place, slots in ((first, 0, 2), (second, 1, 3)):
        assert line.startswith("GLOO_SOCKET_IFNAME=lo NCCL_SOCKET_IFNAME=lo ")
        words = [f"--nnodes=2 --node-rank={place} --nproc-per-node={slots} "]
        words += ["--master-addr=127.0.0.1 --master-port=2345 --max-restarts=0"]
        assert "".join(words) in line
    assert "--join" not in first
    assert second.endswith("/recipe.yaml")
    checked = subprocess.run(["bash", "-n"], input=text, capture_output=True, text=True)
    assert checked.returncode == 0


def test_a_file_for_skypilot_says_nodes_and_processes(tmp_path: Path) -> None:
    gpu = {"id": "builtin:shapes-xl", "device": "cuda"}
    recipe = small().model_copy(
        update={"base_model": small().base_model.model_copy(update={"device": gpu["device"]})}
    )
    run_dir = new_run(recipe, tmp_path)
    text = printed_launch("skypilot", run_dir, shape("localhost:4,b:4"), recipe, [])
    task = YAML(typ="safe").load(text)
    assert task["num_nodes"] == 2
    assert task["resources"] == {"accelerators": {"L4": 4, "A100": 4, "H100": 4}}
    assert task["file_mounts"] == {"~/run": str(run_dir.path)}
    checked = subprocess.run(["bash", "-n"], input=task["run"], capture_output=True, text=True)
    assert (checked.returncode, checked.stderr) == (0, "")
    assert "--nproc-per-node=4" in task["run"]


@pytest.mark.parametrize("tool", ["slurm", "skypilot"])
def test_nodes_with_unequal_numbers_of_processes_are_refused(tool: Tool, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="equally many"):
        printed(tool, tmp_path, shape("localhost:1,b:2"))


def test_one_process_is_printed_too(tmp_path: Path) -> None:
    assert f"{sys.executable} -P -m torch.distributed.run" in printed("torchrun", tmp_path, None)
