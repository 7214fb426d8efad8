"""Section `base` of params.yaml: what all stages share."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from ghn.settings import Seed, Settings


class BaseConfig(Settings):
    """The settings that all stages share."""

    ghn: str = Field(
        default="ghn3",
        pattern=r"^[A-Za-z0-9_-][A-Za-z0-9._-]*$",
        description="name of the hypernetwork: models/<ghn>",
    )
    seed: Seed = Field(default=1, description="every random draw of every stage hangs on it")
    experiment: str = Field(
        default="ghn3", min_length=1, description="MLflow experiment of the stages' runs"
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        default="auto", description="auto: a GPU if there is one"
    )

    def named(self, inits: tuple[str, ...]) -> tuple[str, ...]:
        """Initialisations, `ghn` among them by the name of the pipeline's hypernetwork."""
        return tuple(self.ghn if init == "ghn" else init for init in inits)

    def torch_device(self) -> str:
        """The device by PyTorch's name."""
        import torch

        return (
            self.device if self.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
        )
