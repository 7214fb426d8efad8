"""Trials on tiny networks and real digits, in this process."""

import base64
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from flows.compute.fanout import FanOut
from flows.rows.schema import IDENTITY, read_rows, write_rows
from flows.settings.images import ImagesSpec
from flows.settings.trials import Grid, Larger, Part, Selection, TrialsEntry
from flows.trials import execution as module
from flows.trials.execution import run_trials, with_new_head
from flows.trials.images import trial_images
from flows.trials.initialise import initialise
from flows.trials.plan import TrialSetting, entry_rows
from flows.trials.spec import COLUMNS, Trial
from ghn.architectures import build
from ghn.baselines import GradInitConfig, MetaInitConfig, NIOConfig
from ghn.errors import ConfigError
from ghn.finetune import FinetuneConfig, evaluate, finetune
from ghn.finetune.evaluation import lacks_statistics

DIGITS = ImagesSpec(name="digits", image_size=8, max_train=256, max_val=64, max_test=64)
HERE = FanOut(workers=1, max_error_share=1)


def tiny(num_classes):
    norm = nn.BatchNorm2d(8, track_running_stats=False)  # as the networks of DeepNets-1M have it
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), norm, nn.ReLU(), nn.Flatten(), nn.Linear(288, num_classes)
    )


@pytest.fixture(autouse=True)
def _tiny_networks(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(module, "build_network", lambda *args, **_: (tiny(args[1]), None))


@pytest.fixture
def trained(monkeypatch):
    """Learning rates that were really trained with, in order."""
    seen = []

    def recorded(model, train, val, config, **options):
        seen.append(config.lr)
        return finetune(model, train, val, config, **options)

    monkeypatch.setattr(module, "finetune", recorded)
    return seen


def run_trial(one):
    return run_trials([one], HERE, cache=Path("cache"))


def trial(**changes):
    values = {
        "architecture": "resnet18",
        "init": "randinit",
        "seed": 3,
        "images": DIGITS,
        "grid": Grid(lr=(1e-6, 0.05, 1e-5)),
        "finetune": FinetuneConfig(steps=6, batch_size=32, evaluate_at=(3,)),
    }
    return Trial(**{**values, **changes})


def test_each_point_is_a_row_and_only_the_chosen_one_is_tested(tmp_path):
    rows = run_trials([trial(), trial(init="orthogonal")], HERE)
    assert [(row["ghn"], row["lr"]) for row in rows] == [
        (init, lr) for init in ("randinit", "orthogonal") for lr in (1e-6, 1e-5, 0.05)
    ]
    for init in ("randinit", "orthogonal"):
        mine = [row for row in rows if row["ghn"] == init]
        chosen = [row for row in mine if row["selected"]]
        assert [row["lr"] for row in chosen] == [0.05]
        assert chosen[0]["final_val_accuracy"] == max(row["final_val_accuracy"] for row in mine)
        assert [row["test_accuracy"] is not None for row in mine] == [
            row["selected"] for row in mine
        ]
    assert all(row["step"] == [0, 3, 6] and len(row["val_accuracy"]) == 3 for row in rows)
    write_rows(tmp_path / "rows.parquet", rows, COLUMNS)
    assert set(read_rows(tmp_path / "rows.parquet")[0]) == {*IDENTITY, *COLUMNS}


def test_later_seeds_train_at_the_point_that_the_first_has_chosen(trained):
    entry = TrialsEntry(
        title="t",
        paper="p",
        difference="d",
        select=Selection(names=("resnet18",)),
        inits=("randinit", "orthogonal"),
        seeds=3,
        tune_each_seed=False,
        parts=(Part(grid=trial().grid, train=trial().finetune),),
    )
    rows = entry_rows(entry, TrialSetting(DIGITS, 3, "cpu"), HERE, "t")["main"]
    assert trained == 2 * [1e-6, 0.05, 1e-5] + 4 * [0.05]
    assert [(row["ghn"], row["seed"]) for row in rows] == [
        (init, seed) for init in entry.inits for seed in (3, 3, 3, 4, 5)
    ]
    assert [row["seed"] for row in rows if row["selected"]] == 2 * [3, 4, 5]
    assert all(row["lr"] == 0.05 for row in rows if row["selected"])


def test_what_a_trial_starts_from_is_measured_once(monkeypatch):
    given = []

    def recorded(*args, before=None, **options):
        given.append(before)
        return finetune(*args, before=before, **options)

    monkeypatch.setattr(module, "finetune", recorded)
    rows = run_trial(trial())
    (start,) = {row["val_accuracy"][0] for row in rows}
    assert given == [None, start, start]


def test_the_tested_network_is_the_chosen_one():
    """Recomputed by hand: initialise, train at the chosen rate, count right answers on the test
    images.
    """
    (chosen,) = [row for row in run_trial(trial()) if row["selected"]]
    train, val, test = trial_images(DIGITS)
    torch.manual_seed(3)
    model = tiny(10)
    config = FinetuneConfig(steps=6, batch_size=32, lr=0.05, evaluate_at=(3,))
    finetune(model, train, val, config, seed=3)
    assert evaluate(model, test, config) == chosen["test_accuracy"]
    assert chosen["n_test"] == len(test) == 64


def test_a_finished_trial_is_not_run_again(trained):
    first = run_trial(trial())
    assert trained == [1e-6, 0.05, 1e-5]
    assert run_trial(trial()) == first
    assert len(trained) == 3


def test_a_killed_trial_repeats_no_finished_point(trained, monkeypatch):
    def killed(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, "evaluate", killed)  # after all training, before the test
        with pytest.raises(KeyboardInterrupt):
            run_trial(trial())
    run_trial(trial())
    assert trained == [1e-6, 0.05, 1e-5]


def test_a_longer_grid_only_adds_points(trained):
    short = run_trial(trial(grid=Grid(lr=(0.05, 1e-6))))
    longer = run_trial(trial(grid=Grid(lr=(1e-6, 0.05, 0.02))))
    assert trained[:2] == [0.05, 1e-6]
    # the best is trained again if an old point is chosen: weights are gone
    assert trained[2:] in ([0.02], [0.02, 0.05])
    same = {row["lr"]: row["val_accuracy"] for row in short}
    assert all(row["val_accuracy"] == same[row["lr"]] for row in longer if row["lr"] in same)


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 4},
        {"beta": 1e-3},
        {"images": DIGITS.model_copy(update={"max_train": 128})},
        {"init": "orthogonal"},
        {"architecture": "resnet34"},
    ],
    ids=str,
)
def test_whatever_a_row_depends_on_changes_its_key(change):
    def keys(one):
        return set(one.keys(one.data_hash()))

    assert len(keys(trial())) == 3
    assert not keys(trial(**change)) & keys(trial())
    assert not keys(trial(finetune=FinetuneConfig(steps=7))) & keys(trial())
    assert keys(trial(grid=Grid(lr=(1e-5, 0.7)))) & keys(trial())


