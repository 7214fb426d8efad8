"""Summaries of networks as their initialisation left them (tables 5, 9 to 13 and 19; figs. 5, 7 and
9).
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from typing import Any

import numpy as np

from flows.experiments.summaries.common import (
    Rows,
    Summary,
    mean_std,
    standard_error,
    unique,
)
from flows.report import Figure, Panels, Table, figures
from flows.rows.schema import Row, sound
from flows.settings.inits import RANDOM
from flows.trials.inits import is_hypernetwork
from flows.trials.statistics import per_architecture
from ghn.analysis import SCORES, kendall_tau


def generalisation(rows: Rows) -> Summary:
    """Accuracy without training per hypernetwork and split (tables 11, 12)."""
    good = sound(rows)
    splits = unique(good, "split")
    body: list[list[str | None]] = []
    first = [row for row in good if row["ghn"] == good[0]["ghn"]] if good else []
    body.append(
        [
            "randinit",
            *(mean_std([r["randinit_accuracy"] for r in first if r["split"] == s]) for s in splits),
        ]
    )
    for ghn in unique(good, "ghn"):
        mine = [row for row in good if row["ghn"] == ghn]
        body.append(
            [ghn, *(mean_std([r["accuracy"] for r in mine if r["split"] == s]) for s in splits)]
        )
    counts = ", ".join(f"{s} {sum(r['split'] == s for r in first)}" for s in splits)
    table = Table(
        ["", *splits], body, f"Accuracy (%) without training, mean ± std over networks ({counts})"
    )
    end = figures.accuracy_end(
        np.array([row[name] for row in good]) for name in ("accuracy", "randinit_accuracy")
    )
    panels = Panels(
        [_distribution(good, ghn, end) for ghn in unique(good, "ghn")],
        "Networks by their accuracy without training; filled: predicted parameters, outlined:"
        " random ones",
    )
    means = {
        ghn: float(np.mean([r["accuracy"] for r in good if r["ghn"] == ghn]))
        for ghn in unique(good, "ghn")
    }
    chance = float(np.mean([r["randinit_accuracy"] for r in first])) if first else math.nan
    told = ", ".join(f"{ghn} {100 * mean:.1f} %" for ghn, mean in means.items())
    sentence = (
        f"Mean accuracy over all networks without training: {told}; randinit {100 * chance:.1f} %."
    )
    return Summary(sentence, [table, panels])


def _distribution(good: Rows, ghn: str, end: float) -> Figure:
    """As figs. 5 and 7: how accuracies are spread over networks."""
    mine = [row for row in good if row["ghn"] == ghn]
    values = {ghn: np.array([row["accuracy"] for row in mine])}
    values["randinit"] = np.array([row["randinit_accuracy"] for row in mine])
    chance = float(np.mean(values["randinit"]))
    svg = figures.histogram(values, ghn, "accuracy", 25, chance, end)
    return Figure(
        svg, "", f"Histogram of accuracies of networks with parameters predicted by {ghn}"
    )


def ablations(rows: Rows) -> Summary:
    """The same, hypernetworks of one recipe pooled over their seeds: `<name>-s<seed>` (tables 5,
    10, 11).
    """
    good = sound(rows)
    groups: dict[str, dict[str, list[Row]]] = defaultdict(lambda: defaultdict(list))
    for row in good:
        name = re.sub(r"-s\d+$", "", row["ghn"])
        groups[name][row["ghn"]].append(row)
    splits = unique(good, "split")
    body: list[list[str | None]] = []
    of_seed: dict[str, list[float]] = {}
    for name, members in groups.items():
        of_seed[name] = [
            float(np.mean([r["accuracy"] for r in found])) for found in members.values()
        ]
        by_split = [
            [r["accuracy"] for found in members.values() for r in found if r["split"] == s]
            for s in splits
        ]
        body.append(
            [
                name,
                *(mean_std(found) for found in by_split),
                mean_std(of_seed[name]),
                str(len(members)),
            ]
        )
    header = ["", *splits, "all, mean ± std over seeds", "seeds"]
    table = Table(
        header, body, "Accuracy (%) without training; per split mean ± std over networks and seeds"
    )
    base = next(iter(of_seed), None)
    clear: list[str] = []
    unclear: list[str] = []
    for name, values in of_seed.items():
        if base is None or name == base:
            continue
        gap = 100 * (np.mean(values) - np.mean(of_seed[base]))
        noise = 100 * math.hypot(standard_error(values), standard_error(of_seed[base]))
        known = min(len(values), len(of_seed[base])) > 1
        (clear if known and abs(gap) > 2 * noise else unclear).append(f"{name} {gap:+.1f}")
    told = (
        [f"Points against {base}, beyond the noise of seeds: {', '.join(clear) or 'none'}."]
        if of_seed
        else []
    )
    if unclear:
        told.append(f"Within that noise, or with one seed only: {', '.join(unclear)}.")
    return Summary(" ".join(told), [table])


def diversity(rows: Rows) -> Summary:
    """Mean absolute cosine distance per initialisation and shape (table 9)."""
    good = sound(rows)
    shapes = unique(good, "shape")
    body: list[list[str | None]] = []
    for init, matched in dict.fromkeys((row["ghn"], row["matched"]) for row in good):
        cells: list[str | None] = [f"{init}, matched" if matched else init]
        for shape in shapes:
            found = [
                r for r in good if (r["ghn"], r["matched"], r["shape"]) == (init, matched, shape)
            ]
            told = found and found[0]["distance"] is not None
            cells.append(
                f"{found[0]['distance']:.3g} (n = {found[0]['tensors']})" if told else None
            )
        body.append(cells)
    sentence = (
        "0: all tensors point the same way; 1: unrelated. Random parameters are the upper end."
    )
    return Summary(
        sentence,
        [Table(["", *shapes], body, "Mean absolute cosine distance of tensors of one shape")],
    )


def activations(rows: Rows) -> Summary:
    """Variance of activations per layer (figs. 6, bottom, and 9), logarithmic."""
    good = sound(rows)
    panels: list[Figure] = []
    body: list[list[str | None]] = []
    for architecture in unique(good, "architecture"):
        series = []
        for colour, init in enumerate(unique(good, "ghn")):
            mine = [r for r in good if (r["architecture"], r["ghn"]) == (architecture, init)]
            if not mine:
                continue
            values = np.array(
                [[np.nan if v is None or v <= 0 else v for v in r["variance"]] for r in mine],
                dtype=float,
            )
            # where it is finite and not zero
            layers = np.flatnonzero(~np.isnan(values).all(axis=0))
            variance = np.nanmean(values[:, layers], axis=0)
            series.append(
                figures.Series(init, layers.tolist(), np.log10(variance).tolist(), None, colour)
            )
            places = (0, len(layers) // 2, -1)
            cells = [f"{variance[i]:.3g}" for i in places] if len(layers) else [None] * len(places)
            body.append([f"{architecture}, {init}", *cells])
        svg = figures.lines(series, architecture, "layer", "log10 variance", percent=False)
        panels.append(
            Figure(svg, "", f"Logarithm of the variance of activations per layer of {architecture}")
        )
    table = Table(
        ["", "first layer", "middle", "last"], body, "Variance after convolutions and linear layers"
    )
    sentence = (
        "A level that stays within an order of magnitude through all layers is healthy; growth or"
        " decay is not."
    )
    return Summary(sentence, [Panels(panels, "Variance of activations, layer by layer"), table])


def gradients(rows: Rows) -> Summary:
    """Gradient norm at initialisation (table 13)."""
    good = sound(rows)
    body = [
        [
            f"{row['architecture']}, {row['ghn']}, seed {row['seed']}",
            "overflow" if row["gradient_norm"] is None else f"{row['gradient_norm']:.4g}",
            f"{row['parameters'] / 1e6:.0f}M",
        ]
        for row in good
    ]
    table = Table(
        ["", "gradient norm", "parameters"],
        body,
        "L2 norm of the gradient before any training",
    )
    return Summary("; ".join(f"{row[0]}: {row[1]}" for row in body) + ".", [table])


def ranking(rows: Rows, truth: Rows) -> Summary:
    """Kendall's tau of scores, and of hypernetworks' accuracies without training, with trained
    accuracy (table 19): each the mean over seeds, the last from the first initialisation of
    `truth`.
    """
    trained = sound(truth)
    accuracy = per_architecture(trained, trained[0]["ghn"]) if trained else {}
    good = sound(rows)
    scores = {
        f"{ghn}, untrained": per_architecture(good, ghn, "accuracy")
        for ghn in unique(good, "ghn")
        if is_hypernetwork(ghn)
    }
    scores |= {name: per_architecture(good, RANDOM, name) for name in SCORES}
    body: list[list[str | None]] = []
    taus: dict[str, float] = {}
    for name, values in scores.items():
        shared = [architecture for architecture in accuracy if architecture in values]
        if len(shared) < 3:
            continue
        a = np.array([values[s] for s in shared])
        b = np.array([accuracy[s] for s in shared])
        tau = kendall_tau(a.tolist(), b.tolist())
        if math.isnan(tau):  # one side is constant
            body.append([name, None, None, str(len(shared))])
            continue
        taus[name] = tau
        low, high = _tau_interval(a, b)
        body.append([name, f"{tau:.2f}", f"{low:.2f} to {high:.2f}", str(len(shared))])
    table = Table(
        ["", "Kendall's tau", "95 % interval", "n"],
        body,
        "Rank correlation with accuracy after training",
    )
    best = max(taus, key=lambda name: taus[name]) if taus else "none"
    return Summary(f"Best ranking: {best} (tau {taus.get(best, math.nan):.2f}).", [table])


def _tau_interval(a: Any, b: Any) -> tuple[float, float]:
    random = np.random.default_rng(0)
    draws = [
        kendall_tau(a[index].tolist(), b[index].tolist())
        for index in random.integers(len(a), size=(500, len(a)))
    ]
    low, high = np.nanquantile(draws, [0.025, 0.975])
    return float(low), float(high)
