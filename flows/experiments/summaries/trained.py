"""Summaries of trained networks (tables 2, 4, 6 to 8 and 14 to 18; figs. 1, 4, 6 and 8)."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np

from flows.experiments.summaries.common import (
    Rows,
    Summary,
    mean_std,
    sound,
    unique,
)
from flows.report import Block, Figure, Panels, Table, figures
from flows.trials.inits import RANDOM
from flows.trials.statistics import Comparison, compare, held, per_architecture
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
        sentences += _verdicts(mine, prefix)
    if not sentences and (accuracies := per_architecture(good, REFERENCE)):  # only RandInit
        told = f"{mean_std(list(accuracies.values()))} % over {counted(len(accuracies), 'network')}"
        sentences = [f"Test accuracy from {REFERENCE}: {told}."]
    return Summary(" ".join(sentences), blocks)


def _verdicts(rows: Rows, prefix: str) -> list[str]:
    """The sentence of each initialisation but RandInit, behind `prefix`, the name of their part."""
    told = [verdict(rows, init) for init in unique(rows, "ghn") if init != REFERENCE]
    return [_sentence_case(prefix) + sentence for sentence in told if sentence]


def _sentence_case(text: str) -> str:
    return text[:1].upper() + text[1:]


def verdict(rows: Rows, init: str, value: str = "test_accuracy") -> str:
    """One sentence: whether `init` differs from RandInit, by how much, and how sure that is."""
    result = compare(rows, init, REFERENCE, value)
    if result is None:
        return ""
    size = f"{100 * result.mean_difference:+.1f} points against {REFERENCE}"
    interval = f"95 % interval {100 * result.low:+.1f} to {100 * result.high:+.1f}"
    if result.n == 1:
        mine, other = (_over_seeds(rows, name, value) for name in (init, REFERENCE))
        told = f"{mine} against {other} %, ± over seeds"
        return f"{init} has {size} on the one network measured ({told})."
    sure = "clearly " if is_clear(result) else "not clearly "
    direction = "better" if result.mean_difference > 0 else "worse"
    p = f", p = {result.p_digits}" if result.p_digits else ""
    return f"{init} is {sure}{direction}: {size} ({interval}, {counted(result.n, 'network')}{p})."


def _over_seeds(rows: Rows, init: str, value: str) -> str | None:
    return mean_std(
        [
            row[value]
            for row in rows
            if row["ghn"] == init and row["selected"] and row[value] is not None
        ]
    )


def is_clear(result: Comparison) -> bool:
    """Whether a difference is more than chance: the interval lies on one side of zero, and p is
    below 0.05.

    The second asks for six networks at least: an interval of fewer is not to be trusted.
    """
    return (result.low > 0 or result.high < 0) and result.p_value < 0.05


def _accuracy_table(rows: Rows, prefix: str) -> Table:
    chosen = [row for row in rows if row["selected"]]
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
            mine = [row for row in rows if row["selected"] and row["ghn"] == init]
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


def learning_rates(rows: Rows) -> Summary:
    """How often the learning rate that is best on average is (nearly) the best for a network (table
    18).

    A rate counts with the best of the grid's other fields, and if every network has it.
    """
    good = sound(rows)
    body, sentences = [], []
    for init in unique(good, "ghn"):
        table = _by_rate([row for row in good if row["ghn"] == init])
        rates = sorted(set.intersection(*(set(found) for found in table.values())))
        if not rates:
            body.append([init, None, None, None])
            sentences.append(f"{init}: no rate was measured on every network.")
            continue
        table = {name: {lr: found[lr] for lr in rates} for name, found in table.items()}
        best = max(rates, key=lambda lr: float(np.mean([found[lr] for found in table.values()])))
        shares = [
            float(np.mean([found[best] >= max(found.values()) - slack for found in table.values()]))
            for slack in (0.0, 0.01, 0.02)
        ]
        body.append([f"{init} (lr {best:g})", *(f"{100 * share:.0f}" for share in shares)])
        sentences.append(
            f"{init}: {best:g} is within a point of the best rate for {100 * shares[1]:.0f} % of"
            " networks."
        )
    caption = "Networks (%) that one learning rate serves, by validation accuracy"
    return Summary(" ".join(sentences), [Table(["", "±0 %", "±1 %", "±2 %"], body, caption)])


def _by_rate(rows: Rows) -> dict[str, dict[float, float]]:
    """Validation accuracy of each network at each learning rate: per seed the best of the points
    with that rate, and of those the mean.
    """
    best: dict[tuple[str, float, int], float] = {}
    for row in rows:
        key = row["architecture"], row["lr"], row["seed"]
        best[key] = max(row["final_val_accuracy"], best.get(key, 0.0))
    values: dict[str, dict[float, list[float]]] = defaultdict(lambda: defaultdict(list))
    for (name, lr, _), value in best.items():
        values[name][lr].append(value)
    return {
        name: {lr: float(np.mean(found)) for lr, found in rates.items()}
        for name, rates in values.items()
    }


_POINT = ("part", "optimizer", "lr", "weight_decay")
"""The columns that tell points of all parts apart."""


def optimisers(rows: Rows) -> Summary:
    """Validation accuracy per optimiser, learning rate and weight decay (table 17)."""
    good = sound(rows)
    points = list(dict.fromkeys(tuple(row[name] for name in _POINT) for row in good))
    body: list[list[str | None]] = []
    for init in unique(good, "ghn"):
        cells: list[str | None] = [init]
        for point in points:
            found = [
                row
                for row in good
                if row["ghn"] == init and tuple(row[name] for name in _POINT) == point
            ]
            cells.append(mean_std([row["final_val_accuracy"] for row in found]))
        body.append(cells)
    header = ["", *(_label(point, points) for point in points)]
    table = Table(header, body, "Validation accuracy (%) at the end, mean ± std over seeds")
    told = []
    for part in unique(good, "part"):
        mine = [row for row in good if row["part"] == part]
        told += _verdicts(mine, f"{part}: ")
    return Summary(" ".join(told), [table])


def _label(point: tuple[Any, ...], points: Sequence[tuple[Any, ...]]) -> str:
    """A point's part and learning rate, and what else tells it apart from those of its part."""
    part, optimizer, lr, weight_decay = point
    of_part = [other for other in points if other[0] == part]
    told = [part, f"lr {lr:g}"]
    if len({other[1] for other in of_part}) > 1:
        told.insert(1, optimizer)
    if len({other[3] for other in of_part}) > 1:
        told.append(f"weight decay {weight_decay:g}")
    return ", ".join(told)


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
