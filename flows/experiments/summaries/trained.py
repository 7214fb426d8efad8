"""Summaries of trained networks (tables 2, 4, 6 to 8 and 14 to 16; figs. 1, 4, 6 and 8)."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from flows.experiments.summaries.common import Rows, Summary, mean_std, unique
from flows.report import Block, Figure, Panels, Table, figures
from flows.rows.schema import sound
from flows.settings.inits import RANDOM
from flows.trials.statistics import Comparison, chosen_rows, compare, held, per_architecture
from flows.words import counted

REFERENCE = RANDOM
"""The initialisation that others are compared with."""


def fine_tuning(rows: Rows) -> Summary:
    """Accuracy along training per initialisation, and paired comparisons with RandInit (tables 2,
    4, 6, 7, 14, 16).
    """
    good = sound(rows)
    blocks: list[Block] = []
    sentences: list[str] = []
    for part in unique(good, "part"):
        mine = [row for row in good if row["part"] == part]
        prefix = "" if part == "main" else f"{part}: "
        blocks += [_accuracy_table(mine, prefix), _comparison_table(mine, prefix)]
        if (curves := _curves(mine, prefix)) is not None:
            blocks.append(curves)
        sentences += verdicts(mine, prefix)
    if not sentences and (accuracies := per_architecture(good, REFERENCE)):  # only RandInit
        told = f"{mean_std(list(accuracies.values()))} % over {counted(len(accuracies), 'network')}"
        sentences = [f"Test accuracy from {REFERENCE}: {told}."]
    return Summary(" ".join(sentences), blocks)


def verdicts(rows: Rows, prefix: str) -> list[str]:
    """The sentence of each initialisation but RandInit, behind `prefix`, the name of their part."""
    told = [verdict(rows, init) for init in unique(rows, "ghn") if init != REFERENCE]
    return [_sentence_case(prefix) + sentence for sentence in told if sentence]


def _sentence_case(text: str) -> str:
    return text[:1].upper() + text[1:]


def verdict(rows: Rows, init: str) -> str:
    """One sentence: whether `init` differs from RandInit, by how much, and how sure that is."""
    result = compare(rows, init, REFERENCE)
    if result is None:
        return ""
    size = f"{100 * result.mean_difference:+.1f} points against {REFERENCE}"
    interval = f"95 % interval {100 * result.low:+.1f} to {100 * result.high:+.1f}"
    if result.n == 1:
        mine, other = (_over_seeds(rows, name) for name in (init, REFERENCE))
        told = f"{mine} against {other} %, ± over seeds"
        return f"{init} has {size} on the one network measured ({told})."
    sure = "clearly " if is_clear(result) else "not clearly "
    direction = "better" if result.mean_difference > 0 else "worse"
    p = f", p = {result.p_digits}" if result.p_digits else ""
    return f"{init} is {sure}{direction}: {size} ({interval}, {counted(result.n, 'network')}{p})."


def _over_seeds(rows: Rows, init: str) -> str | None:
    tested = (row["test_accuracy"] for row in chosen_rows(rows) if row["ghn"] == init)
    return mean_std([accuracy for accuracy in tested if accuracy is not None])


def is_clear(result: Comparison) -> bool:
    """Whether a difference is more than chance: the interval lies on one side of zero, and p is
    below 0.05.

    The second asks for six networks at least: an interval of fewer is not to be trusted.
    """
    return (result.low > 0 or result.high < 0) and result.p_value < 0.05


def _accuracy_table(rows: Rows, prefix: str) -> Table:
    chosen = chosen_rows(rows)
    steps = sorted({step for row in chosen for step in row["step"]})
    body = []
    for init in unique(rows, "ghn"):
        mine = [row for row in chosen if row["ghn"] == init]
        cells: list[str | None] = [init]
        by_step = [
            [(row["architecture"], value) for row in mine for value in held(row, [step])]
            for step in steps
        ]
        cells += map(_spread, by_step)
        cells.append(_spread([(row["architecture"], row["test_accuracy"]) for row in mine]))
        cells.append(_seed_spread(mine))
        body.append(cells)
    header = [
        "initialisation",
        *(f"step {step}" for step in steps),
        "test",
        "std over seeds",
    ]
    n = len(unique(chosen, "architecture"))
    seeds = len(unique(chosen, "seed"))
    caption = f"{prefix}validation accuracy (%) along training and test accuracy at the end"
    return Table(
        header,
        body,
        f"{_sentence_case(caption)}; {counted(n, 'network')}, {counted(seeds, 'seed')}",
    )


def _comparison_table(rows: Rows, prefix: str) -> Table:
    body = []
    for init in unique(rows, "ghn"):
        if init == REFERENCE or (result := compare(rows, init, REFERENCE)) is None:
            continue
        body.append([init, *comparison_cells(result)])
    header = ["against randinit", *COMPARISON]
    caption = (
        f"{prefix}paired over networks, test accuracy in points; p of Wilcoxon's signed-rank test"
    )
    return Table(header, body, _sentence_case(caption))


COMPARISON = ("difference", "95 % interval", "wins", "average gain", "average loss", "n", "p")
"""The titles of `comparison_cells`."""


def comparison_cells(result: Comparison) -> list[str | None]:
    """Difference, interval, wins, gain, loss, n and p of a comparison; of one network the
    difference alone.
    """
    if result.n == 1:
        return [f"{100 * result.mean_difference:+.1f}", None, None, None, None, "1", None]
    return [
        f"{100 * result.mean_difference:+.1f}",
        f"{100 * result.low:+.1f} to {100 * result.high:+.1f}",
        f"{100 * result.wins:.0f} %",
        _points(result.average_gain),
        _points(result.average_loss),
        str(result.n),
        result.p_digits,
    ]


def _curves(rows: Rows, prefix: str) -> Panels | None:
    panels = []
    bands = len(unique(rows, "ghn")) <= 4  # more hide each other; the table has them
    for column, label in (("val_accuracy", "validation"), ("train_accuracy", "training")):
        series = []
        for colour, init in enumerate(unique(rows, "ghn")):
            mine = [row for row in chosen_rows(rows) if row["ghn"] == init]
            steps = sorted({step for row in mine for step in row["step"]})
            if len(steps) < 2:
                continue
            values = np.array([held(row, steps, column) for row in mine])
            first = 1 if column == "train_accuracy" else 0
            spread = values[:, first:].std(0) if bands and len(values) > 1 else None
            band = None if spread is None else spread.tolist()
            series.append(
                figures.Series(
                    init, steps[first:], values[:, first:].mean(0).tolist(), band, colour
                )
            )
        if series:
            svg = figures.lines(series, f"{prefix}{label} accuracy", "step", "accuracy")
            panels.append(
                Figure(svg, "", f"Mean {label} accuracy over steps for each initialisation")
            )
    shown = "Mean and standard deviation" if bands else "Mean"
    return Panels(panels, f"{shown} over networks and seeds") if panels else None


def detection(rows: Rows) -> Summary:
    """AP at IoU 0.50 per backbone and initialisation (table 8)."""
    good = sound(rows)
    backbones = unique(good, "architecture")
    body = [
        [
            init,
            *(
                mean_std([r["ap50"] for r in good if r["ghn"] == init and r["architecture"] == b])
                for b in backbones
            ),
        ]
        for init in unique(good, "ghn")
    ]
    table = Table(
        ["", *backbones],
        body,
        "AP (%) at IoU 0.50, mean ± std over seeds (each its own split of the images)",
    )
    means = {
        init: float(np.mean([r["ap50"] for r in good if r["ghn"] == init]))
        for init in unique(good, "ghn")
    }
    told = ", ".join(f"{init} {100 * mean:.1f} %" for init, mean in means.items())
    return Summary(f"Mean AP: {told}.", [table])


def _spread(values: Sequence[tuple[str, float]]) -> str | None:
    """Mean over architectures of their means, ± std over architectures (over all values of a single
    one).
    """
    groups: dict[str, list[float]] = defaultdict(list)
    for name, value in values:
        groups[name].append(value)
    return mean_std(
        [float(np.mean(found)) for found in groups.values()]
        if len(groups) > 1
        else [v for _, v in values]
    )


def _seed_spread(rows: Rows) -> str | None:
    groups: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        groups[row["architecture"]].append(row["test_accuracy"])
    deviations = [float(np.std(found, ddof=1)) for found in groups.values() if len(found) > 1]
    return f"{100 * np.mean(deviations):.1f}" if deviations else None


def _points(value: float) -> str | None:
    return None if math.isnan(value) else f"{100 * value:+.1f}"
