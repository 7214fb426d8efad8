"""Stage report: one self-contained page with every result next to the published ones.

The page depends on its inputs alone (no date, no machine), so the same results give the same bytes.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from flows.report import Section, evaluation, learning, render, torchvision
from flows.report.evaluation import DEEPNETS, Setting, column, good, percent
from flows.rows.provenance import dvc_hash
from flows.rows.schema import Row, read_rows
from flows.settings import paths
from flows.settings.base import BaseConfig
from flows.settings.images import ImagesConfig
from flows.settings.report import ReportConfig
from flows.settings.train import TrainStageConfig
from ghn.errors import DamagedFileError
from ghn.files import atomic_path

if TYPE_CHECKING:
    from flows.tracking.run import StageRun


def run(
    base: BaseConfig,
    images: ImagesConfig,
    train: TrainStageConfig,
    report: ReportConfig,
    stage: StageRun,
) -> None:
    """Writes reports/index.html from the results of all stages."""
    page = build(base, images, train, report)
    with atomic_path(paths.REPORT) as temporary:
        temporary.write_text(page)
    stage.log_artifact(paths.REPORT)


def build(
    base: BaseConfig, images: ImagesConfig, train: TrainStageConfig, report: ReportConfig
) -> str:
    """The page. Raises DamagedFileError where a result is missing or unreadable."""
    ghn = base.ghn
    evaluated, predictions = read_rows(paths.EVALUATION), read_rows(paths.PREDICTIONS)
    finetuned, transferred = read_rows(paths.FINETUNE), read_rows(paths.TRANSFER)
    paper = json.loads((paths.PUBLISHED / "paper.json").read_text())
    table_20 = json.loads((paths.PUBLISHED / "pytorch74.json").read_text())
    setting = setting_of(base, images, train, evaluated)
    sections: list[Section | None] = [
        evaluation.generalisation(evaluated, setting, report.bins, paper),
        learning.finetuning(finetuned, setting, paper),
        learning.transfer(transferred, paper),
        torchvision.torchvision_table(evaluated, predictions, finetuned, ghn, table_20, setting),
        learning.learning_curve(
            read_curve(paths.model(ghn) / "curve.json"),
            read_steps(paths.model(ghn) / "steps.csv"),
            setting,
        ),
        evaluation.coverage(predictions),
        evaluation.failures(
            ("predict", predictions),
            ("evaluate", evaluated),
            ("finetune", finetuned),
            ("transfer", transferred),
        ),
    ]
    return render(
        report.title,
        headline(evaluated, setting),
        tiles(evaluated, predictions, setting),
        [section for section in sections if section is not None],
        provenance(base, images, train),
        {
            "evaluation.csv": as_csv(evaluated),
            "predictions.csv": as_csv(predictions),
            "finetune.csv": as_csv(finetuned),
        },
    )


def setting_of(
    base: BaseConfig, images: ImagesConfig, train: TrainStageConfig, evaluated: Sequence[Row]
) -> Setting:
    """Says what the numbers were measured on."""
    from datasets.deepnets import open_split
    from flows.stages.images import load_split
    from ghn import from_pretrained

    weights = from_pretrained(paths.weights(base.ghn))
    measured = [row["images"] for row in evaluated if row["error"] is None] or [0]
    return Setting(
        images=images.name,
        image_size=images.image_size,
        classes=load_split(images, base.seed, "test").num_classes,
        test_images=(min(measured), max(measured)),
        ghn_parameters=sum(parameter.numel() for parameter in weights.parameters()),
        train_architectures=len(open_split(paths.DEEPNETS, train.split)),
        steps=train.steps,
    )


def headline(evaluated: Sequence[Row], setting: Setting) -> str:
    """The main result in words, whichever way it came out."""
    test = good(evaluated, "test") or good(evaluated, *DEEPNETS)
    if not test:
        return "No architecture could be evaluated."
    predicted, random = column(test, "accuracy"), column(test, "randinit_accuracy")
    sigma = (predicted - random).std(ddof=1) / np.sqrt(len(test)) if len(test) > 1 else float("nan")
    difference = float((predicted - random).mean())
    verdict = "clearly above" if difference > 3 * sigma else "not clearly above"
    return (
        f"On {setting.images}, the parameters that the hypernetwork predicts for {len(test)}"
        f" networks it has never seen classify {percent(float(predicted.mean()))} of held-out"
        " images correctly without any training (standard deviation over networks"
        f" {percent(float(predicted.std()))}): {verdict} random initialisation,"
        f" {percent(float(random.mean()))} ± {percent(float(random.std()))}, with chance at"
        f" {percent(setting.chance)}."
    )


def tiles(
    evaluated: Sequence[Row], predictions: Sequence[Row], setting: Setting
) -> list[tuple[str, str, str]]:
    """Key figures: value, what, beside what."""
    found = []
    for what, splits in (
        ("unseen DeepNets-1M networks, untrained", DEEPNETS),
        ("torchvision models, untrained", ("torchvision",)),
    ):
        if members := good(evaluated, *splits):
            random = percent(float(column(members, "randinit_accuracy").mean()))
            found.append(
                (percent(float(column(members, "accuracy").mean())) or "", what, f"random {random}")
            )
    if members := good(evaluated, *DEEPNETS, "torchvision"):
        best = max(members, key=lambda row: row["accuracy"])
        found.append(
            (percent(best["accuracy"]) or "", "best network, untrained", best["architecture"])
        )
    if predictions:
        members = good(predictions, *DEEPNETS, "torchvision")
        errors = len(predictions) - len(members)
        found.append(
            (
                f"{len(members)}",
                "networks predicted",
                f"{errors} failed",
            )
        )
    return found


def provenance(base: BaseConfig, images: ImagesConfig, train: TrainStageConfig) -> dict[str, str]:
    """Lists what the page was made from."""
    sources = {
        "hypernetwork": paths.weights(base.ghn),
        "training architectures": paths.DEEPNETS / f"{train.split}.h5",
        "images": paths.images(images.name),
        "evaluation": paths.EVALUATION,
        "fine-tuning": paths.FINETUNE,
        "transfer": paths.TRANSFER,
    }
    return {
        "seed": str(base.seed),
        **{f"DVC hash of {name}": f"{dvc_hash(path)} ({path})" for name, path in sources.items()},
        "published numbers": (
            "Knyazev, Hwang, Lacoste-Julien: Can We Scale Transformers to Predict Parameters of"
            " Diverse ImageNet Models? ICML 2023, and the results published beside"
            " SamsungSAILMontreal/ghn3 (MIT)"
        ),
    }


def read_curve(path: Path) -> list[dict[str, float]]:
    """The evaluations along the training of the hypernetwork."""
    try:
        curve: list[dict[str, float]] = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise DamagedFileError(
            f"{path} cannot be read ({error}); `dvc repro --force train` makes it anew"
        ) from None
    return curve


def read_steps(path: Path) -> list[dict[str, float]]:
    """Reads the steps of a training from its CSV file."""
    try:
        with path.open(newline="") as file:
            return [
                {name: float(value) for name, value in row.items()} for row in csv.DictReader(file)
            ]
    except (OSError, ValueError) as error:
        raise DamagedFileError(
            f"{path} cannot be read ({error}); `dvc repro --force train` makes it anew"
        ) from None


def as_csv(rows: Sequence[Row]) -> str:
    """Rows as CSV, lists as JSON; what is kept per image is left out."""
    if not rows:
        return ""
    buffer = io.StringIO()
    names = [name for name in rows[0] if name not in ("correct", "val_correct")]
    writer = csv.DictWriter(buffer, names, extrasaction="ignore")
    writer.writeheader()
    for row in rows:
        writer.writerow(
            {
                key: json.dumps(value) if isinstance(value, list) else value
                for key, value in row.items()
            }
        )
    return buffer.getvalue()
