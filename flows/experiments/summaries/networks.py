"""Network by network against RandInit: wins, accuracies beside the published ones, ranks (tables 4
and 20, fig. 4).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from flows.experiments.summaries.common import Rows, Summary, mean_std, unique
from flows.experiments.summaries.trained import COMPARISON, REFERENCE, comparison_cells, fine_tuning
from flows.report import Figure, Panels, Table, figures
from flows.report.published import published
from flows.report.torchvision import tau
from flows.rows.schema import Row
from flows.trials.statistics import chosen_rows, held, paired, per_architecture

PUBLISHED = {
    "published RandInit, 1 epoch": "randinit_1ep",
    "published GHN-3, untrained": "ghn3",
    "published GHN-3, 1 epoch": "ghn3_1ep",
    "published GHN-3, 10 epochs": "ghn3_10ep",
    "published, trained": "sota",
}
"""Columns of paper table 20."""


def network_by_network(rows: Rows) -> Summary:
    """Fine-tuning as a whole, then each network."""
    whole = fine_tuning(rows)
    chosen = chosen_rows(rows)
    accuracies = {f"{init}, ours": per_architecture(chosen, init) for init in unique(chosen, "ghn")}
    models: Mapping[str, Mapping[str, float]] = published("pytorch74")["models"]
    known = [name for name in unique(chosen, "architecture") if name in models]
    accuracies |= {
        title: {name: models[name][key] / 100 for name in known} for title, key in PUBLISHED.items()
    }
    names = unique(chosen, "architecture")
    blocks = [*whole.blocks, _wins(chosen)]
    if (points := _points(chosen)) is not None:
        blocks.append(points)
    blocks += [_accuracies(names, accuracies), _last_row(accuracies), _ranks(accuracies)]
    return Summary(whole.sentence, blocks)


def _wins(chosen: Rows) -> Table:
    """Each step of the others against RandInit's end, as table 4 has it."""
    end = per_architecture(
        [_with_accuracy(row, row["step"][-1]) for row in chosen], REFERENCE, "at"
    )
    body: list[list[str | None]] = []
    for init in unique(chosen, "ghn"):
        mine = [row for row in chosen if row["ghn"] == init]
        for step in (
            sorted({step for row in mine for step in row["step"]}) if init != REFERENCE else ()
        ):
            at = per_architecture([_with_accuracy(row, step) for row in mine], init, "at")
            shared = [name for name in at if name in end]
            if shared:
                result = paired(
                    np.array([at[name] for name in shared]),
                    np.array([end[name] for name in shared]),
                )
                body.append([f"{init}, step {step}", *comparison_cells(result)])
    header = ["against randinit at its end", *COMPARISON]
    return Table(header, body, "As table 4: validation accuracy along fine-tuning, in points")


def _with_accuracy(row: Row, step: int) -> Row:
    """The row with column `at`: its validation accuracy after `step` steps, of a run that diverged
    before that what it ended with.
    """
    (value,) = held(row, [step])
    return row | {"at": None if math.isnan(value) else value}


def _points(chosen: Rows) -> Panels | None:
    of_random = per_architecture(chosen, REFERENCE)
    points = {}
    for init in unique(chosen, "ghn"):
        mine = per_architecture(chosen, init)
        shared = [name for name in mine if name in of_random]
        if init != REFERENCE and shared:
            points[init] = (
                [100 * of_random[name] for name in shared],
                [100 * mine[name] for name in shared],
            )
    if not points:
        return None
    svg = figures.scatter(points, "Test accuracy (%)", f"from {REFERENCE}", "from a hypernetwork")
    return Panels(
        [Figure(svg, "", f"Test accuracy of each network from a hypernetwork against {REFERENCE}")],
        "A point per network, the mean over seeds",
    )


def _accuracies(names: list[str], accuracies: Mapping[str, Mapping[str, float]]) -> Table:
    body: list[list[str | None]] = [
        [
            name,
            *(
                f"{100 * found[name]:.1f}" if name in found else None
                for found in accuracies.values()
            ),
        ]
        for name in names
    ]
    caption = (
        "As table 20: accuracy (%) of each network, ours on test images, published on ImageNet"
    )
    return Table(["", *accuracies], body, caption, sortable=True)


def _last_row(accuracies: Mapping[str, Mapping[str, float]]) -> Table:
    """As the last rows of table 20: means, and tau with the first column."""
    first = next(iter(accuracies.values()), {})
    body: list[list[str | None]] = [["mean ± std"], ["Kendall's tau with the first column"]]
    for found in accuracies.values():
        body[0].append(mean_std(list(found.values())))
        body[1].append(tau(found, first))
    return Table(["", *accuracies], body, "As the last rows of table 20")


def _ranks(accuracies: Mapping[str, Mapping[str, float]]) -> Table:
    body: list[list[str | None]] = [
        [title, *(tau(found, other) for other in accuracies.values())]
        for title, found in accuracies.items()
    ]
    n = max((len(found) for found in accuracies.values()), default=0)
    return Table(
        ["", *accuracies], body, f"Kendall's rank correlation between the columns, n = {n} networks"
    )
