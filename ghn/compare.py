"""Is a prediction a better start than random parameters, on these images, and by how much?

The comparison is fair: all starts see the same images, steps and learning rates; of the networks
that a start's learning rates give, the best on validation images alone meets the test images.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
from torch import nn

from ghn.baselines import orthogonal
from ghn.errors import ConfigError
from ghn.finetune import FinetuneConfig, break_symmetry, evaluate, finetune
from ghn.graph.drawing import write_figure
from ghn.images import Images, require_images
from ghn.models import GHN
from ghn.randomness import seeded

STARTS = ("predicted", "random", "orthogonal")

RATES = (0.1, 0.01, 0.001)
"""From the published grid (section 5.1): random weights want large ones, good ones small ones."""


@dataclass(frozen=True)
class Start:
    """What came of one way to start, an entry per seed in each list.

    Attributes:
        kind: of `STARTS`.
        untrained: test accuracy before training, as a fraction.
        trained: after it.
        lr: the learning rate that was best on validation images.
        step, val_accuracy: the curve of that rate.
    """

    kind: str
    untrained: list[float]
    trained: list[float]
    lr: list[float]
    step: list[list[int]]
    val_accuracy: list[list[float]]


@dataclass(frozen=True)
class Comparison:
    """The starts beside each other, and what was asked.

    Attributes:
        network: its name.
        images: of the data set.
        n_test: test images.
        steps: of training.
        starts: in the order of `STARTS`.
        report: what was predicted and what not, in words.
    """

    network: str
    images: str
    n_test: int
    steps: int
    starts: list[Start]
    report: str

    def start(self, kind: str) -> Start:
        """The start called `kind`."""
        return next(start for start in self.starts if start.kind == kind)

    def gain(self, over: str = "random") -> tuple[float, float]:
        """How far predicted parameters are ahead after training, as a fraction, and its standard
        error: of seeds (the same for both starts) and of the test images.
        """
        ours, theirs = self.start("predicted").trained, self.start(over).trained
        gains = [a - b for a, b in zip(ours, theirs, strict=True)]
        seeds = stdev(gains) ** 2 / len(gains) if len(gains) > 1 else 0.0
        n = self.n_test + 2  # a right and a wrong one more: 24 of 24 is no certainty
        both = [(mean(values) * self.n_test + 1) / n for values in (ours, theirs)]
        return mean(gains), math.sqrt(seeds + sum(p * (1 - p) for p in both) / n)

    def verdict(self) -> str:
        """The answer in one sentence."""
        gain, error = self.gain()
        told = f"({100 * gain:+.1f} points, standard error {100 * error:.1f})"
        if abs(gain) <= 2 * error:
            return f"No difference can be told between predicted and random parameters {told}."
        better = "better" if gain > 0 else "WORSE"
        return f"Predicted parameters are a {better} start than random ones {told}."

    def to_dict(self) -> dict[str, Any]:
        """All of it, and gain and verdict, as JSON types."""
        gain, error = self.gain()
        return {**asdict(self), "gain": gain, "gain_error": error, "verdict": self.verdict()}

    def draw(self, path: Path) -> None:
        """Draws validation accuracy against steps, a line per seed.

        Raises:
            ConfigError: matplotlib is not installed, or does not know the format of `path`.
        """
        try:
            from matplotlib.figure import Figure
        except ImportError as error:
            raise ConfigError("the plot needs matplotlib: pip install matplotlib") from error
        figure = Figure(figsize=(6.4, 4.0), layout="constrained")
        axes = figure.add_subplot()
        colours, dashes = ("#0072b2", "#d55e00", "#009e73"), ("-", "--", ":")
        for start, colour, dash in zip(self.starts, colours, dashes, strict=True):
            for number, (steps, values) in enumerate(
                zip(start.step, start.val_accuracy, strict=True)
            ):
                label = start.kind if number == 0 else None
                percent = [100 * value for value in values]
                axes.plot(steps, percent, dash, color=colour, label=label, marker="o", ms=3)
        axes.set(xlabel="steps of training", ylabel="validation accuracy, %")
        axes.set_title(f"{self.network} on {self.images}", fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
        write_figure(figure, path, dpi=150)


def compare(
    make: Callable[[], nn.Module],
    train: Images,
    val: Images,
    test: Images,
    hypernetwork: GHN,
    config: FinetuneConfig | None = None,
    *,
    lrs: Sequence[float] = RATES,
    seeds: int = 3,
    name: str = "",
    device: str = "cpu",
    on_training: Callable[[str, int, float], None] | None = None,
) -> Comparison:
    """Trains a network from predicted, random and orthogonal parameters.

    Args:
        make: gives the network, freshly initialised; called under a seed.
        train, val, test: images, normalised as the network takes them.
        hypernetwork: which predicts.
        config: of training; its learning rate is replaced by each of `lrs`.
        lrs: learning rates, above 0, tried by all starts.
        seeds: how many seeds, of the initialisation and the order of the images.
        name: of the network, for what is printed.
        device: where to train.
        on_training: is told start, seed and learning rate before each training.

    Raises:
        ConfigError: there is no learning rate or seed, a learning rate is not above 0, or a set of
            images is empty.
        GHNError: the network cannot be traced or written, or images and network do not fit.
    """
    if not lrs or seeds < 1:
        raise ConfigError(f"lrs = {tuple(lrs)}, seeds = {seeds}: give one of each at least")
    if wrong := [lr for lr in lrs if not 0 < lr < math.inf]:
        raise ConfigError(f"learning rate {wrong[0]:g} is not above 0 and finite; try {RATES[0]}")
    require_images(training=train, validation=val, test=test)
    config = config or FinetuneConfig()
    config = config.model_copy(update={"evaluate_at": config.evaluate_at or _stops(config.steps)})
    example = next(iter(test.batches(2, shuffle=False)))[0]
    starts, report = [], ""
    for kind in STARTS:
        start = Start(kind, [], [], [], [], [])
        for seed in range(seeds):
            model, said = _started(make, kind, seed, hypernetwork, example, device)
            report = said or report
            start.untrained.append(evaluate(model, test, config, train))
            best = -1.0
            for lr in lrs:
                if on_training:
                    on_training(kind, seed, lr)
                model, _ = _started(make, kind, seed, hypernetwork, example, device)
                one = config.model_copy(update={"lr": lr})
                curve = finetune(model, train, val, one, seed=seed)
                if curve.final > best:
                    best, chosen, found = curve.final, lr, curve
                    accuracy = evaluate(model, test, one, train)
            start.trained.append(accuracy)
            start.lr.append(chosen)
            start.step.append(found.step)
            start.val_accuracy.append(found.val_accuracy)
        starts.append(start)
    shown = getattr(train, "name", "") or "images"
    return Comparison(name, shown.split("/")[0], len(test), config.steps, starts, report)


def _stops(steps: int) -> tuple[int, ...]:
    """Where to look along the way: early, where starts differ most, and later."""
    return tuple(sorted({max(1, steps * share // 100) for share in (5, 10, 25, 50)}))


def _started(
    make: Callable[[], nn.Module],
    kind: str,
    seed: int,
    hypernetwork: GHN,
    example: torch.Tensor,
    device: str,
) -> tuple[nn.Module, str]:
    """The network, initialised in one of the ways, and what the hypernetwork says of it."""
    with seeded(seed):
        model = make().to(device)
    if kind == "predicted":
        hypernetwork(model, example_inputs=example)
        break_symmetry(model, seed=seed)
        return model, str(hypernetwork.reports[0])
    if kind == "orthogonal":
        orthogonal(model, seed=seed)
    return model, ""
