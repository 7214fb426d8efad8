"""The experiments of a profile as stages of DVC: experiments/dvc.yaml, written from the profile.

What the images are made of, groups, and the pages. The groups are the hypernetworks, the
experiments that read no other's rows, those that do, those that read the rows of these, and so on.
All of a group depend on the same files, those that any of them reads, since DVC's templates cannot
give the stages of a `foreach` dependencies of their own (treeverse/dvc issue 8171). Rows are cached
by all that they depend on, so a stage that runs without need costs a look-up.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

import yaml

from flows.experiments import hypernetworks, sources
from flows.experiments.catalogue import (
    ActivationsEntry,
    Entry,
    GeneralisationEntry,
    GradientsEntry,
    Profile,
    SpeedEntry,
    load_profile,
    profile_path,
)
from flows.experiments.pages import PAGES
from flows.experiments.runner import path_of
from flows.networks.targets import TORCHVISION, split_of
from flows.settings import paths
from flows.settings.imports import PACKAGES, ROOT
from flows.settings.trials import TrialsEntry
from ghn.errors import ConfigError
from ghn.files import atomic_path

FILE = Path("experiments/dvc.yaml")

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
    profile = load_profile(profile_name)
    option, source = _option(profile_name), _source(profile_name)
    given = profile.model_fields_set  # DVC refuses fields that the file leaves out
    shared = [name for name in ("seed", "num_classes", "images") if name in given]
    command = "ghn experiments"
    names = list(profile.hypernetworks)
    weights = [str(paths.weights(name)) for name in names]
    yield (
        "sources",
        _stage(
            cmd=f"{command} sources{option}",
            always_changed=True,  # looks outside of the tree; its output says what changed
            deps=[source],
            outs=_outs(sources.FILE),
        ),
    )
    if names:
        trained_on = [profile.train_config(name).split for name in names]
        recipe = [*shared, *(["train"] if "train" in given else []), "hypernetworks.${item}"]
        one = _stage(
            cmd=f"{command} hypernetwork ${{item}}{option}",
            params=[{source: recipe}],
            deps=[str(sources.FILE), *_splits([*trained_on, "val"]), *PACKAGES],
            outs=_outs(
                paths.weights("${item}"),
                paths.model("${item}") / hypernetworks.RECIPE_NAME,
                persist=True,  # one that is there by the same recipe is not trained again
            ),
        )
        yield "hypernetwork", {"foreach": names, "do": one}
    with_rows = {
        name: entry for name, entry in profile.experiments.items() if entry.kind != "derived"
    }
    depths = _depths(profile)
    splits = [split for entry in with_rows.values() for split in _splits_of(entry, profile)]
    for depth in sorted({depths[name] for name in with_rows}):
        group = ("measured", "compared")[depth] if depth < 2 else f"compared{depth}"
        members = [name for name in with_rows if depths[name] == depth]
        rows = [str(path_of(name)) for name in with_rows if depths[name] < depth]
        one = _stage(
            cmd=f"{command} run ${{item}} --alone{option}",
            params=[{source: [*shared, "experiments.${item}"]}],
            deps=[str(sources.FILE), *rows, *weights, *_splits(splits), *PACKAGES],
            outs=_outs(path_of("${item}")),
        )
        yield group, {"foreach": members, "do": one}
    yield (
        "pages",
        _stage(
            desc="A page per table and figure",
            cmd=f"{command} report{option}",
            deps=[source, *(str(path_of(name)) for name in with_rows), *PACKAGES],
            outs=_outs(PAGES),
        ),
    )


def _stage(**fields: object) -> dict[str, object]:
    """A stage that runs in the root of the tree; DVC begins at the file's directory."""
    return {"wdir": "..", **fields}


def _depths(profile: Profile) -> dict[str, int]:
    """Of each experiment, how many others lie one behind the other before it."""
    depths: dict[str, int] = {}
    needs = {name: entry.needs for name, entry in profile.experiments.items()}
    for name in TopologicalSorter(needs).static_order():
        depths[name] = max((depths[need] + 1 for need in needs[name]), default=0)
    return depths


def _outs(*files: Path, **options: bool) -> list[dict[str, dict[str, bool]]]:
    """Outputs that are not in DVC's cache: `dvc pull` of the pipeline must not ask for experiments
    that nobody ran.
    """
    return [{str(file): {"cache": False, **options}} for file in files]


def _splits_of(entry: Entry, profile: Profile) -> list[str]:
    """The splits of DeepNets-1M that an entry takes architectures from."""
    named: list[str] = []
    match entry:
        case GeneralisationEntry():
            named += entry.architectures.splits
        case TrialsEntry(select=chosen):
            named += map(split_of, chosen.names)
            if chosen.best_of is not None or chosen.cheapest is not None:
                named += chosen.splits
        case ActivationsEntry() | GradientsEntry():
            named += map(split_of, entry.names)
        case SpeedEntry():
            named += (profile.variant_config(changes).split for changes in entry.variants.values())
        case _:
            pass
    return [split for split in named if split != TORCHVISION]


def _splits(names: Sequence[str]) -> list[str]:
    """The files of splits, which are sound if the stage validate says so."""
    files = [
        str(paths.DEEPNETS / f"{name}{suffix}")
        for name in dict.fromkeys(names)
        for suffix in (".h5", ".parquet")
    ]
    return [*files, str(paths.VALIDATION)] if files else []


def _option(profile_name: str) -> str:
    return "" if profile_name == "laptop" else f" --profile {shlex.quote(profile_name)}"


def _source(profile_name: str) -> str:
    path = profile_path(profile_name)
    if not path.is_absolute() and ".." not in path.parts:
        return str(path)
    inside = path.parent.resolve() / path.name
    if not inside.is_relative_to(ROOT):
        raise ConfigError(
            f"{path} is outside of {ROOT}, where DVC does not look: copy it there, for instance"
            " to params/experiments/"
        )
    return str(inside.relative_to(ROOT))
