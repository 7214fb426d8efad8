"""Promotion and look-ups in a real MLflow registry (SQLite files)."""

from __future__ import annotations

import numpy as np
import pytest

from flows.registry import registry
from flows.registry.registry import Evaluation, compare, decide
from flows.rows.schema import write_rows
from flows.stages.evaluate import COLUMNS
from flows.tracking.client import client
from flows.tracking.run import stage_run
from flows.tracking.spool import pending, send_pending

NAMES = [f"deepnets1m/test/{i}" for i in range(40)]


def accuracies(mean: float, seed: int = 0, spread: float = 0.05) -> dict[str, float]:
    """Architectures differ far more (`spread`) than two hypernetworks do."""
    rng = np.random.default_rng(0)
    jitter = np.random.default_rng(seed).normal(0, 0.005, len(NAMES))
    return dict(zip(NAMES, mean + rng.normal(0, spread, len(NAMES)) + jitter, strict=True))


def evaluation(mean: float, seed: int = 0, data: str = "digits") -> Evaluation:
    return Evaluation(accuracies(mean, seed), accuracies(0.1, 99), data)


def test_pairing_sees_what_the_spread_of_architectures_hides():
    comparison = compare(accuracies(0.52, 1), accuracies(0.51, 2))
    assert comparison.better
    assert comparison.architectures == 40
    assert comparison.difference == pytest.approx(0.01, abs=0.004)
    assert (
        comparison.noise < 0.004 < 1.96 * 0.05 / 40**0.5
    )  # the unpaired noise is larger than the difference


def test_a_difference_within_the_noise_keeps_the_champion():
    decision = decide(evaluation(0.5, 1), evaluation(0.5, 2), "2", "1")
    assert not decision.promoted
    assert "does not exceed the noise" in decision.reason


def test_worse_is_not_better():
    assert not decide(evaluation(0.4, 1), evaluation(0.5, 2), "2", "1").promoted


def test_other_data_is_not_compared():
    decision = decide(evaluation(0.9, 1, "cifar10"), evaluation(0.5, 2), "2", "1")
    assert not decision.promoted
    assert "not comparable" in decision.reason


def test_the_first_champion_must_beat_random_initialisation():
    assert decide(evaluation(0.5), None, "1", None).promoted
    assert not decide(evaluation(0.1), None, "1", None).promoted


def test_few_architectures_decide_nothing():
    few = Evaluation(dict.fromkeys(NAMES[:5], 0.9), dict.fromkeys(NAMES[:5], 0.1), "digits")
    decision = decide(few, None, "1", None)
    assert not decision.promoted
    assert "at least 8" in decision.reason


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
            values = accuracies(mean, number)
            random = accuracies(0.1, 99)
            rows = [
                {
                    "architecture": name,
                    "split": "test",
                    "ghn": "ghn3",
                    "seed": 1,
                    "data_hash": "h",
                    "error": None,
                    "accuracy": values[name],
                    "randinit_accuracy": random[name],
                    "images": 64,
                }
                for name in NAMES
            ]
            write_rows(model / "artifacts" / "evaluation.parquet", rows, COLUMNS)
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
    assert registry.by_alias("ghn3", "challenger").version == 4
    decisions = [tags(store, str(v))["promotion.decision"] for v in (1, 2, 3, 4)]
    assert decisions == ["promoted", "promoted", "kept as challenger", "kept as challenger"]
    second = tags(store, "2")
    assert second["promotion.previous"] == "1"
    assert float(second["promotion.challenger"]) == pytest.approx(0.6, abs=0.03)
    assert float(second["promotion.champion"]) == pytest.approx(0.5, abs=0.03)
    assert float(second["promotion.difference"]) > float(second["promotion.noise"]) > 0
    assert second["promotion.architectures"] == "40"
    assert "not comparable" in tags(store, "4")["promotion.reason"]


def test_look_ups(store):
    assert [v.version for v in registry.versions("ghn3", {"variant": "ghn3-t"})] == [4, 3, 2]
    assert [
        v.version for v in registry.versions("ghn3", {"variant": "ghn3-t", "digits": "aaaaaaaa11"})
    ] == [3, 2]
    assert [v.version for v in registry.by_hash("ghn3", "bbbbbbbb")] == [4]
    assert registry.find("ghn3", "@champion").version == 2
    with pytest.raises(registry.RegistryError, match="no version 17"):
        registry.find("ghn3", "17")
    with pytest.raises(registry.RegistryError, match="no version @nobody"):
        registry.find("ghn3", "@nobody")
    assert [row["aliases"] for row in registry.describe("ghn3", registry.versions("ghn3"))] == [
        "@challenger", "", "@champion", ""]  # fmt: skip


def test_weights_come_back(store, tmp_path):
    assert (
        registry.download("ghn3", "3", tmp_path / "a" / "ghn.safetensors").read_bytes() == b"\x02"
    )


def test_promote_by_force_and_roll_back(store):
    assert not registry.promote("ghn3", "3").promoted
    forced = registry.promote("ghn3", "3", force=True)
    assert forced.promoted
    assert "forced by" in forced.reason
    assert (
        float(tags(store, "3")["promotion.difference"]) < 0
    )  # both numbers are kept, whatever they say
    assert registry.rollback("ghn3", "it was worse") == ("3", "2")
    assert registry.by_alias("ghn3", "champion").version == 2
    assert tags(store, "3")["promotion.decision"] == "rolled back"
    assert tags(store, "3")["promotion.rollback_reason"] == "it was worse"
    assert registry.rollback("ghn3", "again") == ("2", "1")
    with pytest.raises(registry.RegistryError, match="none to go back to"):
        registry.rollback("ghn3", "once more")


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
    assert [v.version for v in registry.versions("twice")] == [1]
