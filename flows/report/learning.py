"""Sections on training: the hypernetwork's learning curve and fine-tuning (fig. 6, table 2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from flows.report import figures
from flows.report.blocks import Block, Figure, Panels, Section, Table, Text
from flows.report.evaluation import SPLIT_TITLES, Setting
from flows.report.inits import in_order, init_name
from flows.rows.schema import Row
from flows.settings.inits import RANDOM
from flows.trials.statistics import chosen_rows, compare, held, per_architecture
from flows.words import counted, percent, spread


def learning_curve(
    curve: Sequence[Mapping[str, float]], steps: Sequence[Mapping[str, float]], setting: Setting
) -> Section:
    """Accuracy of unseen networks and training loss over the hypernetwork's training.

    Args:
        curve: an entry per evaluation: `step`, and of unseen networks of the val split `val_mean`
            and `val_best`.
        steps: an entry per stretch of steps: `step`, `cross_entropy`, `accuracy` on the training
            batch.
        setting: for chance.
    """
    panels = []
    if curve:
        x = [entry["step"] for entry in curve]
        series = [
            figures.Series("unseen networks, mean", x, [entry["val_mean"] for entry in curve]),
            figures.Series(
                "unseen networks, best", x, [entry["val_best"] for entry in curve], colour=2
            ),
        ]
        if steps:
            smooth = _smooth(steps, "accuracy")
            series.append(figures.Series("training networks, mean", *smooth, colour=1))
        svg = figures.lines(
            series, "Accuracy with predicted parameters", "step", "accuracy", chance=setting.chance
        )
        last = curve[-1]
        panels.append(
            Figure(
                svg,
                "",
                f"Line plot of accuracy over steps, ending at {percent(last['val_mean'])} on unseen"
                " networks.",
            )
        )
    if steps:
        svg = figures.lines(
            [figures.Series("cross-entropy", *_smooth(steps, "cross_entropy"))],
            "Training loss",
            "step",
            "cross-entropy (logarithmic)",
            percent=False,
            log=True,  # single networks without norms send single steps far up
        )
        panels.append(Figure(svg, "", "Line plot of the training loss over steps."))
    blocks: list[Block] = [
        Text(
            "The hypernetwork learns by predicting parameters for architectures of the train split"
            " and following the gradient of their loss; the evaluated networks are not among them.",
            "lead",
        )
    ]
    if panels:
        blocks.append(
            Panels(
                panels,
                "Unseen networks: of the val split, on validation images. Training networks: those"
                " of each meta-batch, on its images, averaged over neighbouring steps.",
            )
        )
    else:
        blocks.append(Text("No learning curve was found beside the model.", "warning"))
    return Section("learning", "How the hypernetwork learned", blocks)


def _smooth(entries: Sequence[Mapping[str, float]], key: str) -> tuple[list[float], list[float]]:
    """Steps and means of `key` in at most 80 equal windows."""
    found = [(entry["step"], entry[key]) for entry in entries if entry.get(key) is not None]
    chunks = np.array_split(np.array(found, dtype=float), min(80, len(found))) if found else []
    return [float(chunk[:, 0].mean()) for chunk in chunks], [
        float(chunk[:, 1].mean()) for chunk in chunks
    ]


def finetuning(
    rows: Sequence[Row], ghn: str, setting: Setting, published: Mapping[str, Any]
) -> Section:
    """Accuracy per step from predicted parameters (those by `ghn`) and from others, at each one's
    best learning rate.
    """
    chosen = chosen_rows(rows)
    if not chosen:
        return Section("finetuning", "Fine-tuning", [Text("No fine-tuning was run.", "warning")])
    panels: list[Figure] = []
    cells: list[list[str | None]] = []
    inits = in_order((row["ghn"] for row in chosen), ghn)
    steps = sorted({step for row in chosen for step in row["step"]})
    half = min(range(len(steps)), key=lambda place: abs(2 * steps[place] - steps[-1]))
    shown = sorted({0, half, len(steps) - 1})
    for split in sorted({row["split"] for row in chosen}, key=list(SPLIT_TITLES).index):
        members = [row for row in chosen if row["split"] == split]
        series = []
        for colour, init in enumerate(inits):
            if not (runs := [row for row in members if row["ghn"] == init]):
                continue
            values, name = np.array([held(row, steps) for row in runs]), init_name(init, ghn)
            mean, band = values.mean(0).tolist(), values.std(0).tolist()
            series.append(figures.Series(name, steps, mean, band, colour))
            along = [spread(values[:, place]) for place in shown]
            cells.append([f"{SPLIT_TITLES[split]}, {name}", *_ends(runs, along)])
        panels.append(_curves(split, members, series, setting))
    blocks: list[Block] = [
        Text(
            "What predicted parameters are for: training that starts from them. Each network is"
            " trained from each initialisation at every learning rate of the same grid; the best by"
            " validation accuracy is shown.",
            "lead",
        ),
        Panels(
            panels, "Mean over networks, bands ± 1 standard deviation (as figure 6 of the paper)."
        ),
        Table(
            [
                "networks from",
                "networks",
                *(f"step {steps[place]:,}" for place in shown),
                "test, end",
                "learning rates chosen",
                "diverged",
            ],
            cells,
            "Validation accuracy at these steps and test accuracy at the end, mean ± standard"
            " deviation; a run that diverged counts with the accuracy that it ended with.",
        ),
        *by_network(rows, ghn, "after fine-tuning"),
        *comparisons(rows, ghn),
        _protocol(rows, chosen, published),
    ]
    return Section("finetuning", "Fine-tuning", blocks)


def _curves(
    split: str, members: Sequence[Row], series: Sequence[figures.Series], setting: Setting
) -> Figure:
    """The panel of a split: a line per initialisation."""
    n = len({row["architecture"] for row in members})
    title = f"{SPLIT_TITLES[split]}: {counted(n, 'network')}"
    svg = figures.lines(series, title, "SGD step", "validation accuracy", chance=setting.chance)
    ends = "; ".join(f"{entry.name} ends at {percent(entry.y[-1])}" for entry in series)
    return Figure(svg, "", f"Validation accuracy over fine-tuning steps, split {split}: {ends}.")


def _ends(runs: Sequence[Row], along: Sequence[str]) -> list[str | None]:
    """The cells of an initialisation behind its name; `along`: accuracies on the way."""
    tests = np.array(
        [row["test_accuracy"] for row in runs if row["test_accuracy"] is not None], dtype=float
    )
    return [
        str(len({row["architecture"] for row in runs})),
        *along,
        spread(tests) if tests.size else None,
        ", ".join(f"{lr:g}" for lr in sorted({row["lr"] for row in runs})),
        str(sum(bool(row.get("diverged")) for row in runs)),
    ]


def _protocol(rows: Sequence[Row], chosen: Sequence[Row], published: Mapping[str, Any]) -> Text:
    """Grid, budget and images, and what was published of the same."""
    first = chosen[0]
    grid = sorted({row["lr"] for row in rows if row["lr"] is not None})
    return Text(
        f"Grid: learning rates {', '.join(f'{lr:g}' for lr in grid)}; {first['steps']} steps of"
        f" batch {first['batch_size']} on {first['n_train']:,} images of {first['images']},"
        f" chosen on {first['n_val']:,} validation images, tested once on {first['n_test']:,};"
        f" {len({row['seed'] for row in chosen})} seed(s). Published (table 2, top-10 networks,"
        " ImageNet, GHN-3-XL/m16): DeepNets-1M "
        + _series(published["table_2"]["DeepNets-1M-10"]["GHN-3-XL/m16"])
        + " against random "
        + _series(published["table_2"]["DeepNets-1M-10"]["RandInit"])
        + " without fine-tuning, after 1/10 and after 1 epoch.",
        "note",
    )


def by_network(rows: Sequence[Row], ghn: str, when: str) -> list[Block]:
    """A point per network: test accuracy from random parameters against that from predicted, which
    are those by `ghn`; `when` ends the title.
    """
    predicted, random = (per_architecture(rows, init) for init in (ghn, RANDOM))
    names = [name for name in predicted if name in random]
    if len(names) < 2:
        return []
    points = {
        title: ([random[name] for name in of], [predicted[name] for name in of])
        for title, of in (
            ("DeepNets-1M", [name for name in names if name.startswith("deepnets1m/")]),
            ("torchvision", [name for name in names if not name.startswith("deepnets1m/")]),
        )
        if of
    }
    svg = figures.scatter(
        points, f"Each network {when}", "test accuracy from random", "from predicted", equal=True
    )
    ahead = sum(predicted[name] > random[name] for name in names)
    alt = f"Scatter plot of {len(names)} networks; predicted parameters are ahead in {ahead}."
    return [Figure(svg, "Above the line: predicted parameters end ahead.", alt)]


def comparisons(rows: Sequence[Row], ghn: str) -> list[Block]:
    """A sentence per initialisation against the parameters that `ghn` predicts, paired over
    architectures.
    """
    sentences: list[Block] = []
    for other in in_order((row["ghn"] for row in rows), ghn):
        result = compare(rows, ghn, other)
        if other != ghn and result is not None:
            sentences.append(
                Text(
                    f"Predicted against {init_name(other, ghn)}, test accuracy, paired over"
                    f" {result.n} networks: {100 * result.mean_difference:+.1f} points (95 %"
                    f" bootstrap interval {100 * result.low:+.1f} to {100 * result.high:+.1f}),"
                    f" ahead on {percent(result.wins, 0)}"
                    + (f", Wilcoxon p = {result.p_digits}." if result.p_digits else ".")
                )
            )
    return sentences


def _series(values: Sequence[Sequence[float]]) -> str:
    return " / ".join(f"{mean:.1f}" for mean, _ in values) + " %"
