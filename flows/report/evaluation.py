"""Sections on predicted parameters without training: paper tables 2, 11, 12 and 20, figures 5 and
7.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flows.report import figures
from flows.report.blocks import Block, Figure, Panels, Section, Table, Text
from flows.rows.schema import Row, sound
from flows.words import percent, plus_minus, spread

SPLIT_TITLES = {
    "test": "Test",
    "wide": "Wide",
    "deep": "Deep",
    "dense": "Dense",
    "bnfree": "BN-free",
    "torchvision": "torchvision",
    "deepnets": "DeepNets-1M, all five",
}
SPLIT_MEANINGS = {
    "test": "drawn by the rules of the training architectures",
    "wide": "with more channels, four times as many as in training",
    "deep": "of 10 to 36 cells, in training 4 to 18",
    "dense": "of 2 to 10 sums a cell, in training at most 4",
    "bnfree": "without batch norm, which makes signals fade or explode",
    "torchvision": "made by people: ResNets, MobileNets, vision transformers and others",
}
DEEPNETS = ("test", "wide", "deep", "dense", "bnfree")


@dataclass(frozen=True)
class Setting:
    """What our numbers were measured on, for the line that tells the difference to the paper.

    Attributes:
        steps: of the training.
        stretches: of the training, in order: how many steps of how many networks and images; of the
            last null, for all that were left.
    """

    images: str
    image_size: int
    classes: int
    test_images: tuple[int, int]
    ghn_parameters: int
    train_architectures: int
    steps: int | None
    stretches: Sequence[tuple[int | None, int, int]] = ()

    @property
    def chance(self) -> float:
        """Accuracy of guessing."""
        return 1 / self.classes

    def difference(self) -> str:
        """The difference in setting, in a sentence or two."""
        steps = f" for {self.steps:,} steps" if self.steps else ""
        fewest, most = self.test_images
        measured = (
            f"{most:,} test images"
            if fewest == most
            else f"{fewest:,} (large networks) to {most:,} test images"
        )
        return (
            "Published: ImageNet at 224 pixels, 1000 classes (chance 0.1 %), a GHN-3-XL/m16 of 654"
            " million parameters trained on a million architectures for 75 epochs on eight A100."
            f" Ours: {self.images} at {self.image_size} pixels, {self.classes} classes (chance"
            f" {percent(self.chance)}), {measured} a network, a GHN of"
            f" {self.ghn_parameters / 1e6:.1f} million parameters trained on"
            f" {self.train_architectures:,} architectures{steps} on this machine. The columns show"
            " the same quantity in another setting; their values are not comparable one to one."
        )


def good(rows: Sequence[Row], *splits: str) -> list[Row]:
    """Rows without an error, of `splits`."""
    return [row for row in sound(rows) if row["split"] in splits]


def column(rows: Sequence[Row], name: str) -> NDArray[np.float64]:
    """A column as an array."""
    return np.array([row[name] for row in rows], dtype=np.float64)


def generalisation(
    rows: Sequence[Row],
    setting: Setting,
    bins: int,
    published: Mapping[str, Any],
    beside: Sequence[Block] = (),
) -> Section:
    """Histograms per split and the table of means (figs. 5 and 7, tables 11 and 12).

    `beside`: what stands below the table.
    """
    table_rows = [
        _means(split, members, published)
        for split in (*DEEPNETS, "deepnets", "torchvision")
        if (members := good(rows, *(DEEPNETS if split == "deepnets" else (split,))))
    ]
    blocks: list[Block] = [
        Text(
            "Accuracy on held-out images of networks that the hypernetwork never saw, with"
            " predicted parameters and no training at all, next to the same networks initialised at"
            " random and measured on the same batches.",
            "lead",
        ),
        Text(meanings(rows)),
        Panels(
            _histograms(rows, setting, bins),
            "Accuracies per split, as in figures 5 and 7 of the paper. Triangles mark means, the"
            " dotted line is chance. Batch norm uses the statistics of the batch.",
        ),
        Table(
            [
                "split",
                "networks",
                "predicted",
                "random",
                "wins",
                "best",
                "top 10",
                "GHN-2",
                "GHN-3-T",
                "GHN-3-XL",
            ],
            table_rows,
            "Accuracy without training: mean ± standard deviation over architectures (as tables 11"
            " and 12). Wins: networks on which predicted beat random parameters.",
            groups=[("", 2), ("ours", 5), ("published, ImageNet", 3)],
        ),
        *beside,
        Text(setting.difference(), "note"),
    ]
    return Section("generalisation", "Accuracy without training", blocks)


def _histograms(rows: Sequence[Row], setting: Setting, bins: int) -> list[Figure]:
    """Accuracies of each split, all on one axis."""
    panels = []
    everyone = good(rows, *DEEPNETS, "torchvision")
    end = figures.accuracy_end(column(everyone, name) for name in ("accuracy", "randinit_accuracy"))
    for split in (*DEEPNETS, "torchvision"):
        if not (members := good(everyone, split)):
            continue
        predicted, random = column(members, "accuracy"), column(members, "randinit_accuracy")
        title = f"{SPLIT_TITLES[split]} ({len(members)})"
        both = {"predicted": predicted, "random": random}
        svg = figures.histogram(both, title, "accuracy", bins, setting.chance, end)
        alt = (
            f"Histogram of accuracies of split {split}: predicted {spread(predicted)}, random"
            f" {spread(random)}."
        )
        panels.append(Figure(svg, "", alt))
    return panels


def _means(split: str, members: Sequence[Row], published: Mapping[str, Any]) -> list[str | None]:
    """The row of a split in the table."""
    predicted, random = column(members, "accuracy"), column(members, "randinit_accuracy")
    ordered = np.sort(predicted)[::-1]
    return [
        SPLIT_TITLES[split],
        str(len(members)),
        spread(predicted),
        spread(random),
        percent((predicted > random).mean(), 0),
        percent(ordered[0]),
        spread(ordered[:10]),
        *(
            _published(published["table_11"][method], split)
            for method in ("GHN-2/m8", "GHN-3-T/m8", "GHN-3-XL/m16")
        ),
    ]


def meanings(rows: Sequence[Row]) -> str:
    """What the splits that were evaluated are, in a sentence."""
    found = {row["split"] for row in rows}
    told = [f"{SPLIT_TITLES[s]}: {text}" for s, text in SPLIT_MEANINGS.items() if s in found]
    return f"{'; '.join(told)}." if told else ""


def _published(method: Mapping[str, Sequence[float]], split: str) -> str | None:
    if split not in method:
        return None
    return plus_minus(method[split][0] / 100, method[split][1] / 100)


def coverage(predictions: Sequence[Row]) -> Section:
    """How much of each network is predicted."""
    rows: list[list[str | None]] = []
    for title, splits in (("DeepNets-1M", DEEPNETS), ("torchvision", ("torchvision",))):
        members = good(predictions, *splits)
        if not members:
            continue
        share = column(members, "predicted") / column(members, "parameters")
        rows.append(
            [
                title,
                str(len(members)),
                f"{column(members, 'parameters').mean() / 1e6:.1f}",
                f"{column(members, 'nodes').mean():.0f}",
                percent(share.mean()),
                str(sum(1 for row in members if row["unpredicted"])),
            ]
        )
    header = [
        "networks",
        "number",
        "million parameters",
        "graph nodes",
        "of parameters predicted",
        "with tensors left as initialised",
    ]
    note = "Means over networks. How long predictions took is in results/timings/."
    return Section("coverage", "How much is predicted", [Table(header, rows, note)])


def failures(*tables: tuple[str, Sequence[Row]]) -> Section | None:
    """The rows with an error; None if there are none."""
    rows = [
        [row["architecture"], stage, row["ghn"], (row["error"] or "").splitlines()[0][:160]]
        for stage, members in tables
        for row in members
        if row["error"] is not None
    ]
    if not rows:
        return None
    return Section(
        "failures",
        "What failed",
        [
            Text(
                f"{len(rows)} measurements ended with an error and are missing from the figures"
                " above.",
                "warning",
            ),
            Table(
                ["architecture", "stage", "initialisation", "error"],
                rows[:100],
                "At most 100 are shown.",
            ),
        ],
    )
