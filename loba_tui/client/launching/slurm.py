"""Parts of scripts for SLURM that train a run: how signals reach it, and how it is requeued."""

from __future__ import annotations

SAVE_SECONDS = 120
"""Before the end of a job's time it is told to save."""

TRAPS = """\
child= stopping= out_of_time=
# The end of its time: save, and wait in line again. A preempted job is requeued by SLURM itself.
trap 'out_of_time=1 stopping=1; kill -USR1 $child 2>/dev/null' USR1
trap 'stopping=1; kill -TERM $child 2>/dev/null' TERM
"""

WAIT = """\
  child=$!
  wait $child
  status=$?
  # A signal to this shell ends `wait`, not the child.
  while kill -0 $child 2>/dev/null; do wait $child; status=$?; done
"""


def requeued(job: str) -> str:
    """Return the end of a script whose job goes on later where its time was over.

    Args:
        job: What SLURM knows it by, in the shell's words.
    """
    return f"""\
if [ -n "$out_of_time" ] && [ $status = 75 ]; then
  scontrol requeue "{job}"
fi
exit $status
"""
