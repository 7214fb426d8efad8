"""Change any one input of a row, and its key is another; change nothing, and it is the same."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from datasets.deepnets.generation.config import GenerateConfig
from datasets.deepnets.generation.generate import generate_split
from datasets.images import ImageTensors
from flows.networks import content
from flows.networks.content import architecture_content
from flows.networks.targets import Target
from flows.rows import engine
from flows.settings import paths
from flows.settings.evaluate import EvaluateConfig
from flows.settings.fanout import FanOut
from flows.settings.images import ImagesSpec
from flows.settings.trials import Grid
from flows.stages import evaluate
from flows.trials import spec as trial_spec
from flows.trials.initialise import forget_hypernetworks
from flows.trials.spec import Trial
from flows.trials.weights import weights_content
from ghn.baselines.config import GradInitConfig
from ghn.checkpoint import save_checkpoint
from ghn.errors import UnknownArchitectureError
from ghn.finetune.config import FinetuneConfig
from ghn.models import GHN, GHNConfig

SMALL = {"n_cells": (4, 5), "steps": (1, 2)}
DIGITS = ImagesSpec(name="digits", image_size=8, max_train=64, max_val=32, max_test=32)


def split(seed: int) -> None:
    config = GenerateConfig(splits={"test": {"size": 4, **SMALL}})
    shutil.rmtree(paths.DEEPNETS, ignore_errors=True)
    generate_split(paths.DEEPNETS, "test", config, seed, map)


def hypernetwork(seed: int, path: Path) -> GHN:
    torch.manual_seed(seed)
    ghn = GHN(GHNConfig.from_dict(GHNConfig.variant("ghn3-t", 10).to_dict() | {"layers": 1}))
    save_checkpoint(ghn, path)
    return ghn


@pytest.fixture(autouse=True)
def _tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    split(1)
    hypernetwork(1, paths.weights("g"))


def trial(**changes: object) -> Trial:
    fields = {"architecture": "deepnets1m/test/0", "init": "g", "seed": 3, "images": DIGITS}
    return Trial(**{**fields, "grid": Grid(lr=(0.1,)), **changes})


def keys(**changes: object) -> set[str]:
    one = trial(**changes)
    return set(one.keys(one.data_hash()))


@pytest.mark.parametrize(
    "change",
    [
        {"architecture": "deepnets1m/test/1"},
        {"architecture": "resnet18"},
        {"init": "randinit"},
        {"seed": 4},
        {"images": DIGITS.model_copy(update={"max_train": 60})},
        {"images": DIGITS.model_copy(update={"seed": 1})},
        {"images": DIGITS.model_copy(update={"image_size": 16})},
        {"grid": Grid(lr=(0.2,))},
        {"grid": Grid(lr=(0.1,), optimizer=("adamw",))},
        {"finetune": FinetuneConfig(steps=7)},
        {"finetune": FinetuneConfig(label_smoothing=0.1)},
        {"beta": 1e-3},
        {"source_images": DIGITS},
        {"pretrain": FinetuneConfig(steps=1)},
        {"keep_logits": True},
    ],
    ids=str,
)
def test_each_field_of_a_trial_is_in_its_key(change: dict) -> None:
    assert keys() == keys()
    assert not keys() & keys(**change)


def test_settings_of_an_initialisation_count_for_that_one_only() -> None:
    other = {"gradinit": GradInitConfig(iterations=3)}
    assert keys(**other) == keys()
    assert not keys(init="gradinit", **other) & keys(init="gradinit")


def test_content_of_the_architecture_counts_and_another_split_s_does_not() -> None:
    before, named = keys(), keys(architecture="resnet18")
    contents = [architecture_content(f"deepnets1m/test/{i}") for i in range(4)]
    assert len(set(contents)) == 4
    split(1)
    assert [architecture_content(f"deepnets1m/test/{i}") for i in range(4)] == contents
    assert keys() == before
    split(2)
    assert not keys() & before
    assert keys(architecture="resnet18") == named
    with pytest.raises(UnknownArchitectureError, match="has 4 architectures"):
        architecture_content("deepnets1m/test/4")


def test_a_network_of_a_library_counts_with_its_version(monkeypatch: pytest.MonkeyPatch) -> None:
    named = ("resnet18", "vit_b_16_gap", "timm/resnet18", "timm/resnet18@nobn")
    before = [architecture_content(name) for name in named]
    assert len({*before}) == len(named)
    changed = {"timm": [False, False, True, True], "torchvision": [True, True, False, False]}
    for library, expected in changed.items():
        with monkeypatch.context() as patch:
            patch.setattr(content, "version", lambda name, own=library: f"{name == own}")
            others = [architecture_content(name) for name in named]
        with monkeypatch.context() as patch:
            patch.setattr(content, "version", lambda name: "False")
            none = [architecture_content(name) for name in named]
        assert [a != b for a, b in zip(others, none, strict=True)] == expected


def test_weights_count_by_content_whatever_leads_to_them(monkeypatch: pytest.MonkeyPatch) -> None:
    before, baseline = keys(), keys(init="randinit")
    hypernetwork(2, paths.weights("g"))
    assert not keys() & before
    assert keys(init="randinit") == baseline
    hypernetwork(1, paths.weights("g"))
    assert keys() == before

    registry = {"models:/g@champion": 1}
    monkeypatch.setattr(
        "ghn.from_pretrained", lambda name: hypernetwork(registry[name], Path("other.safetensors"))
    )
    first = weights_content("models:/g@champion")
    assert weights_content("models:/g@champion") == first
    registry["models:/g@champion"] = 2  # the alias moves
    forget_hypernetworks()
    assert weights_content("models:/g@champion") != first


def test_code_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    before = keys()
    monkeypatch.setattr(trial_spec, "code_digest", lambda module: "other")
    assert not keys() & before


def evaluation_keys(
    monkeypatch: pytest.MonkeyPatch, *, weights: str = "w", target: str = "0", **changes: object
) -> list[str]:
    """The keys of the stage evaluate's rows."""
    images = ImageTensors(
        torch.zeros(4, 3, 8, 8, dtype=torch.uint8), torch.arange(4), tuple("abcd"), (0.5,) * 3,
        (0.5,) * 3,
    )  # fmt: skip
    fields = {"images": images, "val": images, "config": EvaluateConfig(), "seed": 1, **changes}
    measure = evaluate.Evaluate(ghn=None, device="cpu", **fields)
    seen: list[str] = []
    monkeypatch.setattr(
        engine.Work,
        "rows",
        lambda work, *_: seen.extend(work.key(item) for item in work.items) or [],
    )
    chosen = [Target(f"deepnets1m/test/{target}", "test", int(target))]
    evaluate.evaluation_rows("t", "g", weights, measure, chosen, FanOut())
    return seen


