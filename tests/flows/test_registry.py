"""Promotion and look-ups in a real MLflow registry (SQLite files)."""

from __future__ import annotations

import json
import math
import time
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INTERNAL_ERROR

from datasets.images import ImageTensors
from flows.networks.targets import Target
from flows.registry import approval, lookup, promotion
from flows.registry.comparison import Bools, standard_error
from flows.registry.drift import as_registered, drift, evaluated_anew
from flows.registry.evaluation import Evaluation, deciding, evaluation_of, read_evaluation
from flows.registry.promotion import decide
from flows.rows.answers import pack, unpack
from flows.rows.provenance import dvc_hash
from flows.rows.schema import IDENTITY, Row, identity, write_rows
from flows.settings import paths
from flows.settings.evaluate import EvaluateConfig
from flows.stages.evaluate import COLUMNS, Evaluate
from flows.tracking import stage_run
from flows.tracking.client import client
from flows.tracking.origin import HOLD_VARIABLE
from flows.tracking.spool import pending, send_pending
from ghn.errors import DamagedFileError
from ghn.models import GHN, GHNConfig

IMAGES = 64
NAMES = [f"deepnets1m/test/{i:02}" for i in range(40)] + [f"network{i}" for i in range(10)]
SPLITS = np.array(["test"] * 40 + ["torchvision"] * 10)
CONDITIONS = {"batch_size": 64, "images": IMAGES, "max_gmacs": 4.0, "min_images": 16, "seed": 1}


def logit(share: float) -> float:
    return math.log(share / (1 - share))


def answers(
    mean: float, rng: np.random.Generator, shared: np.random.Generator, own: float = 0.8
) -> Bools:
    """Right answers (A, I). Images differ in difficulty and architectures in worth, which all
    hypernetworks share (`shared`); each has a taste of its own for images (`own`).
    """
    size = len(NAMES), IMAGES
    rows = shared.normal(0, 0.6, (size[0], 1)) + rng.normal(0, 0.1, (size[0], 1))
    columns = shared.normal(0, 1.2, (1, size[1])) + rng.normal(0, own, (1, size[1]))
    chance = 1 / (1 + np.exp(-(logit(mean) + rows + columns + rng.normal(0, 0.1, size))))
    return np.asarray(rng.random(size) < chance)


def evaluation(mean: float, draw: int = 0, own: float = 0.1, **conditions: object) -> Evaluation:
    """Of a hypernetwork whose networks are right in about so many cases."""
    rng = np.random.default_rng(draw)
    return Evaluation(
        tuple(NAMES),
        SPLITS,
        np.ones((len(NAMES), IMAGES), bool),
        answers(mean, rng, np.random.default_rng(99), own),
        np.random.default_rng(98).random((len(NAMES), IMAGES)) < 0.1,
        CONDITIONS | conditions,
    )


def without(found: Evaluation, rows: slice) -> Evaluation:
    """The same, with errors in place of some architectures."""
    seen = found.seen.copy()
    seen[rows] = False
    return replace(found, seen=seen)


def test_answers_survive_the_way_through_text():
    for n in (1, 7, 8, 9, 64, 10_000):
        right = np.random.default_rng(n).random(n) < 0.5
        assert np.array_equal(unpack(pack(right), n), right)
    with pytest.raises(DamagedFileError, match="do not fit"):
        unpack(pack(np.ones(8, bool)), 9)
    with pytest.raises(DamagedFileError, match="cannot be read"):
        unpack("!", 8)


def test_the_noise_is_that_of_images_and_of_architectures():
    rng = np.random.default_rng(0)
    seen = np.ones((30, 20), bool)
    of_images = np.broadcast_to(rng.normal(size=(1, 20)), (30, 20)).astype(np.float32)
    of_architectures = np.broadcast_to(rng.normal(size=(30, 1)), (30, 20)).astype(np.float32)
    for values, n in ((of_images, 20), (of_architectures, 30)):
        expected = float(values.reshape(-1).std()) / n**0.5
        assert standard_error(values, seen, 4000) == pytest.approx(expected, rel=0.05)


