"""The experiments of a profile as stages of DVC: experiments/dvc.yaml, written from the profile.

A stage per hypernetwork, a stage per experiment, and one for the pages. DVC's templates cannot give
the stages of a `foreach` lists of dependencies of their own (treeverse/dvc issue 8171), so the file
is written out; nothing in it is decided there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from flows.experiments import hypernetworks, measures
from flows.experiments.catalogue import (
    DetectEntry,
    Entry,
    GeneralisationEntry,
    NasEntry,
    Profile,
    TrialsEntry,
    load_profile,
    profile_path,
)
from flows.experiments.pages import PAGES
from flows.experiments.run import path_of
from flows.networks.targets import TORCHVISION
from flows.settings import paths
from flows.stages import detect, evaluate
from flows.trials import spec as trial
from ghn.files import atomic_path

FILE = Path("experiments/dvc.yaml")
PAGES_CODE = ("flows/experiments", "flows/report", "flows/trials/statistics.py", "ghn/analysis")

_HEAD = """\
# Written by `ghn experiments stages{option}` from {source}; change that, not this.
# `dvc repro {file}` runs what has changed: a stage per hypernetwork and per experiment,
# and their pages.
"""


def write_stages(profile_name: str, path: Path = FILE) -> Path:
    """Writes the stages of a profile to `path`, if that changes anything; returns it."""
    text = text_of(profile_name)
    if not path.exists() or path.read_text() != text:
        with atomic_path(path) as temporary:
            temporary.write_text(text)
    return path


def text_of(profile_name: str) -> str:
    """The file of a profile's stages."""
    option = _option(profile_name)
    head = _HEAD.format(option=option, source=_source(profile_name), file=FILE)
    body = yaml.safe_dump({"stages": dict(_stages(profile_name))}, sort_keys=False, width=120)
    return head + body


def _stages(profile_name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    profile, option, source = (
        load_profile(profile_name),
        _option(profile_name),
        _source(profile_name),
    )
    command = "ghn experiments"
    released = [name for name, known in profile.hypernetworks.items() if known.released is not None]
    trained = [name for name in profile.hypernetworks if name not in released]
    obtained = {
        "wdir": "..",
        "cmd": f"{command} hypernetwork ${{item}}{option}",
        "outs": _outs(paths.weights("${item}"), paths.model("${item}") / hypernetworks.RECIPE_NAME),
    }
    if released:
        params = {"params": [{source: ["hypernetworks.${item}"]}]}
        yield "released", {"foreach": released, "do": obtained | params}
    if trained:
        recipe = ["seed", "num_classes", "images", "train", "hypernetworks.${item}"]
        inputs = {
            "params": [{source: recipe}],
            "deps": [*_splits(["train", "val"]), *hypernetworks.CODE],
        }
        yield "hypernetwork", {"foreach": trained, "do": obtained | inputs}
    with_rows = {
        name: entry for name, entry in profile.experiments.items() if entry.kind != "derived"
    }
    for name, entry in with_rows.items():
        stage = {
            "wdir": "..",
            "desc": f"{entry.title} ({entry.paper})",
            "cmd": f"{command} run {name} --alone{option}",
            "params": [{source: ["seed", "num_classes", "images", f"experiments.{name}"]}],
            "deps": list(_deps(profile, entry)),
            "outs": _outs(path_of(name)),
        }
        yield name, stage
    yield (
        "pages",
        {
            "wdir": "..",
            "desc": "A page per table and figure",
            "cmd": f"{command} report{option}",
            "deps": [source, *(str(path_of(name)) for name in with_rows), *PAGES_CODE],
            "outs": _outs(PAGES),
        },
    )


def _outs(*files: Path) -> list[dict[str, dict[str, bool]]]:
    """Outputs that are not in DVC's cache: `dvc pull` of the pipeline must not ask for experiments
    that nobody ran.
    """
    return [{str(file): {"cache": False}} for file in files]


def _deps(profile: Profile, entry: Entry) -> Iterator[str]:
    """What an entry reads: rows, weights, architectures, code."""
    yield from (str(path_of(need)) for need in entry.needs)
    yield from (str(paths.weights(name)) for name in profile.hypernetworks_of(entry))
    yield from _splits(_splits_of(profile, entry))
    yield from _code(entry)
    yield "flows/experiments/run.py"


def _splits_of(profile: Profile, entry: Entry) -> list[str]:
    """The splits of DeepNets-1M that an entry takes architectures from."""
    match entry:
        case GeneralisationEntry():
            named: tuple[str, ...] = entry.architectures.splits
        case TrialsEntry() if entry.select.best_of is not None or entry.select.cheapest is not None:
            named = entry.select.splits
        case NasEntry():
            return _splits_of(profile, profile.experiments[entry.truth])
        case _:
            named = ()
    return [split for split in named if split != TORCHVISION]


def _splits(names: Sequence[str]) -> list[str]:
    """The files of splits, which are sound if the stage validate says so."""
    files = [
        str(paths.DEEPNETS / f"{name}{suffix}") for name in names for suffix in (".h5", ".parquet")
    ]
    return [*files, str(paths.VALIDATION)] if files else []


def _code(entry: Entry) -> tuple[str, ...]:
    match entry:
        case TrialsEntry():
            return (*trial.CODE, "ghn/checkpoint")
        case DetectEntry():
            return detect.CODE
        case GeneralisationEntry():
            return (*evaluate.CODE, "flows/rows/sweep.py")
        case _:
            return measures.CODE


def _option(profile_name: str) -> str:
    return "" if profile_name == "laptop" else f" --profile {profile_name}"


def _source(profile_name: str) -> str:
    path = profile_path(profile_name)
    return str(path.relative_to(Path(__file__).parents[2]) if path.is_absolute() else path)
