"""Hypernetworks against their size, meta-batch and speed (figs. 1 and 3, table 1)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from flows.experiments.summaries.common import Rows, Summary, mean_std, unique
from flows.report import Figure, Panels, Table, figures
from flows.rows.schema import Row, sound


def accuracies(rows: Rows) -> dict[str, list[float]]:
    """Accuracy of each network by hypernetwork: tested after training, or untrained."""
    found: dict[str, list[float]] = {}
    for row in sound(rows):
        value = row.get("test_accuracy") if "test_accuracy" in row else row.get("accuracy")
        if value is not None and row.get("selected", True):
            found.setdefault(row["ghn"], []).append(value)
    return found


def scaling(rows: Rows, facts: Mapping[str, tuple[int, int]]) -> Summary:
    """Accuracy against the number of parameters, a line per meta-batch size (fig. 1).

    Args:
        rows: of networks with parameters from several hypernetworks.
        facts: parameters and meta-batch size of each hypernetwork.
    """
    of_ghn = {name: found for name, found in accuracies(rows).items() if name in facts}
    by_size = sorted(of_ghn, key=lambda name: facts[name])
    series = []
    for colour, m in enumerate(sorted({facts[name][1] for name in by_size})):
        members = [name for name in by_size if facts[name][1] == m]
        sizes = sorted({facts[name][0] for name in members})
        means = [
            float(np.mean([v for name in members if facts[name][0] == n for v in of_ghn[name]]))
            for n in sizes
        ]
        millions = [n / 1e6 for n in sizes]
        series.append(figures.Series(f"m = {m}", millions, means, None, colour))
    table = Table(
        ["", "parameters", "meta-batch m", "accuracy (%)", "networks"],
        [
            [
                name,
                f"{facts[name][0] / 1e6:.2f}M",
                str(facts[name][1]),
                mean_std(of_ghn[name]),
                str(len(of_ghn[name])),
            ]
            for name in by_size
        ],
        "Hypernetworks by size, with the accuracy of their networks, mean ± std over networks",
    )
    axis = "million parameters of the hypernetwork"
    svg = figures.lines(series, "Accuracy by size", axis, "accuracy", whole=False)
    panels = Panels(
        [Figure(svg, "", "Accuracy against the number of parameters of the hypernetwork")],
        "As figure 1: mean over networks, hypernetworks of one size and meta-batch pooled",
    )
    best = max(of_ghn, key=lambda name: float(np.mean(of_ghn[name])), default="none")
    return Summary(f"Best: {best}, of {len(of_ghn)} hypernetworks.", [panels, table])


def speed(rows: Rows, times: Sequence[Row], measured: Rows) -> Summary:
    """Training steps a second beside the accuracy of networks (fig. 3, table 1).

    Args:
        rows: a row per variant.
        times: the same rows, with what a clock said.
        measured: networks with parameters from some of the variants.
    """
    pace = {row["ghn"]: row["steps_per_second"] for row in sound(times)}
    of_ghn = accuracies(measured)
    points = {
        name: ([pace[name]], [100 * float(np.mean(of_ghn[name]))])
        for name in unique(sound(rows), "ghn")
        if name in of_ghn and name in pace
    }
    body: list[list[str | None]] = [
        [
            row["ghn"],
            f"{row['parameters'] / 1e6:.2f}M",
            f"{pace[row['ghn']]:.2f}",
            mean_std(of_ghn[row["ghn"]]) if row["ghn"] in of_ghn else None,
        ]
        for row in sound(rows)
    ]
    first = sound(rows)[0]
    caption = (
        f"Training steps a second on this machine, alone in one process, of"
        f" {first['meta_batch_size']} networks and {first['batch_size']} images, over"
        f" {first['steps']} steps; accuracy of networks where the hypernetwork is trained here"
    )
    blocks: list[Panels | Table] = [
        Table(["", "parameters", "steps a second", "accuracy (%)"], body, caption)
    ]
    if points:
        svg = figures.scatter(
            points, "Accuracy by training speed", "steps a second", "accuracy (%)"
        )
        alt = "Accuracy of networks against training steps a second of their hypernetwork"
        blocks.insert(0, Panels([Figure(svg, "", alt)], "As figure 3: a point per hypernetwork"))
    fastest = max(pace, key=lambda name: pace[name], default="none")
    return Summary(f"Fastest to train: {fastest}.", list(blocks))
