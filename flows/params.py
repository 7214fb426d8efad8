"""params.yaml as a typed object: one section per stage, plus `base` and what several stages share.

The sections are in `flows.settings`; importing them takes no library that a stage works with.
Profiles are files of the same shape in params/ that hold only what differs (`ghn params use
paper`).
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Mapping
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field, ValidationError, model_validator
from pydantic_core import InitErrorDetails

from datasets.deepnets.generation.config import GenerateConfig
from datasets.deepnets.validation.config import ValidateConfig
from flows.settings.agreement import check_init, check_name, check_split
from flows.settings.architectures import ArchitecturesConfig
from flows.settings.base import BaseConfig
from flows.settings.evaluate import EvaluateConfig
from flows.settings.fanout import FanOut
from flows.settings.files import LAPTOP, find_profile, merge, parse, read_yaml
from flows.settings.finetune import FinetuneStageConfig
from flows.settings.images import ImagesConfig, check_streamed
from flows.settings.predict import PredictConfig
from flows.settings.register import RegisterConfig
from flows.settings.report import ReportConfig
from flows.settings.train import TrainStageConfig
from flows.settings.transfer import TransferConfig
from ghn.errors import ConfigError
from ghn.settings import Settings

__all__ = [
    "LAPTOP",
    "PARAMS_FILE",
    "PROFILES",
    "BaseConfig",
    "Params",
    "load_params",
    "merge",
    "read_yaml",
    "set_params",
    "updated",
    "use_profile",
    "validate",
]

PARAMS_FILE = Path("params.yaml")
PROFILES = Path("params")

_HEADER = """\
# The values of params/{profile}.yaml over those of the laptop profile, for which the comments
# beside fields were written. `git checkout params.yaml` goes back; `ghn params describe` explains.
"""
_PROFILE = re.compile(r"\A# The values of params/(\S+)\.yaml over ")


class Params(Settings):
    """All of params.yaml."""

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

    def tree(self) -> dict[str, Any]:
        """As nested dictionaries, as params.yaml would have them; every default is filled in."""
        return self.model_dump(mode="json", by_alias=True)

    @model_validator(mode="after")
    def _sections_agree(self) -> Params:
        """Refuses what is wrong only beside another section."""
        wrong: list[InitErrorDetails] = []

        def check(*field: str | int, value: Any, by: Callable[[Any], None]) -> None:
            try:
                by(value)
            except ValueError as error:
                wrong.append(
                    {"type": "value_error", "loc": field, "input": value, "ctx": {"error": error}}
                )

        check("base", "ghn", value=self.base.ghn, by=check_name)
        known = self.generate.rules()
        check("train", "split", value=self.train.split, by=partial(check_split, known=known))
        for name, section in (("finetune", self.finetune), ("transfer", self.transfer)):
            for number, init in enumerate(section.inits):
                check(name, "inits", number, value=init, by=partial(check_init, ghn=self.base.ghn))
        limited = partial(check_streamed, "max_train", stream=self.images.stream)
        check("finetune", "max_train", value=self.finetune.max_train, by=limited)
        if wrong:
            raise ValidationError.from_exception_data("Params", wrong)
        return self

    def section(self, name: str) -> BaseModel:
        """A section by its name in params.yaml. Raises KeyError if there is none."""
        for field, about in type(self).model_fields.items():
            if name == (about.alias or field):
                found: BaseModel = getattr(self, field)
                return found
        raise KeyError(name)


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
        overlay = find_profile(PROFILES, profile)
        tree = merge(tree, read_yaml(overlay))
        source = f"{path} with {overlay}"
    return validate(tree, source)


def validate(tree: Mapping[str, Any], source: str) -> Params:
    """`tree` as `Params`; `source` names it in messages. Raises ConfigError as `load_params`
    does.
    """
    return parse(Params, tree, source)


def use_profile(profile: str) -> Params:
    """Writes the overlay of `profile` into params.yaml, comments kept, after checking that the
    result is valid.
    """
    return set_params({}, profile)


def set_params(
    values: Mapping[str, Any], profile: str | None = None, path: str | Path = PARAMS_FILE
) -> Params:
    """Writes `values` (by dotted name) over an optional profile into params.yaml, comments kept, if
    that is valid. A profile takes the place of the one that was written before it.

    Raises:
        ConfigError: as `updated`.
    """
    from ghn.files import atomic_path

    params, text = updated(values, profile, path)
    with atomic_path(path) as temporary:
        temporary.write_text(text)
    return params


def updated(
    values: Mapping[str, Any], profile: str | None = None, path: str | Path = PARAMS_FILE
) -> tuple[Params, str]:
    """What `set_params` would write: the parameters, and the text of the file.

    Raises:
        ConfigError: as `load_params`; or params.yaml has the values of another profile, and git
            none without.
    """
    import yaml
    from ruamel.yaml import YAML

    overlay: dict[str, Any] = {}
    source = str(path)
    if profile is not None and profile != LAPTOP:
        profile_path = find_profile(Path(path).parent / PROFILES, profile)
        overlay = read_yaml(profile_path)
        source = f"{path} with {profile_path}"
    for name, value in values.items():
        nested: Any = value
        for part in reversed(name.split(".")):
            nested = {part: nested}
        overlay = merge(overlay, nested)
    tree = read_yaml(path)
    text = Path(path).read_text()
    if profile is not None and (before := _PROFILE.match(text)) and before[1] != profile:
        text = _committed(Path(path), before[1])
        tree = yaml.safe_load(text)
    params = validate(merge(tree, overlay), source)
    round_trip = YAML()
    round_trip.preserve_quotes = True
    round_trip.width = 120
    # as the file has it: only what is set changes
    round_trip.indent(mapping=2, sequence=4, offset=2)
    round_trip.representer.add_representer(
        type(None), lambda dumper, _: dumper.represent_scalar("tag:yaml.org,2002:null", "null")
    )
    document = round_trip.load(text)

    def put(target: Any, values: Mapping[str, Any]) -> None:
        for key, value in values.items():
            if isinstance(value, Mapping) and isinstance(target.get(key), Mapping):
                put(target[key], value)
            else:
                target[key] = _quoted(value)

    put(document, overlay)
    written = StringIO()
    round_trip.dump(document, written)
    text = written.getvalue()
    if profile is not None and profile != LAPTOP:
        text = _HEADER.format(profile=profile) + re.sub(r"\A(#.*\n)*", "", text)
    return params, text


def _committed(path: Path, before: str) -> str:
    """The text of params.yaml as committed: that of the laptop profile, over which all others are.

    Raises:
        ConfigError: there is no git, or what is committed has the values of a profile too.
    """
    command = ["git", "show", f"HEAD:./{path.name}"]
    done = subprocess.run(command, cwd=path.parent, capture_output=True, text=True)
    if done.returncode or _PROFILE.match(done.stdout):
        raise ConfigError(
            f"{path} has the values of profile {before}, and git has none without them: put the"
            " file of the laptop profile back first"
        )
    return done.stdout


def _quoted(value: Any) -> Any:
    """`value` with quotes around texts, such as `off`, that YAML 1.1 reads as something else."""
    import yaml
    from ruamel.yaml.scalarstring import DoubleQuotedScalarString

    if isinstance(value, Mapping):
        return {key: _quoted(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_quoted(part) for part in value]
    if isinstance(value, str) and yaml.safe_load(f"- {value}") != [value]:
        return DoubleQuotedScalarString(value)
    return value
