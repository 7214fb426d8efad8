"""The hypernetworks that experiments name: trained by a recipe of the profile, or fetched, into
models/<name>.

They train as the pipeline's does, by stage `train`: with as many ranks as the recipe says, from the
last checkpoint on.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from contextlib import AbstractContextManager, nullcontext

from flows.compute.parent import exit_with_parent
from flows.compute.ranks import run_training
from flows.experiments.catalogue import Profile, load_profile
from flows.networks.targets import open_split
from flows.params import Params, load_params
from flows.rows.code import code_digest
from flows.settings import paths
from flows.settings.images import ImagesConfig, ImagesSpec
from flows.stages import train
from flows.stages.runner import start
from flows.tracking.run import StageRun, stage_run
from flows.training.outcome import SUMMARY_NAME
from flows.training.phases import population_of
from flows.trials.images import images_digest, trial_images
from flows.trials.located import source_stamp
from flows.trials.weights import weights_content
from ghn.errors import ConfigError, GHNError
from ghn.files import atomic_path

RECIPE_NAME = "recipe.json"
"""Beside the weights: what they came from."""


class TrainingFailedError(GHNError):
    """A rank ended without weights; it has said why."""


def obtain(profile_name: str, name: str) -> None:
    """Puts hypernetwork `name` of a profile into models/<name>, unless it is there by the same
    recipe.

    Raises:
        ConfigError: the profile has no hypernetwork of that name, or the pipeline's has it.
        TrainingFailedError: training failed.
        KeyboardInterrupt: it was interrupted; the next call continues.
    """
    profile = load_profile(profile_name)
    if name not in profile.hypernetworks:
        raise ConfigError(
            f"profile {profile_name} has no hypernetwork {name!r}, but"
            f" {', '.join(profile.hypernetworks) or 'none at all'}"
        )
    if name == load_params().base.ghn:
        raise ConfigError(
            f"{paths.model(name)} has the hypernetwork of the pipeline (base.ghn), which"
            f" hypernetworks.{name} of profile {profile_name} would replace; give it another name"
        )
    if not is_missing(profile, name):
        return
    known = profile.hypernetworks[name]
    if known.released is not None:
        from ghn import from_pretrained, save_checkpoint

        save_checkpoint(from_pretrained(known.released), paths.weights(name))
    else:
        trial_images(profile.images_of(name))  # decoded once, before the ranks look for them
        config = profile.train_config(name)
        if code := run_training(
            config.processes,
            config.meta_batch_size,
            load_params().base.device,
            lambda: _train(profile, name),
            __name__,
            profile_name,
            name,
            per_gpu=config.ranks_per_gpu,
        ):
            if code == 128 + signal.SIGINT:
                raise KeyboardInterrupt
            raise TrainingFailedError(
                f"training {name} ended with exit code {code}; the same command continues"
            )
    # A metric of the pipeline's only, which git keeps; curve.json ends with the same.
    (paths.model(name) / SUMMARY_NAME).unlink(missing_ok=True)
    with atomic_path(paths.model(name) / RECIPE_NAME) as temporary:
        temporary.write_text(json.dumps(recipe(profile, name), indent=2) + "\n")


def is_missing(profile: Profile, name: str) -> bool:
    """Whether hypernetwork `name` of the profile has to be trained, or fetched."""
    stamp = paths.model(name) / RECIPE_NAME
    if not (stamp.exists() and paths.weights(name).exists()):
        return True
    try:
        made_by = json.loads(stamp.read_text())
    except ValueError:  # damaged
        return True
    return bool(made_by != recipe(profile, name))


def recipe(profile: Profile, name: str) -> dict[str, object]:
    """All that decides a trained hypernetwork; of a released one its name and what that means."""
    known = profile.hypernetworks[name]
    if known.released is not None:
        return {"released": known.released, "content": source_stamp(known.released)}
    train_config, images = profile.train_config(name), profile.images_of(name)
    initial, population = train_config.initial, population_of(train_config)
    drawn = {} if population is None else {"population": population.content}
    return drawn | {
        "seed": _seed(profile, name),
        "train": train_config.model_dump(mode="json"),
        "initial": None if initial is None else weights_content(initial),
        "images": images.model_dump(mode="json"),
        "pixels": images_digest(images),
        "architectures": [
            open_split(paths.DEEPNETS, split).content for split in (train_config.split, "val")
        ],
        "code": code_digest("flows.stages.train"),
    }


def _seed(profile: Profile, name: str) -> int:
    seed = profile.hypernetworks[name].seed
    return profile.seed if seed is None else seed


def _train(profile: Profile, name: str) -> None:
    """Trains as the stage `train` does: the only process, or one rank of several."""
    params = _stage_params(profile, name, load_params())
    is_main = int(os.environ.get("RANK", "0")) == 0
    told = {"base": params.base, "images": params.images, "train": params.train}
    tree = {key: section.model_dump(mode="json") for key, section in told.items()}
    tracked: AbstractContextManager[StageRun | None] = (
        stage_run(
            f"hypernetwork@{name}",
            tree,
            outputs=[paths.weights(name)],
            experiment=params.base.experiment,
        )
        if is_main
        else nullcontext()
    )
    with tracked as stage:
        start(train.run, params, stage)


def _stage_params(profile: Profile, name: str, params: Params) -> Params:
    """The tree's parameters with the name, the images and the recipe of hypernetwork `name`.

    Its seed is that of the training alone: its images are split by their own.
    """
    spec: ImagesSpec = profile.images_of(name)
    fields = {field: getattr(spec, field) for field in ImagesConfig.model_fields}
    base = params.base.model_copy(update={"ghn": name, "seed": spec.seed})
    config = profile.train_config(name).model_copy(update={"seed": _seed(profile, name)})
    return params.model_copy(
        update={"base": base, "images": ImagesConfig(**fields), "train": config}
    )


def main() -> None:
    """One rank; what stops all ranks alike is said by the first."""
    exit_with_parent()
    profile_name, name = sys.argv[1:]
    try:
        _train(load_profile(profile_name), name)
    except GHNError as error:
        sys.exit(
            f"experiments: {error}" if int(os.environ.get("RANK", "0")) == 0 else error.exit_code
        )
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)


if __name__ == "__main__":
    main()
