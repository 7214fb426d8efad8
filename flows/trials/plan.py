"""From a description of work to its trials, and from rows to the architectures that are trained."""

from __future__ import annotations

from collections.abc import Sequence

from flows.rows.schema import Row
from flows.settings import paths
from flows.settings.images import ImagesSpec
from flows.settings.trials import TrialsConfig
from flows.trials.spec import Trial
from ghn.errors import DamagedFileError


def plan(
    work: TrialsConfig,
    architectures: Sequence[str],
    *,
    seed: int,
    images: ImagesSpec,
    device: str,
) -> dict[str, list[Trial]]:
    """The trials of each part of `work`, by its name: for each of `architectures` (ids), then each
    initialisation, then each seed from `seed` on.

    Args:
        images: where `work` names none.
    """
    return {
        part.name: [
            Trial(
                architecture=architecture,
                init=init,
                seed=seed + repetition,
                images=work.images or images,
                source_images=work.source_images,
                pretrain=work.pretrain,
                grid=part.grid,
                finetune=part.train,
                beta=work.beta,
                gradinit=work.gradinit,
                metainit=work.metainit,
                nio=work.nio,
                checkpoints=work.checkpoints,
                keep_logits=work.keep_logits,
                samples=work.samples,
                device=device,
            )
            for architecture in architectures
            if part.architectures is None or architecture in part.architectures
            for init in work.inits
            for repetition in range(work.seeds)
        ]
        for part in work.parts
    }


def choose(rows: Sequence[Row], top_k: int | None, max_gmacs: float | None) -> list[str]:
    """Ids of the architectures to fine-tune: of each split the `top_k` best by accuracy without
    fine-tuning, on validation images: the test images are for what comes out.

    Those that cost more than `max_gmacs` are passed over, so that a laptop's budget is spent on
    several networks rather than on one.

    Raises:
        DamagedFileError: no row has an accuracy.
    """
    chosen: list[str] = []
    usable = [row for row in rows if row["error"] is None]
    if not usable:
        raise DamagedFileError(
            f"{paths.EVALUATION}: no architecture has an accuracy; see its column `error`"
        )
    for split in dict.fromkeys(row["split"] for row in usable):
        ranked = sorted(
            (row for row in usable if row["split"] == split), key=lambda row: -row["val_accuracy"]
        )
        taken = 0
        for row in ranked:
            if top_k is not None and taken == top_k:
                break
            identifier = row["architecture"]
            if max_gmacs is not None and row["gmacs"] > max_gmacs:
                continue
            if identifier not in chosen:
                chosen.append(identifier)
                taken += 1
    return chosen
