"""Images: section `images` of params.yaml, and which of them a trial sees."""

from __future__ import annotations

from pydantic import Field, field_validator, model_validator

from ghn.settings import Settings


class ImagesConfig(Settings):
    """Section `images` of params.yaml."""

    name: str = Field(
        default="digits",
        pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]*$",
        description=(
            "digits (embedded), or what is below root: <name>-{train,test}.parquet, a directory"
            " <name> with Parquet files or a folder per split and class, or a downloaded"
            " torchvision data set"
        ),
    )
    root: str | None = Field(
        default=None, description="directory of the data; null: GHN_DATA_ROOT or ../shared/data"
    )
    image_size: int = Field(default=32, ge=8, le=1024, description="side in pixels")
    val_fraction: float = Field(
        default=0.1, gt=0, lt=1, description="share of the training images that is held out"
    )
    test_fraction: float = Field(
        default=0.2, gt=0, lt=1, description="test share of a data set stored as one table"
    )
    stream: bool = Field(
        default=False, description="stream the training split (ImageNet) instead of keeping tensors"
    )
    workers: int = Field(
        default=0,
        ge=0,
        description="decoding processes of the stream, per rank; 8 must divide by it",
    )

    @field_validator("workers")
    @classmethod
    def _divide_the_lanes(cls, workers: int) -> int:
        if workers and 8 % workers:
            raise ValueError("8 must divide by it: 0, 1, 2, 4 or 8")
        return workers

    def splits(self) -> tuple[str, ...]:
        """The splits that are decoded."""
        return ("val", "test") if self.stream else ("train", "val", "test")

    def spec(self, seed: int, **limits: int | None) -> ImagesSpec:
        """These images, split by `seed`, as a trial sees them; `limits` such as `max_test` cut
        them down.
        """
        return ImagesSpec.model_validate(self.model_dump() | {"seed": seed} | limits)


class ImagesSpec(Settings):
    """Which images a trial trains, chooses and tests on."""

    name: str
    image_size: int = 32
    root: str | None = None
    val_fraction: float = 0.1
    test_fraction: float = 0.2
    seed: int = 0
    few_shot: int | None = Field(
        default=None, ge=2, description="labels in all, for training and choices together"
    )
    few_shot_held_out: float = Field(
        default=0.2, gt=0, lt=1, description="share of these that choices are made on"
    )
    max_train: int | None = Field(default=None, ge=1)
    max_val: int | None = Field(default=None, ge=1)
    max_test: int | None = Field(default=None, ge=1)
    stream: bool = Field(
        default=False,
        description="training images that do not fit in memory: decoded as they are read",
    )
    workers: int = Field(default=0, ge=0, description="decoding processes of the stream")

    @model_validator(mode="after")
    def _streams_all(self) -> ImagesSpec:
        for name in ("few_shot", "max_train"):
            check_streamed(name, getattr(self, name), self.stream)
        if self.few_shot is not None:
            count_held_out(self.few_shot, self.few_shot_held_out)
        return self


def count_held_out(labels: int, share: float) -> int:
    """How many of so many labels choices are made on.

    Raises:
        ValueError: none of them, or all.
    """
    n = round(labels * share)
    if 0 < n < labels:
        return n
    wanted = "choose" if n == 0 else "train"
    raise ValueError(f"holding out {share:g} of {labels} labels leaves none to {wanted} on")


def check_streamed(name: str, limit: int | None, stream: bool) -> None:
    """Raises ValueError if `limit`, of the field `name`, would cut down a stream, which it
    cannot.
    """
    if stream and limit is not None:
        raise ValueError(
            f"{name} needs the training images in memory, and these are streamed (`stream`): leave"
            " it null"
        )
