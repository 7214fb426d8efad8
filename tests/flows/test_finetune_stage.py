import pytest

from flows.trials.plan import choose
from ghn.errors import DamagedFileError


def row(name: str, split: str, val: float, test: float, gmacs: float = 0.01) -> dict:
    scores = {"val_accuracy": val, "accuracy": test, "gmacs": gmacs}
    return {"architecture": name, "split": split, "error": None, **scores}


def test_the_best_of_each_split_by_validation_within_the_budget() -> None:
    rows = [
        row("a", "test", 0.3, 0.9),
        row("b", "test", 0.5, 0.1),
        row("c", "test", 0.8, 0.8, gmacs=5),
        row("d", "wide", 0.2, 0.2),
    ]
    assert choose(rows, 1, 0.1) == ["b", "d"]
    assert choose(rows, None, None) == ["c", "b", "a", "d"]


def test_nothing_to_choose_from_is_said() -> None:
    with pytest.raises(DamagedFileError, match="no architecture has an accuracy"):
        choose([row("a", "test", 0.3, 0.9) | {"error": "no luck"}], 1, None)
