"""Section on which networks and images the numbers of the page come from."""

from __future__ import annotations

import math
from collections.abc import Sequence

from flows.report.blocks import Section, Table
from flows.report.evaluation import Setting
from flows.rows.schema import Row
from flows.settings.population import DEEPNETS
from flows.settings.train import TrainStageConfig
from flows.trials.statistics import chosen_rows
from ghn.architectures.own import is_own


def trained_on(
    setting: Setting,
    train: TrainStageConfig,
    evaluated: Sequence[Row],
    finetuned: Sequence[Row],
    transferred: Sequence[Row],
) -> Section:
    """Which networks and which images each number of the page is from."""
    steps = setting.steps or train.steps
    stretches = setting.stretches or [(None, train.meta_batch_size, train.batch_size)]
    taken = _taken(stretches, steps)
    seen = sum(math.prod(batch) for batch in taken)
    _, n_networks, n_images = (_either(sizes) for sizes in zip(*taken, strict=True))
    named, known = _population(train)
    measured = {row["architecture"] for row in evaluated}
    rows = [
        [
            "the hypernetwork is trained",
            f"{setting.train_architectures:,} architectures of split {train.split}{named}",
            f"training images of {setting.images}, {setting.image_size} pixels",
            f"{steps:,} steps of {n_networks} networks and {n_images}"
            f" images: {seen / 1e6:.2g} million network-images",
        ],
        [
            "predicted parameters are measured",
            _unknown(len(known & measured)),
            f"test images of {setting.images}, which nothing was chosen on",
            "no training",
        ],
    ]
    for what, found in (("fine-tuning", finetuned), ("transfer", transferred)):
        chosen = chosen_rows(found)
        if not chosen:
            continue
        first, networks = chosen[0], {row["architecture"] for row in chosen}
        rows.append(
            [
                what,
                f"{len(networks)} of those, chosen by validation accuracy",
                f"{first['n_train']:,} training images of {first['images']}; {first['n_val']:,} to"
                f" choose on, {first['n_test']:,} to test on",
                f"{first['steps']} steps of {first['batch_size']} images, the same for every"
                " initialisation",
            ]
        )
    header = ["", "networks", "images", "how long"]
    caption = (
        "Test images are used for the measurement alone."
        if known & measured
        else "Measured networks are not among those of training, and test images are used for the"
        " measurement alone."
    )
    table = Table(header, rows, caption, wrapped=True)
    return Section("trained-on", "What was trained on what", [table])


def _taken(
    stretches: Sequence[tuple[int | None, int, int]], steps: int
) -> list[tuple[int, int, int]]:
    """The stretches that a run of `steps` steps came to, with their numbers of steps."""
    found = []
    for planned, networks, images in stretches:
        found.append((steps if planned is None else min(planned, steps), networks, images))
        steps -= found[-1][0]
    return [stretch for stretch in found if stretch[0]]


def _either(sizes: Sequence[int]) -> str:
    """Different numbers, from small to large: "32 or 64"."""
    return " or ".join(map(str, sorted(set(sizes))))


def _population(train: TrainStageConfig) -> tuple[str, set[str]]:
    """What `train.population` adds to DeepNets-1M, in words, and the names of its networks."""
    from flows.training.population import Population  # and torch, which a page does without

    others = [one for one in train.population or () if one.networks != DEEPNETS]
    listed = [one for one in others if not is_own(one.networks)]  # your own are not measured
    known = {name for names in Population(listed).names for name in names} if listed else set()
    return "".join(f" and {entry.networks}" for entry in others), known


def _unknown(known: int) -> str:
    if known:
        return f"networks that it never saw, and {known} that it was trained on"
    return "networks that it never saw"
