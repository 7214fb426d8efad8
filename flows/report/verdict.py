"""The first sentence of the report: whether predicted parameters helped, and which targets are
missed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from flows.registry.comparison import standard_error
from flows.report.blocks import Section, Table
from flows.report.evaluation import DEEPNETS, SPLIT_TITLES, Setting, column, good
from flows.report.inits import seen_before
from flows.rows.answers import matrix
from flows.rows.schema import Row, sound
from flows.settings.inits import RANDOM
from flows.settings.report import Targets
from flows.trials.statistics import Comparison, chosen_rows, compare, held
from flows.words import counted, percent, plus_minus

NO_DIFFERENCE = "made no clear difference to"
CLEAR = 0.05
"""Largest p-value of a difference that is called clear."""


@dataclass(frozen=True)
class Judged:
    """A target with what came out.

    Attributes:
        what: in a few words.
        target: what was wanted, as text.
        found: what came out, as text.
        met: whether it was reached.
    """

    what: str
    target: str
    found: str
    met: bool


def first_sentence(
    ghn: str,
    finetuned: Sequence[Row],
    transferred: Sequence[Row],
    judged: Sequence[Judged],
) -> str:
    """Whether predicted parameters helped fine-tuning and transfer, and what is missed."""
    verbs, told = [], []
    for rows, what in ((finetuned, "fine-tuning on"), (transferred, "transfer to")):
        if (result := compare(rows, ghn, RANDOM)) is not None:
            verbs.append(_verb(result))
            first = sound(rows)[0]
            seen = ", images it has been trained on before" if seen_before(first) else ""
            told.append(f"{what} {first['images']}{seen} ({_numbers(result)})")
    if not told:
        sentence = "Whether predicted parameters help training was not measured"
    elif len(set(verbs)) == 1:
        joint = " or " if verbs[0] == NO_DIFFERENCE else " and "
        sentence = f"Predicted parameters {verbs[0]} {joint.join(told)}"
    else:
        parts = [f"{verb} {what}" for verb, what in zip(verbs, told, strict=True)]
        sentence = f"Predicted parameters {' and '.join(parts)}"
    missed = [entry for entry in judged if not entry.met]
    if missed:
        listed = ", ".join(
            f"{entry.what} {entry.found} (target {entry.target})" for entry in missed
        )
        sentence += f"; {len(missed)} of {len(judged)} targets are missed: {listed}"
    elif judged:
        sentence += f"; all {len(judged)} targets are reached"
    return sentence + "."


def _verb(result: Comparison) -> str:
    clear = result.p_value < CLEAR and result.low * result.high > 0
    if not clear:
        return NO_DIFFERENCE
    return "helped" if result.mean_difference > 0 else "hurt"


def _numbers(result: Comparison) -> str:
    return (
        f"{_points(result.mean_difference)} test accuracy against random initialisation over"
        f" {counted(result.n, 'network')}, 95 % interval {100 * result.low:+.1f} to"
        f" {100 * result.high:+.1f}, ahead in {percent(result.wins, 0)}, {_p(result)}"
    )


def _points(difference: float) -> str:
    return f"{100 * difference:+.1f} points"


def _p(result: Comparison) -> str:
    return f"p = {result.p_digits}" if result.p_digits else "too few networks for a p-value"


def judge(
    targets: Targets | None,
    ghn: str,
    setting: Setting,
    evaluated: Sequence[Row],
    finetuned: Sequence[Row],
    transferred: Sequence[Row],
) -> list[Judged]:
    """Each target with what came out; none where they are for other images."""
    if targets is None or targets.images != setting.images:
        return []
    return [
        *_accuracies(targets, evaluated),
        *_of_finetuning(targets, ghn, finetuned),
        *_of_transfer(targets, ghn, transferred),
    ]


def _accuracies(targets: Targets, evaluated: Sequence[Row]) -> Iterator[Judged]:
    for split, wanted in targets.accuracy.items():
        members = good(evaluated, split)
        found = float(column(members, "accuracy").mean()) if members else math.nan
        title = SPLIT_TITLES.get(split, split)
        title = title if title.isupper() or "-" in title else title.lower()
        text = f"{100 * found:.1f} %" if members else "not measured"
        yield Judged(f"{title} untrained", f"{100 * wanted:g} %", text, found >= wanted)


def _of_finetuning(targets: Targets, ghn: str, rows: Sequence[Row]) -> Iterator[Judged]:
    wanted = targets.finetuning
    result = compare(rows, ghn, RANDOM)
    if result is None:
        yield Judged("fine-tuning", _points(wanted.points), "not compared", False)
        return
    gain = result.mean_difference
    yield Judged(
        "gain of fine-tuning", _points(wanted.points), _points(gain), gain >= wanted.points
    )
    yield Judged(
        "networks ahead",
        percent(wanted.wins, 0),
        percent(result.wins, 0),
        result.wins >= wanted.wins,
    )
    yield Judged(
        "certainty of that",
        f"p < {wanted.p_value:g}",
        _p(result),
        result.p_value < wanted.p_value,
    )
    yield Judged(
        "networks compared", str(wanted.networks), str(result.n), result.n >= wanted.networks
    )
    behind = [step for step, gap in gaps(rows, ghn).items() if not gap > 0]
    yield Judged(
        "ahead along training",
        "at every step",
        f"not after {', '.join(map(str, behind))} steps" if behind else "at every step",
        not behind,
    )


def gaps(rows: Sequence[Row], ghn: str) -> dict[int, float]:
    """Mean validation accuracy of predicted minus that of random parameters, by step, over the
    networks that have both.
    """
    chosen = chosen_rows(rows)
    predicted, random = (
        {row["architecture"] for row in chosen if row["ghn"] == init} for init in (ghn, RANDOM)
    )
    chosen = [row for row in chosen if row["architecture"] in predicted & random]
    steps = sorted({step for row in chosen for step in row["step"]})
    means = {
        init: np.nanmean([held(row, steps) for row in chosen if row["ghn"] == init], axis=0)
        for init in (ghn, RANDOM)
    }
    return dict(zip(steps, (means[ghn] - means[RANDOM]).tolist(), strict=True))


def _of_transfer(targets: Targets, ghn: str, rows: Sequence[Row]) -> Iterator[Judged]:
    result = compare(rows, ghn, RANDOM)
    if result is None:
        yield Judged("transfer", "not behind", "not compared", False)
        return
    gap = result.mean_difference
    yield Judged("gain of transfer", "not behind", _points(gap), gap >= 0)
    wanted = targets.transfer_networks
    yield Judged("networks transferred", str(wanted), str(result.n), result.n >= wanted)


def untrained(evaluated: Sequence[Row], setting: Setting) -> str:
    """How accurate predicted parameters are without training, whichever way it came out."""
    test = good(evaluated, "test") or good(evaluated, *DEEPNETS)
    if not test:
        return "No architecture could be evaluated."
    predicted, random = column(test, "accuracy"), column(test, "randinit_accuracy")
    sigma = noise(test)
    difference = float((predicted - random).mean())
    verdict = "clearly above" if difference > 3 * sigma else "not clearly above"
    return (
        f"On {setting.images}, the parameters that the hypernetwork predicts for {len(test)}"
        f" networks it has never seen classify {percent(float(predicted.mean()))} of held-out"
        " images correctly without any training (standard deviation over networks"
        f" {percent(float(predicted.std()))}): {verdict} random initialisation,"
        f" {plus_minus(float(random.mean()), float(random.std()))}, with chance at"
        f" {percent(setting.chance)}."
    )


def noise(rows: Sequence[Row]) -> float:
    """Standard error of the mean gain over random parameters, of networks *and* of images: all
    networks see the same images, so those do not average out over networks.
    """
    seen = matrix(rows, None)
    if min(seen.shape) < 2:
        return float("nan")
    gain = matrix(rows, "correct").astype(np.float32) - matrix(rows, "randinit_correct")
    return standard_error(gain, seen)


def targets(judged: Sequence[Judged]) -> Section | None:
    """Each target with what came out; None where there are none."""
    if not judged:
        return None
    rows = [
        [entry.what, entry.target, entry.found, "yes" if entry.met else "no"] for entry in judged
    ]
    table = Table(["", "target", "found", "reached"], rows, "The targets of this setting.")
    return Section("targets", "Targets", [table])
