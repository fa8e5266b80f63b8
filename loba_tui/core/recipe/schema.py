"""Version 1 of the recipe: what a run is made of, as frozen pydantic models.

Only shape and simple ranges are checked here. Options of drop-ins (`Choice`) are checked against
the drop-in's own signature by `core.plugins`, and both kinds of error are reported together by
`core.recipe.load`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from loba_tui.core.recipe.sections.best import BestSection
from loba_tui.core.recipe.sections.data import DataSection, NonEmptyStr, Scale, Section
from loba_tui.core.recipe.sections.method import Choice, MethodSection
from loba_tui.core.recipe.sections.parallel import ParallelSection
from loba_tui.core.recipe.sections.proof import ProofSection
from loba_tui.core.recipe.sections.validation import ValidationSection

RECIPE_VERSION = 1


class BaseModelSection(Section):
    """Which pipeline is operated on, and how it is held in memory."""

    id: NonEmptyStr = Field(
        description="builtin:NAME, a diffusers folder, a .safetensors checkpoint, a hub id,"
        " or hub-id:file.safetensors"
    )
    revision: str | None = Field(None, description="hub branch, tag or commit; pinned at load")
    variant: str | None = Field(None, description="weight variant of the repository, such as fp16")
    vae: NonEmptyStr | None = Field(
        None, description="another VAE: a diffusers folder or a .safetensors file"
    )
    config: NonEmptyStr | None = Field(
        None, description="diffusers folder or hub id whose configuration a one-file model has"
    )
    prediction_type: Literal["epsilon", "v_prediction", "flow"] | None = Field(
        None, description="what the model predicts; null takes what it says of itself"
    )
    zero_snr: bool | None = Field(
        None, description="whether the last timestep is pure noise; null: as the model says"
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    device: str = Field("auto", description="auto, cpu, mps, cuda, cuda:N, or cuda:122")
    quantize: Choice | None = Field(
        None, description="holds the denoiser's blocks in fewer bits; null: in dtype"
    )
    attention: Literal["auto", "sdpa", "xformers", "flash", "math"] = "auto"
    gradient_checkpointing: bool | Literal["auto"] = Field(
        False, description="recompute activations to save memory; auto: as train.batch_size: auto"
    )
    offload: Literal["none", "model", "sequential", "blocks"] = Field(
        "none",
        description="what waits in main memory: whole networks, single layers, or the denoiser's"
        " blocks, each copied to the device while the one before it computes",
    )
    blocks_on_host: PositiveInt | None = Field(
        None, description="how many, with offload: blocks; null is all of them"
    )
    vae_slicing: bool = Field(
        False, description="the VAE takes one image after another: slower, and less memory"
    )
    vae_tiling: bool = Field(
        False, description="the VAE takes an image in tiles, blended where they meet"
    )
    threads: PositiveInt | None = Field(None, description="CPU threads; null takes the model's own")
    long_prompts: Literal["cut", "chunks"] = Field(
        "cut", description="prompts of more than 75 tokens: cut there, or read in chunks of 75"
    )
    prompt_weights: bool = Field(
        False, description="(a), [a] and (a:1.3) in prompts are weights, as in A1111's web UI"
    )


class TextEncodersSection(Section):
    """A LoRA on the text encoders, trained beside the denoiser's adapter."""

    lr: NonNegativeFloat | None = Field(
        None,
        description="learning rate of the text encoders; null is optimizer.lr,"
        " and 0 leaves them as method.warm_start has made them",
    )
    rank: PositiveInt | None = Field(None, description="null is adapter.rank")
    alpha: PositiveFloat | None = Field(None, description="null is adapter.alpha")
    layers: Annotated[tuple[Literal["attention", "mlp"], ...], Field(min_length=1)] = Field(
        ("attention", "mlp"), description="parts of each of an encoder's blocks"
    )
    components: (
        Annotated[tuple[Literal["text_encoder", "text_encoder_2"], ...], Field(min_length=1)] | None
    ) = Field(None, description="which of them; null is all that the model has")


class AdapterSection(Choice):
    """The trainable weights: a drop-in of `adapters/`."""

    name: NonEmptyStr = "lora"
    rank: PositiveInt = 4
    alpha: PositiveFloat = 1.0
    init: Literal["gradient"] | None = Field(
        None, description="gradient: a LoRA's A begins along the first step's; null: random"
    )
    init_from: NonEmptyStr | None = Field(
        None, description="LoRA file, or folder of a run, whose weights training begins with"
    )
    text_encoders: TextEncodersSection | None = Field(
        None, description="trains a LoRA on the text encoders too; null trains the denoiser alone"
    )