def test_a_failure_is_a_row(monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("no such shape")

    monkeypatch.setattr(module, "build_network", broken)
    (row,) = run_trials([trial()], HERE)
    assert row["error"] == "RuntimeError: no such shape"
    assert row["architecture"] == "resnet18"


def test_few_shot_choices_are_made_on_held_out_labels_of_the_few():
    spec = DIGITS.model_copy(
        update={"few_shot": 100, "few_shot_held_out": 0.2, "max_train": None, "max_val": None}
    )
    train, val, test = trial_images(spec)
    assert (len(train), len(val), len(test)) == (80, 20, 64)
    assert sorted(torch.cat([train.labels, val.labels]).bincount().tolist()) == [10] * 10

    def pictures(part):
        return {image.numpy().tobytes() for image in part.images}

    assert not pictures(train) & pictures(val)
    assert not pictures(val) & pictures(test)


def test_more_labels_than_there_are_name_the_field_that_asks_for_them():
    with pytest.raises(ConfigError, match=r"few_shot = 5000 \(transfer\.labels.*; ask for fewer"):
        trial_images(DIGITS.model_copy(update={"few_shot": 5000}))


def test_transfer_keeps_all_but_the_head(trained):
    source = DIGITS.model_copy(update={"few_shot": 50})
    start = module._Start(trial(source_images=source), trial_images(DIGITS)[0])
    torch.manual_seed(3)
    expected = tiny(10)
    model = start.model()
    assert torch.equal(model[0].weight, expected[0].weight)
    fresh, other = tiny(4), tiny(10)
    head = fresh[4].weight.detach().clone()
    with_new_head(fresh, other)
    assert torch.equal(fresh[0].weight, other[0].weight)
    assert torch.equal(fresh[0].bias, other[0].bias)
    assert torch.equal(fresh[4].weight, head)


def test_a_new_head_for_a_network_that_asks_for_the_version_of_a_state_dict():
    fresh, other = build("mnasnet0_5", 4, 32), build("mnasnet0_5", 10, 32)
    with_new_head(fresh, other)
    head = "classifier.1."
    assert fresh.classifier[1].out_features == 4
    for name, value in fresh.state_dict().items():
        assert name.startswith(head) or torch.equal(value, other.state_dict()[name]), name


def test_training_on_the_source_first_moves_the_start(trained):
    source = DIGITS.model_copy(update={"few_shot": 50})
    pretrain = FinetuneConfig(steps=2, lr=0.077)
    plain = module._Start(trial(source_images=source), trial_images(DIGITS)[0]).model()
    moved = module._Start(
        trial(source_images=source, pretrain=pretrain), trial_images(DIGITS)[0]
    ).model()
    assert trained == [0.077]
    assert not torch.equal(plain[0].weight, moved[0].weight)


def test_seeds_are_independent_and_reproducible():
    accuracy = [run_trial(trial(seed=seed))[-1]["val_accuracy"] for seed in (1, 2)]
    assert accuracy[0] != accuracy[1]
    assert np.isfinite(accuracy).all()


def test_answers_and_filters_are_kept_where_asked_for(tmp_path):
    rows = run_trial(trial(samples=5))
    (chosen,) = [row for row in rows if row["selected"]]
    test = trial_images(DIGITS)[2]
    pixels = np.frombuffer(base64.b64decode(chosen["sample_images"]), np.uint8)
    assert np.array_equal(pixels.reshape(5, 3, 8, 8), test.images[:5].numpy())
    assert chosen["sample_labels"] == test.labels[:5].tolist()
    assert len(chosen["sample_start"]) == len(chosen["sample_end"]) == 5
    torch.manual_seed(3)
    assert chosen["filters_shape"] == [8, 3, 3, 3]
    start = np.array(chosen["filters_start"], np.float32)
    assert np.array_equal(start, tiny(10)[0].weight.detach().numpy().ravel())
    assert not np.array_equal(start, np.array(chosen["filters"], np.float32))
    assert all("filters" not in row for row in rows if not row["selected"])
    write_rows(tmp_path / "rows.parquet", rows, COLUMNS)
    assert run_trial(trial(samples=5)) == rows  # from the cache, the same


def test_weights_selected_from_a_file_train_and_belong_to_the_key(trained, tmp_path):
    larger = nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU())
    path = tmp_path / "larger.pt"
    torch.save(larger.state_dict(), path)
    init = f"selection={path}"
    (row,) = [row for row in run_trial(trial(init=init, samples=1)) if row["selected"]]
    assert row["error"] is None
    start = np.array(row["filters_start"], np.float32).reshape(8, 3, 3, 3)
    assert np.array_equal(start, larger[0].weight.detach().numpy()[::2])
    before = trial(init=init).data_hash()
    torch.save({name: 2 * value for name, value in larger.state_dict().items()}, path)
    assert trial(init=init).data_hash() != before
    with pytest.raises(ConfigError, match="no file"):
        trial(init="selection=absent.pt").data_hash()


