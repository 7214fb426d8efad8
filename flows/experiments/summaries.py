"""From the rows of an experiment to what its page shows: tables with uncertainty, curves, and a sentence of result.

Accuracies in rows are fractions; on pages they are percent. A mean over architectures is of their means over seeds; "±"
is the standard deviation over architectures, or over seeds where there is one architecture.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from flows.experiments.statistics import Comparison, compare
from flows.report import Block, Figure, Panels, Table, figures
from flows.results import Row
from ghn.analysis import SCORES, kendall_tau
from ghn.analysis.ensemble import ensemble_accuracy

Rows = Sequence[Row]

REFERENCE = "randinit"
"""The initialisation that others are compared with."""


@dataclass(frozen=True)
class Summary:
    """What a page says: a sentence, and blocks that show it."""

    sentence: str
    blocks: list[Block]


def fine_tuning(rows: Rows) -> Summary:
    """Accuracy along training per initialisation, and paired comparisons with RandInit (tables 2, 4, 6, 7, 14, 16)."""
    good = _good(rows)
    blocks: list[Block] = []
    sentences = []
    for part in _unique(good, "part"):
        mine = [row for row in good if row["part"] == part]
        prefix = "" if part == "main" else f"{part}: "
        blocks += [_accuracy_table(mine, prefix), _comparison_table(mine, prefix)]
        if (curves := _curves(mine, prefix)) is not None:
            blocks.append(curves)
        sentences += [verdict(mine, init) for init in _unique(mine, "ghn") if init != REFERENCE]
    return Summary(" ".join(sentences), blocks)


def verdict(rows: Rows, init: str, value: str = "test_accuracy") -> str:
    """One sentence: whether `init` differs from RandInit, by how much, and how sure that is."""
    result = compare(rows, init, REFERENCE, value)
    if result is None:
        return ""
    size = f"{100 * result.mean_difference:+.1f} points over {REFERENCE}"
    interval = f"95 % interval {100 * result.low:+.1f} to {100 * result.high:+.1f}"
    if result.n == 1:
        return f"{init}: {size} on the one network measured, which says nothing about others."
    sure = "clearly " if (result.low > 0 or result.high < 0) else "not clearly "
    direction = "better" if result.mean_difference > 0 else "worse"
    p = "" if math.isnan(result.p_value) else f", p = {result.p_value:.3f}"
    return f"{init} is {sure}{direction}: {size} ({interval}, n = {result.n} networks{p})."


def _accuracy_table(rows: Rows, prefix: str) -> Table:
    chosen = [row for row in rows if row["selected"]]
    steps = sorted({step for row in chosen for step in row["step"]})
    body = []
    for init in _unique(rows, "ghn"):
        mine = [row for row in chosen if row["ghn"] == init]
        cells: list[str | None] = [init]
        by_step = [[(row["architecture"], at) for row in mine if (at := _at(row, step)) is not None] for step in steps]
        cells += map(_spread, by_step)
        cells.append(_spread([(row["architecture"], row["test_accuracy"]) for row in mine]))
        cells.append(_seed_spread(mine))
        cells.append(f"{np.mean([row['init_seconds'] for row in mine]):.2f}" if mine else None)
        body.append(cells)
    header = ["initialisation", *(f"step {step}" for step in steps), "test", "std over seeds", "init. (s)"]
    n = len(_unique(chosen, "architecture"))
    seeds = len(_unique(chosen, "seed"))
    caption = (
        f"{prefix}validation accuracy (%) along training and test accuracy at the end, {n} networks, {seeds} seeds"
    )
    return Table(header, body, caption)


def _comparison_table(rows: Rows, prefix: str) -> Table:
    body = []
    for init in _unique(rows, "ghn"):
        if init == REFERENCE or (result := compare(rows, init, REFERENCE)) is None:
            continue
        body.append([init, *_cells(result)])
    header = ["against randinit", "difference", "95 % interval", "wins", "average gain", "average loss", "n", "p"]
    caption = f"{prefix}paired over networks, test accuracy in points; p of Wilcoxon's signed-rank test"
    return Table(header, body, caption)


def _cells(result: Comparison) -> list[str | None]:
    return [
        f"{100 * result.mean_difference:+.1f}",
        f"{100 * result.low:+.1f} to {100 * result.high:+.1f}",
        f"{100 * result.wins:.0f} %",
        _points(result.average_gain),
        _points(result.average_loss),
        str(result.n),
        None if math.isnan(result.p_value) else f"{result.p_value:.3f}",
    ]


def _curves(rows: Rows, prefix: str) -> Panels | None:
    panels = []
    for column, label in (("val_accuracy", "validation"), ("train_accuracy", "training")):
        series = []
        for colour, init in enumerate(_unique(rows, "ghn")):
            mine = [row for row in rows if row["selected"] and row["ghn"] == init and not row["diverged"]]
            if not mine or len(steps := mine[0]["step"]) < 2:
                continue
            values = np.array(
                [[np.nan if v is None else v for v in row[column]] for row in mine if row["step"] == steps], dtype=float
            )
            first = 1 if column == "train_accuracy" else 0
            spread = values[:, first:].std(0) if len(values) > 1 else None
            band = None if spread is None else spread.tolist()
            series.append(figures.Series(init, steps[first:], values[:, first:].mean(0).tolist(), band, colour))
        if series:
            svg = figures.lines(series, f"{prefix}{label} accuracy", "step", "accuracy")
            panels.append(Figure(svg, "", f"Mean {label} accuracy over steps for each initialisation"))
    return Panels(panels, "Mean and standard deviation over networks and seeds") if panels else None


def learning_rates(rows: Rows) -> Summary:
    """How often the learning rate that is best on average is (nearly) the best for a network (table 18)."""
    good = _good(rows)
    body, sentences = [], []
    for init in _unique(good, "ghn"):
        values: dict[str, dict[float, list[float]]] = defaultdict(lambda: defaultdict(list))
        for row in good:
            if row["ghn"] == init:
                values[row["architecture"]][row["lr"]].append(row["final_val_accuracy"])
        table = {name: {lr: float(np.mean(found)) for lr, found in rates.items()} for name, rates in values.items()}
        rates = sorted({lr for found in table.values() for lr in found})
        best = max(rates, key=lambda lr: float(np.mean([found.get(lr, 0.0) for found in table.values()])))
        shares = [
            float(np.mean([found[best] >= max(found.values()) - slack for found in table.values()]))
            for slack in (0.0, 0.01, 0.02)
        ]
        body.append([f"{init} (lr {best:g})", *(f"{100 * share:.0f}" for share in shares)])
        sentences.append(
            f"{init}: {best:g} is within a point of the best rate for {100 * shares[1]:.0f} % of networks."
        )
    caption = "Networks (%) that one learning rate serves, by validation accuracy"
    return Summary(" ".join(sentences), [Table(["", "±0 %", "±1 %", "±2 %"], body, caption)])


def optimisers(rows: Rows) -> Summary:
    """Validation accuracy per optimiser and learning rate (table 17)."""
    good = _good(rows)
    points = list(dict.fromkeys((row["part"], row["lr"]) for row in good))
    body: list[list[str | None]] = []
    for init in _unique(good, "ghn"):
        cells: list[str | None] = [init]
        for point in points:
            found = [row for row in good if row["ghn"] == init and (row["part"], row["lr"]) == point]
            cells.append(_mean_std([row["final_val_accuracy"] for row in found]))
        body.append(cells)
    header = ["", *(f"{part}, lr {lr:g}" for part, lr in points)]
    table = Table(header, body, "Validation accuracy (%) at the end, mean ± std over seeds")
    sentence = " ".join(verdict(good, init) for init in _unique(good, "ghn") if init != REFERENCE)
    return Summary(sentence, [table])


def generalisation(rows: Rows) -> Summary:
    """Accuracy without training per hypernetwork and split (tables 11, 12)."""
    good = _good(rows)
    splits = _unique(good, "split")
    body: list[list[str | None]] = []
    first = [row for row in good if row["ghn"] == good[0]["ghn"]] if good else []
    body.append(["randinit", *(_mean_std([r["randinit_accuracy"] for r in first if r["split"] == s]) for s in splits)])
    for ghn in _unique(good, "ghn"):
        mine = [row for row in good if row["ghn"] == ghn]
        body.append([ghn, *(_mean_std([r["accuracy"] for r in mine if r["split"] == s]) for s in splits)])
    counts = ", ".join(f"{s} {sum(r['split'] == s for r in first)}" for s in splits)
    table = Table(["", *splits], body, f"Accuracy (%) without training, mean ± std over networks ({counts})")
    means = {ghn: float(np.mean([r["accuracy"] for r in good if r["ghn"] == ghn])) for ghn in _unique(good, "ghn")}
    chance = float(np.mean([r["randinit_accuracy"] for r in first])) if first else math.nan
    told = ", ".join(f"{ghn} {100 * mean:.1f} %" for ghn, mean in means.items())
    return Summary(f"Mean accuracy over all networks without training: {told}; randinit {100 * chance:.1f} %.", [table])


def ablations(rows: Rows) -> Summary:
    """The same, hypernetworks of one recipe pooled over their seeds: `<name>-s<seed>` (tables 5, 10, 11)."""
    good = _good(rows)
    groups: dict[str, dict[str, list[Row]]] = defaultdict(lambda: defaultdict(list))
    for row in good:
        name = row["ghn"].rsplit("-s", 1)[0]
        groups[name][row["ghn"]].append(row)
    splits = _unique(good, "split")
    body: list[list[str | None]] = []
    of_seed: dict[str, list[float]] = {}
    for name, members in groups.items():
        of_seed[name] = [float(np.mean([r["accuracy"] for r in found])) for found in members.values()]
        by_split = [[r["accuracy"] for found in members.values() for r in found if r["split"] == s] for s in splits]
        body.append([name, *(_mean_std(found) for found in by_split), _mean_std(of_seed[name]), str(len(members))])
    header = ["", *splits, "all, mean ± std over seeds", "seeds"]
    table = Table(header, body, "Accuracy (%) without training; per split mean ± std over networks and seeds")
    base = next(iter(of_seed), None)
    sentences = []
    for name, values in of_seed.items():
        if base is None or name == base:
            continue
        gap = 100 * (np.mean(values) - np.mean(of_seed[base]))
        noise = 100 * math.hypot(_standard_error(values), _standard_error(of_seed[base]))
        sure = "" if len(values) > 1 and abs(gap) > 2 * noise else " (within the noise of seeds, or one seed only)"
        sentences.append(f"{name}: {gap:+.1f} points against {base}{sure}.")
    return Summary(" ".join(sentences), [table])


def detection(rows: Rows) -> Summary:
    """AP at IoU 0.50 per backbone and initialisation (table 8)."""
    good = _good(rows)
    backbones = _unique(good, "architecture")
    body = [
        [
            init,
            *(_mean_std([r["ap50"] for r in good if r["ghn"] == init and r["architecture"] == b]) for b in backbones),
        ]
        for init in _unique(good, "ghn")
    ]
    table = Table(
        ["", *backbones], body, "AP (%) at IoU 0.50, mean ± std over seeds (each its own split of the images)"
    )
    means = {init: float(np.mean([r["ap50"] for r in good if r["ghn"] == init])) for init in _unique(good, "ghn")}
    told = ", ".join(f"{init} {100 * mean:.1f} %" for init, mean in means.items())
    return Summary(f"Mean AP: {told}.", [table])


def diversity(rows: Rows) -> Summary:
    """Mean absolute cosine distance per initialisation and shape (table 9)."""
    good = _good(rows)
    shapes = _unique(good, "shape")
    body: list[list[str | None]] = []
    for init, matched in dict.fromkeys((row["ghn"], row["matched"]) for row in good):
        cells: list[str | None] = [f"{init}, matched" if matched else init]
        for shape in shapes:
            found = [r for r in good if (r["ghn"], r["matched"], r["shape"]) == (init, matched, shape)]
            told = found and found[0]["distance"] is not None
            cells.append(f"{found[0]['distance']:.3g} (n = {found[0]['tensors']})" if told else None)
        body.append(cells)
    sentence = "0: all tensors point the same way; 1: unrelated. Random parameters are the upper end."
    return Summary(sentence, [Table(["", *shapes], body, "Mean absolute cosine distance of tensors of one shape")])


def activations(rows: Rows) -> Summary:
    """Variance of activations per layer (figs. 6, bottom, and 9), logarithmic."""
    good = _good(rows)
    panels, body = [], []
    for architecture in _unique(good, "architecture"):
        series = []
        for colour, init in enumerate(_unique(good, "ghn")):
            mine = [r for r in good if (r["architecture"], r["ghn"]) == (architecture, init)]
            if not mine:
                continue
            values = np.array(
                [[np.nan if v is None or v <= 0 else v for v in r["variance"]] for r in mine], dtype=float
            )
            log = np.log10(np.nanmean(values, axis=0))
            keep = np.flatnonzero(np.isfinite(log))
            series.append(figures.Series(init, keep.tolist(), log[keep].tolist(), None, colour))
            body.append([f"{architecture}, {init}", *(f"{10 ** log[keep[i]]:.3g}" for i in (0, len(keep) // 2, -1))])
        svg = figures.lines(series, architecture, "layer", "log10 variance", percent=False)
        panels.append(Figure(svg, "", f"Logarithm of the variance of activations per layer of {architecture}"))
    table = Table(["", "first layer", "middle", "last"], body, "Variance after convolutions and linear layers")
    sentence = "A level that stays within an order of magnitude through all layers is healthy; growth or decay is not."
    return Summary(sentence, [Panels(panels, "Variance of activations, layer by layer"), table])


def gradients(rows: Rows) -> Summary:
    """Gradient norm at initialisation (table 13)."""
    good = _good(rows)
    body = [
        [
            f"{row['architecture']}, {row['ghn']}, seed {row['seed']}",
            "overflow" if row["gradient_norm"] is None else f"{row['gradient_norm']:.4g}",
            f"{row['parameters'] / 1e6:.0f}M",
            f"{row['init_seconds']:.1f}",
        ]
        for row in good
    ]
    table = Table(["", "gradient norm", "parameters", "init. (s)"], body, "L2 norm of the gradient before any training")
    return Summary("; ".join(f"{row[0]}: {row[1]}" for row in body) + ".", [table])


def ensembles(rows: Rows) -> Summary:
    """Accuracy of networks and of the mean of their logits, per initialisation (table 15)."""
    good = [row for row in _good(rows) if row["selected"] and row.get("logits")]
    names = _unique(good, "architecture")
    body: list[list[str | None]] = []
    gains = []
    for part in _unique(good, "part"):
        for init in _unique(good, "ghn"):
            mine = [row for row in good if (row["part"], row["ghn"]) == (part, init)]
            cells: list[str | None] = [f"{init}, {part}"]
            cells += [_mean_std([r["test_accuracy"] for r in mine if r["architecture"] == name]) for name in names]
            together = [ensemble_of([r for r in mine if r["seed"] == seed]) for seed in _unique(mine, "seed")]
            found = [value for value in together if value is not None]
            cells.append(_mean_std(found))
            body.append(cells)
            if found:
                gain = np.mean(found) - np.mean([r["test_accuracy"] for r in mine])
                gains.append(f"{init}, {part}: {100 * gain:+.1f}")
    table = Table(["", *names, "ensemble"], body, "Test accuracy (%), mean ± std over seeds")
    return Summary("Gain of the ensemble over the mean of its members, in points: " + "; ".join(gains) + ".", [table])


def ensemble_of(rows: Rows) -> float | None:
    """Accuracy of the mean logits of one seed's networks; labels come with the rows (column `labels`)."""
    import torch

    if not rows or rows[0].get("labels") is None:
        return None
    y_N = torch.tensor(rows[0]["labels"])
    return ensemble_accuracy([torch.tensor(row["logits"]).view(len(y_N), -1) for row in rows], y_N)


