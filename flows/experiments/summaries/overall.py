"""Where hypernetworks help and where they do not: every comparison with RandInit after training, on
one page.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

from flows.experiments.summaries.common import Rows, Summary, unique
from flows.experiments.summaries.trained import COMPARISON, REFERENCE, comparison_cells, is_clear
from flows.report import Table
from flows.rows.schema import sound
from flows.trials.inits import is_hypernetwork
from flows.trials.statistics import Comparison, compare

_CLEAR = ("Clearly better", "Clearly worse")
"""Verdicts whose cases the first sentence names; of the others it has the number."""


def overview(trials: Mapping[str, Rows]) -> Summary:
    """The comparisons of all experiments that train networks, by their names."""
    body: list[list[str | None]] = []
    verdicts: dict[str, list[str]] = defaultdict(list)
    for name, rows in trials.items():
        good = sound(rows)
        for part in unique(good, "part"):
            mine = [row for row in good if row["part"] == part]
            title = name if part == "main" else f"{name}, {part}"
            for init in unique(mine, "ghn"):
                if not is_hypernetwork(init) or (result := compare(mine, init, REFERENCE)) is None:
                    continue
                body.append([title, init, _judge(result), *comparison_cells(result)])
                verdicts[_judge(result)].append(f"{init} in {title}")
    told = [
        f"{verdict}: {'; '.join(cases) if verdict in _CLEAR else len(cases)}."
        for verdict, cases in sorted(verdicts.items())
    ]
    header = ["", "from", "verdict", *COMPARISON]
    caption = (
        "Test accuracy after training against RandInit, in points, paired over networks. Clear: the"
        " interval lies on one side of zero and p is below 0.05, which takes six networks"
    )
    return Summary(
        f"Hypernetworks against {REFERENCE}, after training. {' '.join(told)}",
        [Table(header, body, caption)],
    )


def _judge(result: Comparison) -> str:
    if result.n == 1:
        return "One network only"
    if not is_clear(result):
        return "No clear difference"
    return _CLEAR[0] if result.mean_difference > 0 else _CLEAR[1]