def test_weights_are_selected_from_a_larger_network_that_is_trained_first(trained, monkeypatch):
    made = []

    def build(name, num_classes, *_, **__):
        model = tiny(num_classes)
        if name == "resnet34":
            model[0], model[1] = nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16)
            model[4] = nn.Linear(576, num_classes)
            made.append((model, model[0].weight.detach().clone()))
        return model, None

    monkeypatch.setattr(module, "build_network", build)
    larger = Larger(architecture="resnet34", train=FinetuneConfig(steps=2, lr=0.077))
    rows = run_trial(trial(init="selection", larger=larger, samples=1))
    assert trained == [0.077, 1e-6, 0.05, 1e-5]  # once, for all points of the grid
    (chosen,) = [row for row in rows if row["selected"]]
    start = np.array(chosen["filters_start"], np.float32).reshape(8, 3, 3, 3)
    ((network, before),) = made
    assert np.array_equal(start, network[0].weight.detach().numpy()[::2])
    assert not torch.equal(network[0].weight, before)


def test_only_what_is_selected_depends_on_the_larger_network():
    larger = Larger(architecture="resnet34", train=FinetuneConfig(steps=2))
    longer = Larger(architecture="resnet34", train=FinetuneConfig(steps=3))
    for init, same in (("randinit", True), ("selection", False)):
        one, other = (trial(init=init, larger=which) for which in (larger, longer))
        assert (one.keys("x").keys() == other.keys("x").keys()) is same
    with pytest.raises(ConfigError, match=r"from selection.*`larger`"):
        trial(init="selection").data_hash()


def test_statistics_of_the_larger_network_are_not_taken_over(tmp_path):
    larger = nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU())
    larger(torch.randn(4, 3, 8, 8))
    path = tmp_path / "larger.pt"
    torch.save(larger.state_dict(), path)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(288, 10)
    )
    settings = {"gradinit_config": GradInitConfig(), "metainit_config": MetaInitConfig()}
    initialise(
        model, None, f"selection={path}", seed=1, train=None, image_shape=(3, 8, 8),
        num_classes=10, beta=0.0, nio_config=NIOConfig(), **settings,
    )  # fmt: skip
    assert torch.equal(model[0].weight, larger[0].weight[::2])
    assert lacks_statistics(model)
