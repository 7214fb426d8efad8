"""A training as DVCLive shows it, in an editor (DVC's extension for VS Code) while it runs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ghn.errors import ConfigError
from ghn.train import Callback, StepRecord, Training

DIRECTORY = Path("dvclive")
"""Where the numbers are; no output of a stage, and not in git."""

_SHOWN = ("loss", "cross_entropy", "accuracy", "gradient_norm", "lr", "images_per_second")


class LiveNumbers(Callback):
    """Writes what a run reports with DVCLive, with a dvc.yaml of its own that has the plots.

    Raises:
        ConfigError: DVCLive is not installed.
    """

    def __init__(self) -> None:
        try:
            from dvclive.live import Live
        except ImportError:
            raise ConfigError(
                "train.live needs DVCLive: pip install dvclive, or set it to false"
            ) from None
        self._kind: Any = Live
        self._live: Any = None

    def on_start(self, training: Training) -> None:
        """Begins anew, or goes on where the run does."""
        self._live = self._kind(
            str(DIRECTORY),
            resume=training.step > 0,
            report=None,
            save_dvc_exp=False,  # the pipeline and its experiments are DVC's own
            dvcyaml=str(DIRECTORY / "dvc.yaml"),
        )

    def on_report(self, training: Training, record: StepRecord) -> None:
        """Writes what is typical of the steps since the last report."""
        metrics = record.metrics()
        self._write(training, {name: metrics[name] for name in _SHOWN if name in metrics})

    def on_evaluation(self, training: Training, metrics: Mapping[str, float]) -> None:
        """Writes accuracies of unseen architectures."""
        self._write(training, {f"curve/{name}": value for name, value in metrics.items()})

    def _write(self, training: Training, metrics: Mapping[str, float]) -> None:
        if self._live is None:
            return
        self._live.step = training.step
        for name, value in metrics.items():
            self._live.log_metric(name, value)
        self._live.make_summary()

    def close(self) -> None:
        """Ends the files."""
        if self._live is not None:
            self._live.end()
            self._live = None
