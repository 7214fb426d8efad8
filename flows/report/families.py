"""Results by family of networks: where predicted parameters work and where they do not."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence

from flows.report import figures
from flows.report.blocks import Figure, Section, Table, Text
from flows.report.evaluation import DEEPNETS, SPLIT_TITLES, Setting, column, good
from flows.rows.schema import Row
from flows.settings.inits import RANDOM
from flows.trials.statistics import per_architecture
from flows.words import percent, spread


def family_of(row: Row) -> str:
    """Of torchvision's networks the letters that their names begin with, of DeepNets-1M's the
    split.
    """
    if row["split"] != "torchvision":
        return f"DeepNets-1M, {SPLIT_TITLES.get(row['split'], row['split'])}"
    name = str(row["architecture"]).removeprefix("wide_")
    found = re.match(r"[a-z]+", name)
    return found[0] if found else name


def families(
    evaluated: Sequence[Row], finetuned: Sequence[Row], ghn: str, setting: Setting
) -> Section | None:
    """Means by family, without training and, where some were fine-tuned, after it."""
    members = good(evaluated, *DEEPNETS, "torchvision")
    if not members:
        return None
    of_family: dict[str, list[Row]] = defaultdict(list)
    for row in members:
        of_family[family_of(row)].append(row)
    tuned = [per_architecture(finetuned, init) for init in (ghn, RANDOM)]
    cells: list[list[str | None]] = []
    near_chance = []
    shown: dict[str, tuple[float, float]] = {}
    for family, rows in of_family.items():
        predicted = column(rows, "accuracy")
        if predicted.mean() < 1.25 * setting.chance:
            near_chance.append(family)
        shown[family] = float(predicted.mean()), float(column(rows, "randinit_accuracy").mean())
        names = [row["architecture"] for row in rows]
        both = [name for name in names if all(name in found for found in tuned)]
        means = [
            percent(sum(found[name] for name in both) / len(both)) if both else None
            for found in tuned
        ]
        cells.append(
            [
                family,
                str(len(rows)),
                spread(predicted),
                percent(shown[family][1]),
                str(len(both)) if both else None,
                *means,
            ]
        )
    told = (
        f"At chance ({percent(setting.chance)}; below five quarters of it) without training:"
        f" {', '.join(near_chance)}."
        if near_chance
        else "No family is at chance without training."
    )
    header = ["family", "networks", "predicted", "random", "networks", "predicted", "random"]
    groups = [("", 2), ("without training", 2), ("fine-tuned", 3)]
    caption = "Mean accuracy by family. A click on a title sorts."
    table = Table(header, cells, caption, groups=groups, sortable=True)
    svg = figures.bars(shown, ("predicted", "random"), "Untrained, mean by family", setting.chance)
    alt = f"Bars of mean accuracy without training for {len(shown)} families. {told}"
    figure = Figure(svg, "The dotted line is chance.", alt)
    return Section("families", "Results by family", [Text(told, "lead"), figure, table])
