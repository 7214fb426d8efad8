"""Stage report: one self-contained page with every result next to the published ones, and the raw
rows as CSV beside it.

The page depends on its inputs alone (no date, no machine), so the same results give the same bytes.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from flows.report import (
    Block,
    Section,
    cifar10,
    evaluation,
    families,
    learning,
    pipeline,
    render,
    samples,
    torchvision,
    transfer,
    use,
    verdict,
)
from flows.report.evaluation import DEEPNETS, Setting, column, good
from flows.report.published import published
from flows.report.rows import as_csv
from flows.report.trained import trained_on
from flows.rows.provenance import dvc_hash
from flows.rows.schema import Row, failures, read_rows, sound
from flows.settings import paths
from flows.settings.base import BaseConfig
from flows.settings.images import ImagesConfig
from flows.settings.inits import RANDOM
from flows.settings.register import RegisterConfig
from flows.settings.report import ReportConfig
from flows.settings.train import TrainStageConfig
from flows.trials.statistics import compare
from flows.words import percent
from ghn.errors import DamagedFileError
from ghn.files import atomic_path

if TYPE_CHECKING:
    from datasets.deepnets import Split
    from flows.tracking.run import StageRun
    from ghn.graph import Graph


def run(
    base: BaseConfig,
    images: ImagesConfig,
    train: TrainStageConfig,
    report: ReportConfig,
    register: RegisterConfig,
    stage: StageRun,
) -> None:
    """Writes reports/index.html from the results of all stages, and their rows to
    reports/rows/*.csv.
    """
    tables = {
        "evaluation": read_rows(paths.EVALUATION),
        "predictions": read_rows(paths.PREDICTIONS),
        "finetune": read_rows(paths.FINETUNE),
        "transfer": read_rows(paths.TRANSFER),
    }
    page = build(base, images, train, report, register, tables)
    for name, rows in tables.items():
        with atomic_path(paths.REPORT_ROWS / f"{name}.csv") as temporary:
            temporary.write_text(as_csv(rows))
    with atomic_path(paths.REPORT) as temporary:
        temporary.write_text(page)
    stage.log_artifact(paths.REPORT)


def build(
    base: BaseConfig,
    images: ImagesConfig,
    train: TrainStageConfig,
    report: ReportConfig,
    register: RegisterConfig,
    tables: dict[str, list[Row]],
) -> str:
    """The page. Raises DamagedFileError where a result is missing or unreadable."""
    ghn = base.ghn
    evaluated, predictions = tables["evaluation"], tables["predictions"]
    finetuned, transferred = tables["finetune"], tables["transfer"]
    paper, table_20 = published("paper"), published("pytorch74")
    setting, classes, graphs = setting_of(base, images, train, evaluated)
    judged = verdict.judge(report.targets, ghn, setting, evaluated, finetuned, transferred)
    curve = read_curve(paths.model(ghn) / "curve.json")
    sections: list[Section | None] = [
        pipeline.pipeline(pipeline.gave(setting, tables, curve, ghn, register.name)),
        verdict.targets(judged),
        trained_on(setting, train, evaluated, finetuned, transferred),
        evaluation.generalisation(
            evaluated, setting, report.bins, paper, beside_published(evaluated, setting)
        ),
        families.families(evaluated, finetuned, ghn, setting),
        learning.finetuning(finetuned, ghn, setting, paper),
        samples.sample_images(finetuned, classes, ghn),
        samples.first_filters(finetuned, ghn),
        transfer.transfer(transferred, ghn, paper),
        torchvision.torchvision_table(evaluated, predictions, finetuned, ghn, table_20, setting),
        learning.learning_curve(curve, read_steps(paths.model(ghn) / "steps.csv"), setting),
        samples.graphs(graphs, best_graph(evaluated, setting)),
        evaluation.coverage(predictions),
        evaluation.failures(
            ("predict", predictions),
            ("evaluate", evaluated),
            ("finetune", finetuned),
            ("transfer", transferred),
        ),
        use.use(paths.weights(ghn), register.name),
    ]
    return render(
        report.title,
        verdict.first_sentence(ghn, finetuned, transferred, judged),
        tiles(tables, ghn),
        [section for section in sections if section is not None],
        provenance(base, images, train),
        {f"{name}.csv": as_csv(rows) for name, rows in tables.items()},
        verdict.untrained(evaluated, setting),
    )


def beside_published(evaluated: Sequence[Row], setting: Setting) -> list[Block]:
    """The published results on CIFAR-10 with ours, where ours are on CIFAR-10 too."""
    if setting.images != cifar10.IMAGES:
        return []
    ours = {split: column(good(evaluated, split), "accuracy") for split in DEEPNETS}
    title = f"ours, {setting.image_size} pixels"
    measured = {split: values for split, values in ours.items() if values.size}
    return [cifar10.beside_published({title: measured}, published("cifar10"))]


def setting_of(
    base: BaseConfig, images: ImagesConfig, train: TrainStageConfig, evaluated: Sequence[Row]
) -> tuple[Setting, Sequence[str], list[Graph]]:
    """Returns what the numbers were measured on, the names of its classes, and some training
    graphs.
    """
    from datasets.deepnets import open_split
    from flows.stages.images import load_split
    from ghn import from_pretrained

    weights = from_pretrained(paths.weights(base.ghn))
    measured = [row["images"] for row in sound(evaluated)] or [0]
    split = open_split(paths.DEEPNETS, train.split)
    test = load_split(images, base.seed, "test")
    setting = Setting(
        images=images.name,
        image_size=images.image_size,
        classes=test.num_classes,
        test_images=(min(measured), max(measured)),
        ghn_parameters=sum(parameter.numel() for parameter in weights.parameters()),
        train_architectures=len(split),
        steps=int(weights.metadata.get("step", train.steps)),
        stretches=weights.metadata.get("stretches", ()),
    )
    return setting, test.classes, typical(split)


def typical(split: Split) -> list[Graph]:
    """The graphs of a split's first hundred that have the fewest nodes, a quarter's and a half's
    place among them.
    """
    found = sorted(
        (split.graph(index) for index in range(min(100, len(split)))),
        key=lambda graph: (graph.n_nodes, graph.name),
    )
    places = sorted({0, len(found) // 4, len(found) // 2})
    return [found[place] for place in places if place < len(found)]


def best_graph(evaluated: Sequence[Row], setting: Setting) -> Graph | None:
    """The graph of the network that is most accurate without training, if any was evaluated."""
    from flows.networks.build import build_network

    members = good(evaluated, *DEEPNETS, "torchvision")
    if not members:
        return None
    best = max(members, key=lambda row: row["accuracy"])["architecture"]
    return build_network(best, setting.classes, setting.image_size, "meta")[1]


def tiles(tables: Mapping[str, Sequence[Row]], ghn: str) -> list[tuple[str, str, str]]:
    """Key figures: value, what, beside what. Training comes first: it is what parameters are
    predicted for.
    """
    found = []
    for name, title in (("finetune", "fine-tuned"), ("transfer", "transferred")):
        if (result := compare(tables[name], ghn, RANDOM)) is not None:
            interval = f"95 %: {100 * result.low:+.1f} to {100 * result.high:+.1f}"
            over = f"points over random parameters, {title} ({result.n})"
            found.append((f"{100 * result.mean_difference:+.1f}", over, interval))
    evaluated = tables["evaluation"]
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
    if any(tables.values()):
        rows = [row for members in tables.values() for row in members]
        failed = len(failures(rows))
        found.append((f"{len(rows) - failed:,}", "measurements", f"{failed} failed"))
    return found


def provenance(base: BaseConfig, images: ImagesConfig, train: TrainStageConfig) -> dict[str, str]:
    """Lists what the page was made from."""
    changed = train.model_dump(mode="json", exclude_defaults=True)
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
        "parameters of training": ", ".join(
            f"{name} {value}" for name, value in sorted(changed.items())
        ),
        "time and machine": (
            "in the MLflow run of each stage, and by network in results/timings; not here, so that"
            " the same results give the same page"
        ),
        **{f"DVC hash of {name}": f"{dvc_hash(path)} ({path})" for name, path in sources.items()},
        "published numbers": (
            "Knyazev, Hwang, Lacoste-Julien: Can We Scale Transformers to Predict Parameters of"
            " Diverse ImageNet Models? ICML 2023, and the results published beside"
            " SamsungSAILMontreal/ghn3 (MIT)"
            "; for CIFAR-10 Knyazev et al., NeurIPS 2021, and facebookresearch/ppuda (MIT)"
        ),
    }


def read_curve(path: Path) -> list[dict[str, float]]:
    """The evaluations along the training of the hypernetwork on networks of the val split; none if
    it was evaluated on others alone (`train.curve_architectures: 0`).
    """
    try:
        curve: list[dict[str, float]] = json.loads(path.read_text())
        return [
            {key: float(entry[key]) for key in ("step", "val_mean", "val_best")}
            for entry in curve
            if entry.keys() & {"val_mean", "val_best"}
        ]
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise DamagedFileError(
            f"{path} cannot be read ({error}); `dvc repro --force train` makes it anew"
        ) from None


def read_steps(path: Path) -> list[dict[str, float]]:
    """Reads the steps of a training from its CSV file."""
    try:
        with path.open(newline="") as file:
            return [
                {name: float(row[name]) for name in ("step", "cross_entropy", "accuracy")}
                for row in csv.DictReader(file)
            ]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise DamagedFileError(
            f"{path} cannot be read ({error}); `dvc repro --force train` makes it anew"
        ) from None
