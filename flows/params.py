"""params.yaml as a typed object: one section per stage, plus `base` and what several stages share.

A section's class stands beside the code that it configures; this module only composes them, so
importing it imports the stages' libraries, and commands that do not need parameters do not import
it. Profiles are files of the same shape in params/ that hold only what differs (`ghn params use
paper`).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from datasets.deepnets.generation.config import GenerateConfig
from datasets.deepnets.validation.config import ValidateConfig
from flows.compute.fanout import FanOut
from flows.networks.targets import ArchitecturesConfig
from flows.report.config import ReportConfig
from flows.settings.train import TrainStageConfig
from flows.stages.evaluate import EvaluateConfig
from flows.stages.finetune import FinetuneStageConfig
from flows.stages.images import ImagesConfig
from flows.stages.predict import PredictConfig
from flows.stages.register import RegisterConfig
from flows.stages.transfer import TransferConfig
from ghn.errors import ConfigError

PARAMS_FILE = Path("params.yaml")
PROFILES = Path("params")
LAPTOP = "laptop"
"""The profile of params.yaml as committed."""


class BaseConfig(BaseModel):
    """What all stages share."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    ghn: str = Field(
        default="ghn3",
        pattern=r"^[A-Za-z0-9._-]+$",
        description="name of the hypernetwork: models/<ghn>",
    )
    seed: int = Field(default=1, ge=0, description="every random draw of every stage hangs on it")
    experiment: str = Field(
        default="ghn3", min_length=1, description="MLflow experiment of the stages' runs"
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        default="auto", description="auto: a GPU if there is one"
    )

    def torch_device(self) -> str:
        """The device by PyTorch's name."""
        import torch

        return (
            self.device if self.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
        )


class Params(BaseModel):
    """All of params.yaml."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    base: BaseConfig
    fanout: FanOut
    generate: GenerateConfig
    validate_: ValidateConfig = Field(default_factory=ValidateConfig, alias="validate")
    images: ImagesConfig
    train: TrainStageConfig
    architectures: ArchitecturesConfig
    predict: PredictConfig
    evaluate: EvaluateConfig
    finetune: FinetuneStageConfig
    transfer: TransferConfig
    register_: RegisterConfig = Field(alias="register")
    report: ReportConfig


def load_params(path: str | Path = PARAMS_FILE, profile: str | None = None) -> Params:
    """Reads and checks params.yaml, with the overlay of `profile` if one is named.

    Raises:
        ConfigError: the file is absent or not YAML, or a field is missing, unknown or has a value
            that is not allowed; the message has a line per problem with field, value and what is
            allowed.
    """
    tree = read_yaml(path)
    source = str(path)
    if profile is not None and profile != LAPTOP:
        overlay = profile_path(profile)
        tree = merge(tree, read_yaml(overlay))
        source = f"{path} with {overlay}"
    return validate(tree, source)


def validate(tree: Mapping[str, Any], source: str) -> Params:
    """`tree` as `Params`; `source` names it in messages. Raises ConfigError as `load_params`
    does.
    """
    try:
        return Params.model_validate(tree)
    except ValidationError as error:
        lines = [_explain(dict(problem)) for problem in error.errors()]
        raise ConfigError(
            "\n".join([f"{source}: {len(lines)} problem{'s' * (len(lines) > 1)}", *lines])
        ) from None


def read_yaml(path: str | Path) -> dict[str, Any]:
    """The mapping in a YAML file; raises ConfigError if there is none."""
    try:
        tree = yaml.safe_load(Path(path).read_text())
    except FileNotFoundError:
        raise ConfigError(
            f"{path} does not exist; run this in the root of the tree, where params.yaml is"
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from None
    if not isinstance(tree, dict):
        raise ConfigError(f"{path} must be a mapping of sections, not {type(tree).__name__}")
    return tree


def profile_path(profile: str) -> Path:
    """The overlay file of a profile. Raises ConfigError naming the profiles that exist."""
    path = PROFILES / f"{profile}.yaml"
    if not path.exists():
        raise ConfigError(f"unknown profile {profile!r}; there are {', '.join(profiles())}")
    return path


def profiles() -> list[str]:
    """Names of all profiles."""
    return [LAPTOP, *sorted(path.stem for path in PROFILES.glob("*.yaml"))]


def merge(tree: Mapping[str, Any], overlay: Mapping[str, Any]) -> dict[str, Any]:
    """`tree` with the leaves of `overlay` in place of its own."""
    merged = dict(tree)
    for key, value in overlay.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = merge(merged[key], value) if both else value
    return merged


def use_profile(profile: str, path: str | Path = PARAMS_FILE) -> Params:
    """Writes the overlay of `profile` into params.yaml, comments kept, after checking that the
    result is valid.
    """
    return set_params({}, profile, path)


def set_params(
    values: Mapping[str, Any], profile: str | None = None, path: str | Path = PARAMS_FILE
) -> Params:
    """Writes `values` (by dotted name) over an optional profile into params.yaml, comments kept, if
    that is valid.

    Raises:
        ConfigError: as `load_params`.
    """
    from ruamel.yaml import YAML

    from ghn.files import atomic_path

    overlay: dict[str, Any] = {}
    source = str(path)
    if profile is not None and profile != LAPTOP:
        overlay = read_yaml(Path(path).parent / profile_path(profile))
        source = f"{path} with {profile_path(profile)}"
    for name, value in values.items():
        nested: Any = value
        for part in reversed(name.split(".")):
            nested = {part: nested}
        overlay = merge(overlay, nested)
    params = validate(merge(read_yaml(path), overlay), source)
    round_trip = YAML()
    round_trip.preserve_quotes = True
    round_trip.width = 120
    tree = round_trip.load(Path(path).read_text())

    def put(target: Any, values: Mapping[str, Any]) -> None:
        for key, value in values.items():
            if isinstance(value, Mapping) and isinstance(target.get(key), Mapping):
                put(target[key], value)
            else:
                target[key] = value

    put(tree, overlay)
    with atomic_path(path) as temporary, temporary.open("w") as file:
        round_trip.dump(tree, file)
    return params


def _explain(problem: dict[str, Any]) -> str:
    location: tuple[str | int, ...] = problem["loc"]
    field = ".".join(str(part) for part in location)
    match problem["type"]:
        case "extra_forbidden":
            return f"  {field}: unknown; allowed: {', '.join(_siblings(location))}"
        case "missing":
            return f"  {field}: missing"
    message = str(problem["msg"]).removeprefix("Value error, ")
    return f"  {field} = {problem['input']!r}: {message[0].lower()}{message[1:]}"


def _siblings(location: tuple[str | int, ...]) -> list[str]:
    """The fields that may stand where `location` does."""
    model: Any = Params
    for part in location[:-1]:
        fields = {
            field.alias or name: field for name, field in getattr(model, "model_fields", {}).items()
        }
        if part not in fields:
            return []
        annotation = fields[str(part)].annotation
        candidates = [annotation, *get_args(annotation)]
        model = next(
            (c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)), None
        )
    return [field.alias or name for name, field in getattr(model, "model_fields", {}).items()]
