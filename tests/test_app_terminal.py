"""The dashboard in a real terminal: tmux with a real training run, and SSH that is cut."""

from __future__ import annotations

import contextlib
import getpass
import os
import pty
import re
import select
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from dashboard import STAND_IN, environment
from loba_command import slider_recipe

from loba_tui.client.runs.start import make_run
from loba_tui.core.plugins import SHIPPED
from loba_tui.core.recipe.load import load_recipe
from loba_tui.core.run import launch
from loba_tui.core.run.directory import Ledger, RunDir
from loba_tui.core.run.reader import RunReader


def wait_for(is_so: Callable[[], object], what: str, seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline, f"{what} did not come to be"
        time.sleep(0.1)


class Tmux:
    """A server of its own with one window of 80x24."""

    def __init__(self, home: Path, command: list[str], environ: dict[str, str]) -> None:
        self._socket = home / "tmux"
        settings = [f"{key}={value}" for key, value in environ.items()]
        self._tmux(
            *("-f", "/dev/null", "new-session", "-d", "-x", "80", "-y", "24"),
            shlex.join(["env", *settings, *command]),
        )

    def _tmux(self, *arguments: str) -> str:
        done = subprocess.run(
            ["tmux", "-S", str(self._socket), *arguments], capture_output=True, text=True
        )
        return done.stdout

    def press(self, *keys: str) -> None:
        self._tmux("send-keys", *keys)

    @property
    def text(self) -> str:
        return self._tmux("capture-pane", "-p")

    def see(self, words: str) -> None:
        with contextlib.suppress(AssertionError):
            wait_for(lambda: re.search(words, self.text), words)
            return
        pytest.fail(f"{words!r} was not seen in\n{self.text}")

    def close(self) -> None:
        self._tmux("kill-server")


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("tmux") is None, reason="tmux is not installed")
def test_a_real_run_is_watched_and_steered_in_tmux(tmp_path: Path) -> None:
    environ = {**environment(tmp_path), "OMP_NUM_THREADS": "1", "TERM": "screen-256color"}
    recipe = tmp_path / "brief.yaml"
    recipe.write_text(slider_recipe("brief") + "train: {steps: 5000, resolution: 32}\n")
    run = make_run(
        load_recipe(recipe, plugins=SHIPPED), tmp_path / "output", Ledger.of_user(environ)
    )
    process = launch.launch(run, environ={**os.environ, **environ})
    tmux = Tmux(tmp_path, [sys.executable, "-m", "loba_tui.cli", "tui"], environ)
    try:
        tmux.see(r"▶ training +\d+/5000")
        tmux.press("Enter")
        tmux.see(r"gradient norm")
        tmux.see(r"training +\S+ +\d+/5,000")
        tmux.press("P")
        tmux.see(r"pause: paused at step \d+")
        tmux.press("=")
        tmux.see(r"Set a value")
        tmux.press("1e-5", "Enter")
        tmux.see(r"optimizer.lr .*1e-05 +at step")
        tmux.press("R")
        tmux.see(r"resume: goes on at step")
        tmux.press("X")
        tmux.see(r"Stop brief-\S+ and save\?")
        tmux.press("y")
        tmux.see(r"stop: stopped at step \d+ of 5000")
        tmux.press("1")
        tmux.see(r"stopped +\d+/5000")
        tmux.press("q")
        wait_for(lambda: not tmux.text.strip(), "the dashboard's end")
        assert process.wait(timeout=60) == 75
        assert list(run.checkpoints.path.glob("step-*/manifest.json"))
    finally:
        tmux.close()
        if process.poll() is None:
            process.kill()
        process.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def ssh_server(folder: Path) -> Iterator[list[str]]:
    """Run an sshd on the loopback and yield the command that connects to it."""
    sshd = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if sshd is None or shutil.which("ssh") is None:
        pytest.skip("openssh-server or openssh-client is not installed")
    for name in ("host", "user"):
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)], check=True
        )
    port = free_port()
    config = folder / "sshd_config"
    config.write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {folder / 'host'}\n"
        f"AuthorizedKeysFile {folder / 'user.pub'}\nStrictModes no\nUsePAM no\nPidFile none\n"
        "PermitRootLogin yes\nPasswordAuthentication no\n"
    )
    if os.geteuid() == 0:
        # The server's own empty folder, which a service would have made.
        Path("/run/sshd").mkdir(exist_ok=True)
    server = subprocess.Popen(
        [sshd, "-D", "-e", "-f", str(config)], stderr=(folder / "sshd.log").open("wb")
    )
    options = {
        "Port": str(port),
        "IdentityFile": str(folder / "user"),
        "IdentitiesOnly": "yes",
        "UserKnownHostsFile": "/dev/null",
        "StrictHostKeyChecking": "no",
        "LogLevel": "ERROR",
    }
    words = [word for key, value in options.items() for word in ("-o", f"{key}={value}")]
    client = ["ssh", "-F", "/dev/null", *words, f"{getpass.getuser()}@127.0.0.1"]
    try:
        wait_for(lambda: _answers(port) or server.poll() is not None, "the server", 20.0)
        tried = subprocess.run([*client, "true"], stdin=subprocess.DEVNULL, capture_output=True)
        if tried.returncode != 0:
            reason = (folder / "sshd.log").read_text("utf-8", "replace")[-300:]
            pytest.skip(f"this machine lets nobody in by SSH: {reason}")
        yield client
    finally:
        server.terminate()
        server.wait()


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


class Connection:
    """An SSH client in a pseudo-terminal."""

    def __init__(self, client: list[str], command: str) -> None:
        pid, self._master = pty.fork()
        if pid == 0:
            os.execvp(client[0], [client[0], "-tt", *client[1:], command])
        self._pid = pid
        self.text = ""

    def see(self, words: str) -> None:
        def is_seen() -> bool:
            while select.select([self._master], [], [], 0.1)[0]:
                try:
                    self.text += os.read(self._master, 65536).decode("utf-8", "replace")
                except OSError:
                    break
            return re.search(words, self.text) is not None

        wait_for(is_seen, words)

    def cut(self) -> None:
        os.kill(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)
        os.close(self._master)


@pytest.mark.slow
def test_a_cut_connection_ends_the_viewer_alone_and_another_takes_over(tmp_path: Path) -> None:
    environ = environment(tmp_path)
    with ssh_server(tmp_path) as client:
        run = RunDir.create(tmp_path / "output", "long", ledger=Ledger.of_user(environ))
        run.recipe.path.write_text("name: long\n")
        process = launch.launch(run, program=STAND_IN)
        settings = " ".join(f"{key}={shlex.quote(value)}" for key, value in environ.items())
        command = (
            f"stty cols 80 rows 24; cd {shlex.quote(str(tmp_path))}; "
            f"env {settings} PYTHONPATH={shlex.quote(os.pathsep.join(sys.path))} "
            f"{shlex.quote(sys.executable)} -m loba_tui.cli tui --run {shlex.quote(str(run.path))}"
        )
        reader = RunReader(run)

        def step() -> int:
            status = reader.status()
            return status.step if status is not None else 0

        try:
            first = Connection(client, command)
            first.see("long-")
            first.see("loss")
            before = step()
            first.cut()
            wait_for(lambda: step() > before + 20, "progress without a viewer")
            assert process.poll() is None
            second = Connection(client, command)
            second.see("loss")
            second.see("training")
            second.cut()
            assert process.poll() is None
        finally:
            process.kill()
            process.wait()
