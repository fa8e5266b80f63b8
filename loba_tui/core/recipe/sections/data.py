"""The recipe's `data` section: where images lie, and how they become training samples."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveFloat, PositiveInt

Fraction = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Scale = Annotated[float, Field(ge=-20, le=20, allow_inf_nan=False)]
NonEmptyStr = Annotated[str, Field(min_length=1)]


class Section(BaseModel):
    """A part of the recipe: immutable, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class DataSource(Section):
    """A folder of images, or a parquet table with them."""

    path: NonEmptyStr = Field(
        description="builtin:NAME, a folder, or a .parquet file; relative to the recipe's folder"
    )
    repeats: PositiveInt = Field(1, description="how often each image comes in an epoch")
    scale: Scale | None = Field(
        None, description="image_slider, addift: the strength that these images stand for"
    )
    prior: bool = Field(
        False, description="images of the class as the model knows it, to be kept (regularisation)"
    )
    caption: str | None = Field(None, description="of every image here, instead of its own")
    masks: NonEmptyStr | None = Field(
        None, description="folder of grey images of the same names: white is trained, black is not"
    )


class CaptionSection(Section):
    """How captions are read, and how they vary from epoch to epoch."""

    key: NonEmptyStr = Field(
        "text", description="column of metadata or parquet, key of a .json file"
    )
    extension: Annotated[str, Field(pattern=r"^\.[A-Za-z0-9]{1,12}$")] = Field(
        ".txt", description="of caption files beside the images; .json is looked for as well"
    )
    encoding: Literal["auto", "utf-8", "utf-16", "cp1252", "latin-1"] = Field(
        "auto", description="auto: UTF-8, with or without a mark, or UTF-16 with one"
    )
    missing: str | None = Field(
        None, description="caption of an image that has none; null makes that an error"
    )
    trigger: str = Field("", description="words put before every caption of what is learned")
    separator: NonEmptyStr = Field(",", description="what stands between the tags of a caption")
    shuffle: bool = Field(False, description="put the tags into another order each time")
    keep: NonNegativeInt = Field(0, description="tags at the front that stay where they are")
    drop_tags: Fraction = Field(
        0.0, description="share of the other tags that is left out each time"
    )
    variants: PositiveInt = Field(
        8,
        description="most orders or choices of one caption: each is encoded once, at first",
    )
    wildcards: bool = Field(
        False, description="of {a|b} in a caption one is taken each time; {{ and }} are braces"
    )
    dropout: Fraction = Field(0.0, description="share of samples trained on the empty prompt")


class BucketSection(Section):
    """Sizes that images are trained at: many shapes, each of about the same area."""

    enabled: bool = Field(True, description="false crops everything to one square")
    step: PositiveInt | None = Field(
        None, description="pixels that sides are multiples of; null takes the least possible"
    )
    most_aspect: Annotated[float, Field(ge=1, le=16)] = Field(
        2.0, description="longer side over shorter side, at most"
    )
    sizes: tuple[tuple[PositiveInt, PositiveInt], ...] = Field(
        (), description="width and height of each bucket; empty works them out"
    )
    enlarge: bool = Field(True, description="false makes an image that is too small an error")


class MaskSection(Section):
    """Effect of masks; only sources that have `masks` are concerned."""

    invert: bool = Field(False, description="black is trained, white is not")
    floor: Fraction = Field(0.0, description="weight of what the mask leaves out")
    keep_outside: Annotated[float, Field(ge=0, allow_inf_nan=False)] = Field(
        1.0, description="weight of holding what is outside where the base model has it"
    )


class DataSection(Section):
    """Images to train on."""

    sources: Annotated[tuple[DataSource, ...], Field(min_length=1)]
    captions: CaptionSection = CaptionSection()
    buckets: BucketSection = BucketSection()
    mask: MaskSection = MaskSection()
    prior_weight: Annotated[float, Field(ge=0, allow_inf_nan=False)] = Field(
        1.0, description="weight of the loss on prior images"
    )
    alpha: Literal["white", "black", "gray", "error"] = Field(
        "white", description="what transparent images are laid on"
    )
    crop: Literal["center", "random"] = "center"
    size_conditioning: Literal["original", "bucket"] = Field(
        "original",
        description="SD-XL is told an image's size and crop: as its file has them, or as if the"
        " whole of it were as large as its bucket",
    )
    flip: bool = Field(False, description="mirror every other sample, at random")
    max_megapixels: PositiveFloat = Field(64.0, description="a larger image is an error")
    skip_bad: bool = Field(False, description="leave bad files out, and record which")
    cache: Literal["memory", "disk", "none"] = Field(
        "memory", description="where latents are kept; none encodes each sample every time"
    )
    workers: NonNegativeInt = Field(0, description="processes that decode; the bits are the same")