def test_each_input_of_an_evaluation_is_in_its_key(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = torch.zeros(4, 3, 8, 8, dtype=torch.uint8)
    pixels[3, 2, 7, 7] = 1
    names, half = tuple("abcd"), (0.5,) * 3
    changes = [
        {},
        {"weights": "v"},
        {"target": "1"},
        {"seed": 2},
        {"config": EvaluateConfig(batch_size=2)},
        {"config": EvaluateConfig(max_gmacs=1.0)},
        {"config": EvaluateConfig(min_images=3)},
    ]
    others = [
        ImageTensors(pixels, torch.arange(4), names, half, half),
        ImageTensors(pixels * 0, torch.arange(4).flip(0), names, half, half),
        ImageTensors(pixels * 0, torch.arange(4), names, (0.4,) * 3, half),
        ImageTensors(pixels * 0, torch.arange(4), names, half, (0.4,) * 3),
    ]
    changes += [{part: other} for part in ("images", "val") for other in others]
    found = [evaluation_keys(monkeypatch, **change)[0] for change in changes]
    assert len(np.unique(found)) == len(changes)
    assert evaluation_keys(monkeypatch) == found[:1]
    bins = {"config": EvaluateConfig(bins=7)}  # of the histogram, which is drawn from rows
    assert evaluation_keys(monkeypatch, **bins) == found[:1]