def ranking(rows: Rows, truth: Rows, untrained: Rows) -> Summary:
    """Kendall's tau of scores, and of hypernetworks' accuracies, with trained accuracy (table 19)."""
    accuracy = {row["architecture"]: row["test_accuracy"] for row in _good(truth) if row["selected"]}
    scores: dict[str, dict[str, float]] = {
        name: {row["architecture"]: row[name] for row in _good(rows) if row[name] is not None} for name in SCORES
    }
    for row in _good(untrained):
        scores.setdefault(f"{row['ghn']}, untrained", {})[row["architecture"]] = row["accuracy"]
    body: list[list[str | None]] = []
    taus: dict[str, float] = {}
    for name, values in scores.items():
        shared = [architecture for architecture in accuracy if architecture in values]
        if len(shared) < 3:
            continue
        a = np.array([values[s] for s in shared])
        b = np.array([accuracy[s] for s in shared])
        taus[name] = kendall_tau(a.tolist(), b.tolist())
        low, high = _tau_interval(a, b)
        body.append([name, f"{taus[name]:.2f}", f"{low:.2f} to {high:.2f}", str(len(shared))])
    table = Table(["", "Kendall's tau", "95 % interval", "n"], body, "Rank correlation with accuracy after training")
    best = max(taus, key=lambda name: taus[name]) if taus else "none"
    return Summary(f"Best ranking: {best} (tau {taus.get(best, math.nan):.2f}).", [table])