class OptimizerSection(Choice):
    """A drop-in of `optimizers/` and its learning rate."""

    name: NonEmptyStr = "adamw"
    lr: PositiveFloat = 2e-4


class SchedulerSection(Section):
    """The four schedules of a run, each a drop-in."""

    model: Choice = Choice(name="constant")
    layer: Choice = Choice(name="uniform")
    noise: Choice = Choice(name="ddim")
    timestep: Choice = Choice(name="uniform")


class EmaSection(Section):
    """An exponential moving average of the weights: what is drawn, proven and exported."""

    decay: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.99, description="share of the average that a step keeps; the first steps keep less"
    )


class StopWhenSection(Section):
    """Ends a run by its efficacy figures: as converged, or because nothing will come of it."""

    strength: PositiveFloat | None = Field(
        None, description="converged once both sides are this strong and sound; null: see gain"
    )
    gain: NonNegativeFloat = Field(
        0.02, description="converged once the strength of a sound slider grows by no more than this"
    )
    patience: PositiveInt = Field(3, description="checks over which gain, dead or collapsed count")
    dead_after: PositiveInt = Field(
        100, description="steps after which a dead or collapsed slider ends the run"
    )


class LossSection(Choice):
    """How far a prediction is off: a drop-in of `losses/`, and which timesteps count how much."""

    name: NonEmptyStr = "mse"
    weighting: Choice | None = Field(None, description="null: all timesteps count the same")


