"""SLURM on this machine: one controller, one node, all on loopback, for as long as a test lasts."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "sinfo", "scancel")

CONFIGURATION = """\
ClusterName=loba
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmdPort={node}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
KillWait=10
ReturnToService=2
SchedulerParameters=sched_interval=1,batch_sched_delay=1
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 State=UNKNOWN
PartitionName=test Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def why_not() -> str:
    """Return why SLURM cannot be started here, "" where it can."""
    if os.geteuid() != 0:
        return "slurmd is started as root alone"
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    missing = [name for name in PROGRAMS if shutil.which(name, path=path) is None]
    return f"there is no {', '.join(missing)}; Debian has slurm-wlm and munge" if missing else ""


@contextmanager
def cluster(folder: Path) -> Iterator[dict[str, str]]:
    """Lend the environment in which `sbatch` and its kin reach a SLURM of one node."""
    environ = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf")}
    environ["PATH"] = environ.get("PATH", "") + ":/usr/sbin:/sbin"
    for name in ("state", "spool"):
        (folder / name).mkdir()
    key = folder / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o400)
    text = CONFIGURATION.format(
        host=socket.gethostname().partition(".")[0],
        folder=folder,
        controller=_free_port(),
        node=_free_port(),
    )
    (folder / "slurm.conf").write_text(text)
    munge = ["munged", "--foreground", "--force", f"--key-file={key}"]
    munge += [
        f"--{what}={folder}/munge.{what.removesuffix('-file')}"
        for what in ("socket", "pid-file", "log-file", "seed-file")
    ]
    with ExitStack() as stack:
        stack.enter_context(_running(munge, environ))
        _wait(lambda: (folder / "munge.socket").exists())
        stack.enter_context(_running(["slurmctld", "-D"], environ))
        stack.enter_context(_running(["slurmd", "-D"], environ))
        _wait(lambda: "idle" in _told(["sinfo", "-h", "-o", "%T"], environ))
        yield environ
        _told(["scancel", "--user=root", "--signal=KILL", "--full"], environ)


def num_jobs(environ: dict[str, str]) -> int:
    """Return how many jobs wait or go on, each task of an array as one."""
    return len(_told(["squeue", "-h", "-r"], environ).splitlines())


@contextmanager
def _running(argv: list[str], environ: dict[str, str]) -> Iterator[None]:
    daemon = subprocess.Popen(
        argv,
        env=environ,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield
    finally:
        daemon.send_signal(signal.SIGTERM)
        try:
            daemon.wait(15)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait()


def _told(argv: list[str], environ: dict[str, str]) -> str:
    done = subprocess.run(argv, env=environ, capture_output=True, text=True, timeout=30)
    return done.stdout


def _wait(is_so: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline, "SLURM did not start"
        time.sleep(0.1)


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])