def _tau_interval(a: Any, b: Any) -> tuple[float, float]:
    random = np.random.default_rng(0)
    draws = [kendall_tau(a[index].tolist(), b[index].tolist()) for index in random.integers(len(a), size=(500, len(a)))]
    low, high = np.nanquantile(draws, [0.025, 0.975])
    return float(low), float(high)


def _good(rows: Rows) -> list[Row]:
    return [row for row in rows if row["error"] is None]


def _unique(rows: Rows, column: str) -> list[Any]:
    return list(dict.fromkeys(row[column] for row in rows))


def _at(row: Row, step: int) -> float | None:
    return row["val_accuracy"][row["step"].index(step)] if step in row["step"] else None


def _spread(values: Sequence[tuple[str, float]]) -> str | None:
    """Mean over architectures of their means, ± std over architectures (over all values of a single one)."""
    groups: dict[str, list[float]] = defaultdict(list)
    for name, value in values:
        groups[name].append(value)
    return _mean_std(
        [float(np.mean(found)) for found in groups.values()] if len(groups) > 1 else [v for _, v in values]
    )


def _seed_spread(rows: Rows) -> str | None:
    groups: dict[str, list[float]] = defaultdict(list)
    for row in rows:
        groups[row["architecture"]].append(row["test_accuracy"])
    deviations = [float(np.std(found, ddof=1)) for found in groups.values() if len(found) > 1]
    return f"{100 * np.mean(deviations):.1f}" if deviations else None


def _mean_std(values: Sequence[float]) -> str | None:
    if not len(values):
        return None
    spread = f"±{100 * np.std(values, ddof=1):.1f}" if len(values) > 1 else ""
    return f"{100 * np.mean(values):.1f}{spread}"


def _standard_error(values: Sequence[float]) -> float:
    return float(np.std(values, ddof=1) / math.sqrt(len(values))) if len(values) > 1 else 0.0


def _points(value: float) -> str | None:
    return None if math.isnan(value) else f"{100 * value:+.1f}"


SUMMARIES: dict[str, Callable[[Rows], Summary]] = {
    "generalisation": generalisation,
    "ablations": ablations,
    "detect": detection,
    "diversity": diversity,
    "activations": activations,
    "gradients": gradients,
    "trials": fine_tuning,
    "table15": ensembles,
    "table17": optimisers,
    "table18": learning_rates,
}
"""By the name of an experiment, else by its kind."""