class TrainSection(Section):
    """How long and how much at once."""

    steps: PositiveInt = 500
    batch_size: PositiveInt | Literal["auto"] | None = Field(
        4,
        description="samples at once on each process; auto: as many of effective_batch_size as fit"
        " into free memory, settled when a run starts; null: what global_batch_size comes to",
    )
    gradient_accumulation: PositiveInt = 1
    effective_batch_size: PositiveInt | None = Field(
        None, description="with batch_size: auto, the samples of a step: all that it accumulates"
    )
    global_batch_size: PositiveInt | None = Field(
        None,
        description="samples of a step over all processes; divided by them and by"
        " gradient_accumulation it is batch_size, which is left out then, or auto",
    )
    seed: NonNegativeInt = 0
    resolution: PositiveInt | None = Field(None, description="pixels; null takes the model's own")
    max_grad_norm: PositiveFloat | None = 1.0
    on_nan: Literal["stop", "skip", "rollback"] = Field(
        "stop", description="at a loss or gradient that is not finite; rollback: newest checkpoint"
    )
    max_skips: PositiveInt = Field(10, description="bad steps that skip or rollback put up with")
    ema: EmaSection | None = Field(None, description="null: the weights of the last step")
    efficacy_every: NonNegativeInt = Field(
        0, description="steps between checks of what the adapter does, without images; 0: none"
    )
    stop_when: StopWhenSection | None = Field(None, description="null: all steps are made")

    @property
    def micro_batch_size(self) -> int:
        """Samples at once as a number; the most that they can become while they are left open."""
        if self.batch_size == "auto":
            return self.effective_batch_size or self.global_batch_size or 1
        if self.batch_size is None:
            return max(1, (self.global_batch_size or 1) // self.gradient_accumulation)
        return self.batch_size

    @model_validator(mode="before")
    @classmethod
    def _global_batch_decides(cls, data: Any) -> Any:
        is_open = isinstance(data, dict) and "batch_size" not in data
        if is_open and data.get("global_batch_size") is not None:
            return {**data, "batch_size": None}
        return data

    @model_validator(mode="after")
    def _batches_agree(self) -> TrainSection:
        effective, whole = self.effective_batch_size, self.global_batch_size
        if self.batch_size == "auto":
            if effective is None and whole is None:
                raise ValueError(
                    "batch_size: auto needs effective_batch_size, the samples of a step: the"
                    " batch_size × gradient_accumulation that there would be; or global_batch_size,"
                    " those of all processes"
                )
            if self.gradient_accumulation != 1:
                raise ValueError("batch_size: auto decides gradient_accumulation too; leave it out")
        elif self.batch_size is None:
            if whole is None:
                raise ValueError("batch_size: null needs global_batch_size")
            if whole % self.gradient_accumulation:
                raise ValueError(
                    f"global_batch_size is {whole}, which gradient_accumulation:"
                    f" {self.gradient_accumulation} does not divide"
                )
        elif effective not in (None, self.batch_size * self.gradient_accumulation):
            raise ValueError(
                f"effective_batch_size is {effective}, and batch_size × gradient_accumulation is"
                f" {self.batch_size * self.gradient_accumulation}; it is for batch_size: auto"
            )
        elif whole is not None and whole % (self.batch_size * self.gradient_accumulation):
            raise ValueError(
                f"global_batch_size is {whole}, which is no multiple of batch_size ×"
                f" gradient_accumulation, {self.batch_size * self.gradient_accumulation}; leave"
                " batch_size out, and it is worked out"
            )
        if effective is not None and whole is not None:
            raise ValueError(
                "effective_batch_size is of each process and global_batch_size of all; leave one"
                " out"
            )
        return self

    exactness: Literal["exact", "fast"] = Field(
        "exact", description="exact: the same bits each time; fast: kernels with other last bits"
    )
    compile: Literal["none", "blocks", "graphs"] = Field(
        "none", description="repeated blocks as compiled kernels, or those as CUDA graphs as well"
    )

    @model_validator(mode="after")
    def _stopping_needs_looks(self) -> TrainSection:
        if self.stop_when is not None and not self.efficacy_every:
            raise ValueError("stop_when needs efficacy_every: what it judges is looked at there")
        return self


class SampleSection(Section):
    """Pictures: how they are drawn during the run and for the proof."""

    every: NonNegativeInt = Field(0, description="steps between strips; 0 draws the last one only")
    prompts: tuple[NonEmptyStr, ...] = Field((), description="empty: the first four targets")
    negative_prompt: str = ""
    scales: Annotated[tuple[Scale, ...], Field(min_length=2)] = (-3, -2, -1, 0, 1, 2, 3)
    seeds: Annotated[tuple[NonNegativeInt, ...], Field(min_length=1)] = (0,)
    steps: PositiveInt = 20
    guidance_scale: float = Field(4.0, ge=1.0, le=50.0)
    noise: Choice = Choice(name="euler")
    batch_size: PositiveInt = 8

    @property
    def rows_per_image(self) -> int:
        """UNet rows of an image in a sampling step; only guidance asks without the prompt too."""
        return 2 if self.guidance_scale > 1 else 1


class SaveSection(Section):
    """Checkpoints."""

    every: NonNegativeInt = Field(0, description="steps between checkpoints; 0 saves at the end")
    keep: Annotated[int, Field(ge=2)] = 2
    best: BestSection | None = Field(
        None, description="the adapter of the best step is kept besides; null: the last one alone"
    )


class Recipe(Section):
    """A whole run, as one frozen value. The smallest recipe is version, base_model and method."""

    version: Literal[1]
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")] = "run"
    base_model: BaseModelSection
    method: MethodSection
    adapter: AdapterSection = AdapterSection()
    optimizer: OptimizerSection = OptimizerSection()
    scheduler: SchedulerSection = SchedulerSection()
    loss: LossSection = LossSection()
    noise: tuple[Choice, ...] = Field((), description="changes to plain noise, one after another")
    data: DataSection | None = Field(None, description="images, for methods that train on them")
    train: TrainSection = TrainSection()
    parallel: ParallelSection = ParallelSection()
    validation: ValidationSection | None = Field(
        None, description="the loss on what is not trained on, at fixed noise; null: none"
    )
    sample: SampleSection = SampleSection()
    save: SaveSection = SaveSection()
    proof: ProofSection = ProofSection()

    @property
    def sample_prompts(self) -> tuple[str, ...]:
        """The prompts that strips are drawn from."""
        targets = dict.fromkeys(concept.target for concept in self.method.expanded_concepts)
        return self.sample.prompts or tuple(filter(None, targets))[:4]

    @property
    def proof_prompts(self) -> tuple[str, ...]:
        """The prompts that the effect is measured on."""
        return self.proof.prompts or self.sample_prompts

    @property
    def other_prompts(self) -> tuple[str, ...]:
        """The prompts that an eraser must leave alone, in the order of `proof.others`."""
        return tuple(prompt for prompts in self.proof.others.values() for prompt in prompts)
