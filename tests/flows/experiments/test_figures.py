"""Summaries of figures 1 to 3, and the measurement of figure 3."""

import numpy as np
import pytest

from flows.experiments.summaries import first_layers, scaling, speed
from flows.report.blocks import Panels, Pictures, Table
from flows.rows.schema import identity


def measured(ghn: str, accuracy: float, name: str = "a") -> dict:
    return identity(name, "test", ghn, 1, "hash") | {"accuracy": accuracy}


def test_figure_1_pools_hypernetworks_of_one_size_and_meta_batch():
    rows = [
        measured("small-s1", 0.2),
        measured("small-s2", 0.4),
        measured("large", 0.6),
        measured("wide-batch", 0.9),
        measured("unknown", 0.1),
    ]
    facts = {"small-s1": (10, 1), "small-s2": (10, 1), "large": (30, 1), "wide-batch": (30, 8)}
    found = scaling(rows, facts)
    panels, table = found.blocks
    assert isinstance(panels, Panels)
    assert isinstance(table, Table)
    assert [row[0] for row in table.rows] == ["small-s1", "small-s2", "large", "wide-batch"]
    assert [row[2:4] for row in table.rows] == [["1", "20.0"], ["1", "40.0"], ["1", "60.0"],
                                                ["8", "90.0"]]  # fmt: skip
    assert found.sentence == "Best: wide-batch, of 4 hypernetworks."
    assert "m = 8" in panels.figures[0].svg


def test_figure_3_joins_times_with_accuracies():
    rows = [
        identity("deepnets1m/train/0", "train", name, 1, "hash")
        | {"parameters": 2_000_000, "meta_batch_size": 4, "batch_size": 8, "steps": 5}
        for name in ("ghn2", "ghn3")
    ]
    times = [row | {"steps_per_second": pace} for row, pace in zip(rows, (0.5, 2.0), strict=True)]
    found = speed(rows, times, [measured("ghn3", 0.25), measured("ghn3", 0.35, "b")])
    table = next(block for block in found.blocks if isinstance(block, Table))
    assert table.rows == [["ghn2", "2.00M", "0.50", None], ["ghn3", "2.00M", "2.00", "30.0 ± 7.1"]]
    assert found.sentence == "Fastest to train: ghn3."


def test_figure_2_shows_predictions_once_and_random_ones_after_training():
    def row(ghn: str, part: str) -> dict:
        return identity("resnet18", "torchvision", ghn, 1, "hash") | {
            "part": part, "selected": True, "steps": 3, "test_accuracy": 0.5,
            "filters_shape": [1, 3, 1, 1], "filters_start": [0.0, 0.0, 1.0],
            "filters": [1.0, 0.0, 0.0],
        }  # fmt: skip

    rows = [row(ghn, part) for part in ("short", "long") for ghn in ("randinit", "x-ghn3")]
    (pictures,) = first_layers(rows).blocks
    assert isinstance(pictures, Pictures)
    titles = [picture.title for picture in pictures.pictures]
    assert titles == ["x-ghn3, predicted", "randinit, short", "randinit, long"]
    assert pictures.pictures[0].source != pictures.pictures[1].source
    assert np.all([picture.alt for picture in pictures.pictures])
    assert first_layers([{**rows[0], "filters": None}]).blocks == []


@pytest.mark.parametrize("other", [{"variant": "ghn2"}, {}])
def test_a_variant_keeps_nothing_of_another_s_width(other):
    from flows.experiments.catalogue import load_profile

    profile = load_profile("laptop")
    config = profile.variant_config(other).hypernetwork(10)
    assert config.decoder_channels == (64 if other else 32)
    assert config.base == ("zero" if other else "identity")


@pytest.mark.parametrize("name", ["laptop", "paper", "tiny"])
def test_every_experiment_that_has_rows_is_in_the_plan(name, monkeypatch):
    from flows.experiments import cost
    from flows.experiments.catalogue import load_profile

    monkeypatch.setattr(cost, "forward_gmacs", lambda *_: 1.0)  # counting takes a minute
    profile = load_profile(name)
    with_rows = {name for name, entry in profile.experiments.items() if entry.kind != "derived"}
    assert {job.experiment for job in cost.plan(profile)} - {"hypernetworks"} == with_rows
