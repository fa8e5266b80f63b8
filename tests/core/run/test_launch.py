import os
import sys
from pathlib import Path

import pytest

from loba_tui.core.errors import InUseError, ResourceError
from loba_tui.core.run.directory import RunDir
from loba_tui.core.run.launch import PROGRAM, Request, launch, request
from loba_tui.core.run.reader import RunReader
from loba_tui.core.run.writer import RunWriter

TELL = """
import os, sys
sid, umask = os.getsid(0), os.umask(0)
print(sys.argv[1:], sid == os.getpid(), oct(umask), sys.stdin.read() == "", flush=True)
"""


@pytest.fixture
def run_dir(tmp_path: Path) -> RunDir:
    return RunDir.create(tmp_path, "run")


def test_the_program_gets_a_session_of_its_own_and_a_log(run_dir: RunDir) -> None:
    process = launch(run_dir, argv_extra=["--resume"], program=[sys.executable, "-c", TELL])
    assert process.wait() == 0
    arguments = ["--run-dir", str(run_dir.path), "--resume"]
    assert run_dir.log.path.read_text() == f"{arguments} True 0o77 True\n"
    assert RunReader(run_dir).liveness().state == "starting"


def test_the_working_directory_cannot_shadow_the_program() -> None:
    assert "-P" in PROGRAM


def test_a_run_in_use_is_not_touched(run_dir: RunDir) -> None:
    with RunWriter.open(run_dir) as writer:
        writer.status(phase="training")
        with pytest.raises(InUseError, match=str(os.getpid())):
            launch(run_dir, program=["true"])
        status = RunReader(run_dir).status()
        assert status is not None
        assert status.phase == "training"


def test_what_cannot_be_started_is_a_resource_error(run_dir: RunDir, tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match="cannot be started"):
        launch(run_dir, program=[str(tmp_path / "missing")])
    with pytest.raises(ResourceError, match="cannot be written"):
        launch(RunDir(tmp_path / "gone"), program=["true"])


def test_a_request_arrives_as_it_was_sent(run_dir: RunDir) -> None:
    wanted = Request(
        "sample", "/a.safetensors", None, str(run_dir.path), ("a \udcff", "b"), (-1.0, 1.0), (3,)
    )
    code = "import shutil, sys; assert sys.argv[1] == '--request'; print(sys.argv[2])"
    process = request(run_dir, wanted, program=[sys.executable, "-c", code])
    assert process.wait() == 0
    assert Request.read(run_dir.log.path.read_text().strip()) == wanted


@pytest.mark.parametrize("text", ["[]", "{}", '{"version":1}', '{"version":1,"x":2}'])
def test_what_is_not_a_request_is_a_value_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "request.json").write_text(text)
    with pytest.raises(ValueError, match="is not a request"):
        Request.read(tmp_path / "request.json")