def test_equally_good_hypernetworks_are_hardly_ever_promoted():
    """At most 5 %; by standard errors over architectures alone it would be a fifth and more."""
    promoted = naive = 0
    for trial in range(200):
        shared = [np.random.default_rng(trial) for _ in range(2)]
        rngs = [np.random.default_rng((trial, k)) for k in range(2)]
        a, b = (answers(0.4, rng, s) for rng, s in zip(rngs, shared, strict=True))
        seen = np.arange(IMAGES) < np.where(np.arange(len(NAMES)) % 5, IMAGES, 16)[:, None]
        one, other = (Evaluation(tuple(NAMES), SPLITS, seen, x, x, CONDITIONS) for x in (a, b))
        promoted += decide(one, other, "2", "1").promoted
        difference = ((a.astype(float) - b) * seen).sum(1) / seen.sum(1)
        naive += difference.mean() > 1.96 * difference.std() / len(difference) ** 0.5
    assert promoted <= 10
    assert naive > 30  # the simulation has the correlation that misled


def test_a_better_one_is_promoted():
    decision = decide(evaluation(0.6, 1), evaluation(0.45, 2), "2", "1")
    assert decision.promoted
    assert decision.comparison.architectures == 50
    assert decision.comparison.images == 32
    assert "exceeds the noise" in decision.reason


def test_a_difference_within_the_noise_keeps_the_champion():
    decision = decide(evaluation(0.5, 1), evaluation(0.5, 2), "2", "1")
    assert not decision.promoted
    assert "does not exceed the noise" in decision.reason


def test_worse_is_not_better():
    assert not decide(evaluation(0.4, 1), evaluation(0.5, 2), "2", "1").promoted


@pytest.mark.parametrize(
    "other",
    [
        {"batch_size": 128},
        {"max_gmacs": None},
        {"min_images": 32},
        {"images": 128},
        {"seed": 2},
        {"image_digest": "cifar10"},
        {"dvc.data/deepnets1m/test.h5": "another"},
    ],
)
def test_an_evaluation_under_other_conditions_is_not_compared(other):
    decision = decide(evaluation(0.9, 1, **other), evaluation(0.5, 2), "2", "1")
    assert not decision.promoted
    assert "not comparable" in decision.reason
    assert next(iter(other)) in decision.reason


def test_other_architectures_are_not_compared():
    challenger = evaluation(0.9, 1)
    fewer = Evaluation(
        challenger.architectures[:49],
        SPLITS[:49],
        challenger.seen[:49],
        challenger.correct[:49],
        challenger.random[:49],
        CONDITIONS,
    )
    decision = decide(fewer, evaluation(0.5, 2), "2", "1")
    assert not decision.promoted
    assert "49 architectures instead of 50, 49 in common" in decision.reason


def test_more_failures_than_the_champion_has_are_not_promoted():
    challenger = without(evaluation(0.9, 1), slice(0, 38))
    decision = decide(challenger, evaluation(0.5, 2), "2", "1")
    assert not decision.promoted
    assert "38 of 50 architectures failed, at most 0 may" in decision.reason
    assert not decide(challenger, None, "1", None).promoted
    champion = without(evaluation(0.5, 2), slice(0, 2))
    assert decide(without(evaluation(0.9, 1), slice(1, 3)), champion, "2", "1").promoted


def test_a_loss_on_torchvisions_networks_does_not_drown_in_the_mean():
    champion, challenger = evaluation(0.5, 2), evaluation(0.8, 1)
    correct = challenger.correct.copy()
    correct[40:] = np.random.default_rng(3).random((10, IMAGES)) < 0.1
    challenger = replace(challenger, correct=correct)
    assert challenger.against(champion)["all"].better
    decision = decide(challenger, champion, "2", "1")
    assert not decision.promoted
    assert "worse on torchvision's networks" in decision.reason


