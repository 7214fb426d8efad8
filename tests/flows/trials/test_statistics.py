import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flows.trials.statistics import bootstrap_interval, compare, paired, per_architecture


def row(architecture, init, accuracy, seed=0, selected=True):
    return {
        "architecture": architecture,
        "ghn": init,
        "test_accuracy": accuracy,
        "seed": seed,
        "selected": selected,
    }


def test_wins_gain_and_loss_are_table_4s():
    comparison = paired(np.array([0.5, 0.6, 0.3, 0.4]), np.array([0.4, 0.3, 0.4, 0.4]))
    assert comparison.n == 4
    assert comparison.wins == 0.5  # a tie is not won
    assert comparison.average_gain == pytest.approx(0.2)
    assert comparison.average_loss == pytest.approx(-0.05)
    assert comparison.mean_difference == pytest.approx(0.075)


def test_seeds_are_averaged_within_an_architecture_first():
    rows = [
        row("a", "x", 0.2),
        row("a", "x", 0.4, 1),
        row("b", "x", 0.9),
        row("a", "y", 0.1),
        row("c", "y", 0.1),
    ]
    rows.append(row("a", "x", 0.0, 2, selected=False))  # another grid point
    rows.append(row("b", "y", None))
    assert per_architecture(rows, "x") == pytest.approx({"a": 0.3, "b": 0.9})
    comparison = compare(rows, "x", "y")
    assert comparison.n == 1  # b has no value for y, c none for x
    assert comparison.mean_difference == pytest.approx(0.2)
    assert compare(rows, "x", "z") is None


def test_p_value_of_six_wins_is_exact():
    """All of 6 signs equal: 2 of the 2^6 sign patterns are as extreme."""
    assert paired(np.arange(6) / 10 + 0.1, np.zeros(6)).p_value == pytest.approx(2 / 64)
    assert np.isnan(paired(np.array([0.1]), np.array([0.0])).p_value)


@given(st.lists(st.floats(-1, 1), min_size=2, max_size=30), st.integers(0, 5))
@settings(max_examples=20, deadline=None)
def test_interval_is_around_the_mean_and_within_the_range(values, seed):
    low, high = bootstrap_interval(np.array(values), seed)
    assert min(values) - 1e-9 <= low <= np.mean(values) + 1e-9
    assert np.mean(values) - 1e-9 <= high <= max(values) + 1e-9


def test_interval_covers_as_often_as_it_says():
    random = np.random.default_rng(0)
    covered = 0
    for seed in range(100):
        low, high = bootstrap_interval(random.normal(0.3, 1, size=40), seed)
        covered += low <= 0.3 <= high
    assert 87 <= covered <= 100
