"""An estimate's figures: parameters, memory, disk and work of a run that has not started."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from loba_tui.core.program.planning.method_calls import MethodCalls


@dataclass(frozen=True)
class Memory:
    """Bytes on the device.

    Attributes:
        weights: Base weights that stay during training: the denoiser's, and on the CPU the VAE's.
        loading: Most while prompts are encoded and the denoiser is brought.
        adapter: Trained and frozen adapter weights, float32.
        gradients: One float32 number per trained parameter.
        activations: Held between a micro-step's forward and backward pass.
        training: Peak of a step.
        sampling: Peak while pictures are drawn and measured.
        peak: Largest of all phases, without a margin.
        needed: The peak with margin and workspaces.
    """

    weights: int
    loading: int
    adapter: int
    gradients: int
    optimizer: int
    activations: int
    training: int
    sampling: int
    peak: int
    needed: int

    @property
    def worst_phase(self) -> str:
        """The phase that the peak is reached in."""
        phases = {"training": self.training, "sampling": self.sampling, "loading": self.loading}
        return max(phases, key=lambda name: phases[name])


@dataclass(frozen=True)
class Disk:
    """Bytes in the run folder.

    Attributes:
        checkpoint: One checkpoint: adapter, optimizer and method state.
        checkpoints: All that are kept at once, the one being written included.
        samples: Strips of the whole run, taken for photographs.
        adapter: The exported adapter in both formats.
    """

    checkpoint: int
    checkpoints: int
    samples: int
    adapter: int
    needed: int


@dataclass(frozen=True)
class Work:
    """How much is to be computed; seconds only where it was timed.

    Attributes:
        rows_per_step: UNet rows of a step; one with a backward pass counts as two.
        warm_up_rows: Rows before the first step, to fill a pool of trajectories.
        sample_rows: Rows of all pictures.
        validation_rows: Rows of all evaluations of the validation loss.
        extra_steps: Steps beyond train.steps, whose gradient alone is of use.
        operators_per_step: Operators that a step dispatches; on a GPU, about its launches.
        flops_per_step: Floating-point operations of a step.
        flops: Of the whole run.
        seconds_per_step: Timed, or None.
        seconds: Of the whole run, loading left out, or None.
    """

    rows_per_step: float
    warm_up_rows: float
    sample_rows: int
    validation_rows: int
    extra_steps: int
    operators_per_step: float
    flops_per_step: float
    flops: float
    seconds_per_step: float | None = None
    seconds: float | None = None


@dataclass(frozen=True)
class Estimate:
    """Requirements of a run.

    Attributes:
        dtype: Of the base weights.
        origin: Where the model's shapes are from: local, cached, shipped or assumed.
        resolution: Pixels that are trained and drawn at.
        parameters: Base parameters by component.
        trained_parameters: Those of them that the layer scheduler lets train.
        notes: What is not exact about this, as sentences.
    """

    device: str
    dtype: str
    origin: str
    resolution: int
    parameters: Mapping[str, int]
    adapter_parameters: int
    trained_parameters: int
    memory: Memory
    disk: Disk
    work: Work
    calls: MethodCalls
    notes: tuple[str, ...] = field(default=())

    def as_json(self) -> dict[str, Any]:
        """Return a plain object for events and for `--json`."""
        plain = asdict(self)
        del plain["calls"]
        plain["memory"]["worst_phase"] = self.memory.worst_phase
        plain["student_rows"] = self.calls.student_rows
        plain["teacher_rows"] = self.calls.teacher_rows
        return plain