def test_the_images_that_decide_are_not_those_of_the_reported_accuracy():
    found = evaluation(0.5)
    correct = np.broadcast_to(deciding(IMAGES), found.correct.shape)
    only_deciding = replace(found, correct=correct)
    assert only_deciding.against(None)["all"].challenger == 1
    assert set(only_deciding.reported().values()) == {0}
    assert found.reported().keys() == {"test", "torchvision", "deepnets"}


def test_the_first_champion_must_beat_random_parameters():
    assert decide(evaluation(0.5), None, "1", None).promoted
    assert not decide(evaluation(0.1), None, "1", None).promoted


def test_few_architectures_or_images_decide_nothing():
    few = without(evaluation(0.9), slice(5, None))
    assert not few.against(None)["all"].better
    seen = few.seen.copy()
    seen[:, 10:] = False
    seen[:, :10] = True
    decision = decide(replace(few, seen=seen), None, "1", None)
    assert not decision.promoted
    assert "5 images to decide on, at least 8 and 8" in decision.reason


def rows_of(found: Evaluation) -> list[Row]:
    """As the stage evaluate writes them."""
    return [
        {
            "architecture": name,
            "split": SPLITS[index],
            "ghn": "ghn3",
            "seed": 1,
            "data_hash": "h",
            "error": None,
            "accuracy": float(found.correct[index].mean()),
            "randinit_accuracy": float(found.random[index].mean()),
            "images": IMAGES,
            "correct": pack(found.correct[index]),
            "randinit_correct": pack(found.random[index]),
            "settings": json.dumps(found.conditions),
        }
        for index, name in enumerate(NAMES)
    ]


def test_an_evaluation_is_read_as_it_was_written(tmp_path):
    found = evaluation(0.5)
    rows = rows_of(found)[::-1]
    rows[46] = {key: rows[46][key] for key in IDENTITY} | {"error": "out of memory"}
    write_rows(tmp_path / "e.parquet", rows, COLUMNS)
    read = read_evaluation(tmp_path / "e.parquet", {"data_set": "digits"})
    assert read.architectures == found.architectures
    assert read.failed == 1
    assert read.conditions == {**CONDITIONS, "data_set": "digits"}
    whole = np.arange(50) != 3
    assert np.array_equal(read.correct[whole], found.correct[whole])
    assert np.array_equal(read.random[whole], found.random[whole])
    assert read.against(None)["all"].architectures == 49


def test_what_the_stage_evaluate_measures_can_be_compared(tmp_path):
    pixels = torch.randint(0, 255, (40, 3, 32, 32), dtype=torch.uint8)
    half = (0.5, 0.5, 0.5)
    images = ImageTensors(pixels, torch.arange(40) % 10, tuple("0123456789"), half, half)
    ghn = GHN(GHNConfig(hidden=16, layers=1, heads=2, num_classes=10, decoder_channels=8))
    config = EvaluateConfig(batch_size=16, min_images=16)
    measure = Evaluate(ghn, images, images.subset(range(10)), config, 1, "cpu")
    columns = measure(Target("squeezenet1_1", "torchvision"))
    row = {**identity("squeezenet1_1", "torchvision", "ghn3", 1, "h"), **columns}
    write_rows(tmp_path / "e.parquet", [row], COLUMNS)
    found = read_evaluation(tmp_path / "e.parquet")
    assert found.correct.shape == (1, 40)
    assert found.correct.mean() == columns["accuracy"]
    assert found.random.mean() == columns["randinit_accuracy"]
    assert found.conditions.items() >= {"batch_size": 16, "min_images": 16, "seed": 1}.items()
    assert found.conditions["image_digest"] == images.digest[:16]


def test_an_evaluation_without_answers_per_image_says_how_to_make_one(tmp_path):
    rows = [{k: v for k, v in row.items() if k != "correct"} for row in rows_of(evaluation(0.5))]
    write_rows(tmp_path / "e.parquet", rows, COLUMNS)
    with pytest.raises(lookup.RegistryError, match="dvc repro evaluate register"):
        read_evaluation(tmp_path / "e.parquet")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A registry with four versions: the first champion, a better one, one that is not, and one on
    other images.
    """
    directory = tmp_path_factory.mktemp("store")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(directory)
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{directory}/mlflow.db")
        patch.delenv("PREFECT_API_URL", raising=False)
        for number, (mean, variant, images) in enumerate(
            [
                (0.5, "ghn2", "aaaaaaaa11"),
                (0.6, "ghn3-t", "aaaaaaaa11"),
                (0.55, "ghn3-t", "aaaaaaaa11"),
                (0.9, "ghn3-t", "bbbbbbbb22"),
            ]
        ):
            model = directory / f"model{number}"
            (model / "artifacts").mkdir(parents=True)
            found = evaluation(mean, number, image_digest=images)
            write_rows(model / "artifacts" / "evaluation.parquet", rows_of(found), COLUMNS)
            (model / "artifacts" / "ghn.safetensors").write_bytes(bytes([number]))
            tags = {"variant": variant, "data_set": "digits", "image_size": 32,
                    "dvc.data/images/digits": images,
                    # each with a train split of its own
                    "dvc.data/deepnets1m": f"{number:032x}.dir",
                    "dvc.data/deepnets1m/test.h5": "cccccccc33",
                    "dvc.models/ghn3/ghn.safetensors": f"{number:032x}"}  # fmt: skip
            with stage_run("register", {}, connect_after_seconds=0) as run:
                run.register_model("ghn3", model, tags, "challenger", "a test")
        yield client()


def tags(store, version: str) -> dict[str, str]:
    return store.get_model_version("ghn3", version).tags


def test_decisions_are_made_at_registration_and_kept_as_tags(store):
    assert lookup.by_alias("ghn3", "challenger").version == 4
    decisions = [tags(store, str(v))["promotion.decision"] for v in (1, 2, 3, 4)]
    assert decisions == ["promoted", "promoted", "kept as challenger", "kept as challenger"]
    second = tags(store, "2")
    assert second["promotion.previous"] == "1"
    assert float(second["promotion.challenger"]) == pytest.approx(0.6, abs=0.1)
    assert float(second["promotion.champion"]) == pytest.approx(0.5, abs=0.1)
    assert float(second["promotion.difference"]) > float(second["promotion.noise"]) > 0
    assert second["promotion.architectures"] == "50"
    assert "not comparable" in tags(store, "4")["promotion.reason"]


def test_look_ups(store):
    assert [v.version for v in lookup.versions("ghn3", {"variant": "ghn3-t"})] == [4, 3, 2]
    assert [
        v.version for v in lookup.versions("ghn3", {"variant": "ghn3-t", "digits": "aaaaaaaa11"})
    ] == [3, 2]
    assert [v.version for v in lookup.by_hash("ghn3", "bbbbbbbb")] == [4]
    assert lookup.find("ghn3", "@champion").version == 2
    with pytest.raises(lookup.RegistryError, match="no version 17"):
        lookup.find("ghn3", "17")
    with pytest.raises(lookup.RegistryError, match="no version @nobody"):
        lookup.find("ghn3", "@nobody")
    with pytest.raises(lookup.RegistryError, match="no version seven"):
        lookup.find("ghn3", "seven")
    assert promotion.promote("ghn3", "@champion").unchanged
    assert [row["aliases"] for row in lookup.describe("ghn3", lookup.versions("ghn3"))] == [
        "@challenger", "", "@champion", ""]  # fmt: skip


def test_a_registry_that_fails_is_not_one_without_the_version():
    class Failing:
        def get_model_version(self, name: str, number: str) -> None:
            raise MlflowException("the server is away", INTERNAL_ERROR)

    with pytest.raises(MlflowException, match="away"):
        lookup.numbered(Failing(), "ghn3", "1")  # type: ignore[arg-type]


def test_weights_come_back(store, tmp_path):
    assert lookup.download("ghn3", "3", tmp_path / "a" / "ghn.safetensors").read_bytes() == b"\x02"


def test_promote_by_force_and_roll_back(store):
    assert not promotion.promote("ghn3", "3").promoted
    forced = promotion.promote("ghn3", "3", force=True)
    assert forced.promoted
    assert "forced by" in forced.reason
    # both numbers are kept, whatever they say
    assert float(tags(store, "3")["promotion.difference"]) < 0
    assert promotion.rollback("ghn3", "it was worse") == ("3", "2")
    assert lookup.by_alias("ghn3", "champion").version == 2
    assert tags(store, "3")["promotion.decision"] == "rolled back"
    assert tags(store, "3")["promotion.rollback_reason"] == "it was worse"
    assert promotion.rollback("ghn3", "again") == ("2", "1")
    with pytest.raises(lookup.RegistryError, match="none to go back to"):
        promotion.rollback("ghn3", "once more")


def test_drift_is_a_difference_beyond_the_noise_or_a_new_failure():
    then = evaluation(0.5)
    same = drift(then, then)
    assert not same.drifted
    assert same.comparison.difference == same.comparison.noise == 0
    correct = then.correct.copy()
    correct[:, ::3] = False
    assert drift(replace(then, correct=correct), then).drifted
    assert drift(without(then, slice(0, 1)), then).drifted
    assert not drift(without(then, slice(0, 1)), without(then, slice(0, 1))).drifted
    with pytest.raises(lookup.RegistryError, match="image_digest other instead of None"):
        drift(evaluation(0.5, image_digest="other"), then)
    with pytest.raises(lookup.RegistryError, match="no architecture was evaluated then and now"):
        drift(replace(then, architectures=tuple(f"other {n}" for n in then.architectures)), then)


def test_other_architectures_of_the_same_names_are_no_drift(tmp_path):
    found = evaluation(0.5)
    for file in (paths.DEEPNETS / "test.h5", paths.DEEPNETS / "train.h5"):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_bytes(b"of today's code")
    (tmp_path / paths.EVALUATION).parent.mkdir()
    write_rows(tmp_path / paths.EVALUATION, rows_of(found), COLUMNS)
    key = "dvc.data/deepnets1m/test.h5"
    md5 = dvc_hash(tmp_path / paths.DEEPNETS / "test.h5")
    now = evaluated_anew(tmp_path)
    assert now.conditions == {**CONDITIONS, key: md5}
    then = {**CONDITIONS, "data_set": "digits", "dvc.data/deepnets1m/wide.h5": "w"}
    assert not drift(now, replace(found, conditions={**then, key: md5})).drifted
    with pytest.raises(lookup.RegistryError, match=f"not comparable.*{key} {md5} instead of old"):
        drift(now, replace(found, conditions={**then, key: "old"}))


def test_an_evaluation_is_repeated_on_the_images_and_under_the_settings_of_its_registration():
    tags = {"data_set": "cifar10", "image_size": "32", "variant": "ghn3-t"}
    assert as_registered(tags, evaluation(0.5)) == {
        "images.name": "cifar10",
        "images.image_size": 32,
        "base.seed": 1,
        "evaluate.images": 64,
        "evaluate.batch_size": 64,
        "evaluate.max_gmacs": 4.0,
        "evaluate.min_images": 16,
    }


@pytest.fixture
def register(store, tmp_path, capsys):
    """What the stage does with weights of so much worth, and what it says."""

    def registered(name: str, mean: float, weights: bytes) -> str:
        artifacts = tmp_path / "model" / "artifacts"
        artifacts.mkdir(parents=True, exist_ok=True)
        write_rows(artifacts / "evaluation.parquet", rows_of(evaluation(mean, 5)), COLUMNS)
        (artifacts / "ghn.safetensors").write_bytes(weights)
        with stage_run("register", {}, connect_after_seconds=0) as run:
            run.register_model(name, tmp_path / "model", {"mean": mean}, "challenger", "a test")
        return capsys.readouterr().out

    return registered


def test_the_same_weights_make_no_second_version_but_bring_their_evaluation(store, register):
    assert "ghn init resnet50 --from models:/same@challenger" in register("same", 0.4, b"one")
    before = store.get_model_version("same", "1").tags["accuracy.deepnets"]
    output = register("same", 0.7, b"one")
    assert "same version 1 has these weights already: there is no second version" in output
    assert "same version 1 is the champion: it is the champion already" in output
    (version,) = lookup.versions("same")
    assert version.tags["mean"] == "0.7"
    assert float(version.tags["accuracy.deepnets"]) > float(before)
    assert evaluation_of(version).correct.mean() == pytest.approx(0.7, abs=0.1)
    register("same", 0.6, b"two")
    assert [v.version for v in lookup.versions("same")] == [2, 1]
    assert lookup.find("same", "2").tags["promotion.decision"] == "kept as challenger"


def test_a_log_that_is_sent_late_does_not_take_the_alias_of_a_later_model(
    store, register, monkeypatch
):
    register("late", 0.4, b"one")
    with monkeypatch.context() as earlier:
        earlier.setattr("flows.tracking.run.time", Mock(wraps=time, time=lambda: 1e9))
        assert "--from models:/late/2" in register("late", 0.5, b"two")
        register("late", 0.5, b"one")
    assert lookup.find("late", "@challenger").version == 1
    register("late", 0.6, b"two")
    assert lookup.find("late", "@challenger").version == 2


def test_what_somebody_decided_about_a_version_is_left_alone(store, register, monkeypatch):
    def decision() -> tuple[str, str]:
        found = store.get_model_version("left", "2").tags["promotion.decision"]
        return str(lookup.find("left", "@champion").version), found

    register("left", 0.4, b"one")
    register("left", 0.7, b"two")
    assert decision() == ("2", "promoted")
    promotion.rollback("left", "worse on ViTs")
    output = register("left", 0.8, b"two")  # its evaluation is better by now
    assert decision() == ("1", "rolled back")
    assert (
        "left version 2 stays a challenger: it was rolled back (worse on ViTs), which"
        " stands until `ghn registry promote 2 left` or an approval lifts it" in output
    )
    assert promotion.promote("left", "2").promoted
    assert decision() == ("2", "promoted")

    promotion.rollback("left", "")
    approval.refuse("left", "2", "Ada", "ViTs first")
    assert "it was refused (ViTs first)" in register("left", 0.8, b"two")
    monkeypatch.setenv(HOLD_VARIABLE, "1")  # who has answered is not asked again
    assert "it was refused (ViTs first)" in register("left", 0.8, b"two")
    assert decision() == ("1", "refused")
    assert approval.approve("left", "2", "Ada", "").promoted


@pytest.fixture
def held(register, monkeypatch):
    """Makes a model with a champion and two better versions that wait; the third is best."""

    def made(name: str) -> None:
        register(name, 0.4, b"one")
        monkeypatch.setenv(HOLD_VARIABLE, "1")
        register(name, 0.6, b"two")
        register(name, 0.9, b"three")

    return made


def test_a_promotion_that_another_overtook_is_judged_against_the_other(store, held, monkeypatch):
    held("overtaken")
    judge = promotion.judge

    def slow(*arguments, **options):
        monkeypatch.setattr(promotion, "judge", judge)
        found = judge(*arguments, **options)  # as long as downloads and the bootstrap take
        assert promotion.promote("overtaken", "3").promoted
        return found

    monkeypatch.setattr(promotion, "judge", slow)
    decision = promotion.promote("overtaken", "2")
    assert (decision.promoted, decision.against) == (False, "version 3")
    assert lookup.find("overtaken", "@champion").version == 3
    assert lookup.find("overtaken", "2").tags["promotion.decision"] == "kept as challenger"
    assert promotion.rollback("overtaken", "a test") == ("3", "1")


def test_nothing_goes_back_to_a_version_that_was_rolled_back(store, held):
    held("rolled")
    assert promotion.promote("rolled", "2").promoted
    assert promotion.promote("rolled", "1", force=True).promoted
    assert promotion.rollback("rolled", "worse on ViTs") == ("1", "2")
    with pytest.raises(lookup.RegistryError, match="none to go back to"):
        promotion.rollback("rolled", "worse too")
    assert lookup.find("rolled", "@champion").version == 2


def test_a_promotion_looks_again_after_it_has_moved_the_alias(store, held):
    held("replaced")

    class Overtaken(MlflowClient):
        """A client behind which somebody else moves the alias, once."""

        done = False

        def set_registered_model_alias(self, name: str, alias: str, version: str) -> None:
            super().set_registered_model_alias(name, alias, version)
            if not self.done:
                self.done = True
                super().set_registered_model_alias(name, alias, "3")

    decision = promotion.promote("replaced", "2", mlflow_client=Overtaken())
    assert (decision.promoted, decision.against) == (False, "version 3")
    assert lookup.find("replaced", "@champion").version == 3
    assert lookup.find("replaced", "2").tags["promotion.decision"] == "kept as challenger"


def test_a_log_that_is_sent_again_makes_no_second_version(store, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # with a spool of its own
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "MLmodel").touch()
    with stage_run("register", {}, connect_after_seconds=1e9) as run:
        run.register_model("twice", tmp_path / "model", {}, "challenger", "a test")
    (log,) = pending()
    text = log.read_text()
    for _ in range(2):  # as after a connection that was lost in the middle
        log.write_text(text)
        assert send_pending() == 1
    assert [v.version for v in lookup.versions("twice")] == [1]


def test_a_version_is_a_logged_model_with_metrics_parameters_and_data_sets(store, tmp_path):
    artifacts = tmp_path / "model" / "artifacts"
    artifacts.mkdir(parents=True)
    write_rows(artifacts / "evaluation.parquet", rows_of(evaluation(0.4, 7)), COLUMNS)
    (artifacts / "ghn.safetensors").write_bytes(b"logged")
    tags = {"variant": "ghn3-t", "parameters": 7, "metrics.test.mean": 0.5,
            "dvc.data/deepnets1m/test.h5": "c" * 32}  # fmt: skip
    with stage_run("register", {}, connect_after_seconds=0) as run:
        run.register_model("logged", tmp_path / "model", tags, "challenger", "what it is")
    version = lookup.find("logged", "1")
    model = store.get_logged_model(version.tags["logged_model"])
    assert json.loads(model.tags["mlflow.modelVersions"]) == [{"name": "logged", "version": "1"}]
    assert model.tags["mlflow.note.content"] == "what it is"
    assert model.status == "READY"
    assert model.params == {"variant": "ghn3-t", "parameters": "7"}
    (metric,) = model.metrics
    assert (metric.key, metric.value) == ("test/mean", 0.5)
    assert (metric.dataset_name, metric.dataset_digest) == ("data/deepnets1m/test.h5", "c" * 32)
    assert version.description.startswith("what it is. [Metrics, parameters and data sets](#/exp")
    assert "models:/logged@champion" in store.get_registered_model("logged").description
    outputs = store.get_run(version.run_id).outputs.model_outputs
    assert [output.model_id for output in outputs] == [model.model_id]
    file = store.download_artifacts(version.run_id, "evaluation.json", str(tmp_path))
    table = json.loads(Path(file).read_text())
    assert {"architecture", "split", "accuracy"} <= set(table["columns"])
    assert len(table["data"]) == 50
    assert lookup.download("logged", "1", tmp_path / "weights").read_bytes() == b"logged"
