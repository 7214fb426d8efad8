from pathlib import Path

import pytest

from flows.params import load_params
from flows.rows.schema import write_rows
from flows.settings.files import parse
from flows.settings.images import ImagesSpec
from flows.settings.trials import Part, Selection, TrialsEntry
from flows.stages import evaluate
from flows.trials.plan import TrialSetting, choose, selected, trials_of
from ghn.errors import ConfigError, DamagedFileError


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


def test_a_selection_that_leaves_nothing_names_its_field(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [row("a", "test", 0.3, 0.9, gmacs=0.25), row("b", "wide", 0.3, 0.9, gmacs=0.5)]
    with pytest.raises(ConfigError, match=r"`max_gmacs: 0\.1`.*evaluation\.parquet.* 0\.25 GMACs"):
        choose(rows, 1, 0.1)
    monkeypatch.setattr("flows.trials.plan.targets", lambda _: [])
    setting = TrialSetting(ImagesSpec(name="digits", image_size=16), 1, "cpu")
    with pytest.raises(ConfigError, match=r"`primitive: msa` .*`splits: \[deep\]`"):
        selected(Selection(cheapest=1, splits=("deep",), primitive="msa"), setting)


def test_parts_of_one_name_are_refused() -> None:
    parts = [{"train": {"steps": 5}}, {"train": {"steps": 50}}]
    entry = {"title": "t", "paper": "p", "difference": "d", "inits": ["randinit"], "select": {}}
    with pytest.raises(ConfigError, match=r"parts.*several parts are named main"):
        parse(TrialsEntry, entry | {"parts": parts}, "profile.yaml")
    named = [part | {"name": name} for part, name in zip(parts, "ab", strict=True)]
    assert len(parse(TrialsEntry, entry | {"parts": named}, "profile.yaml").parts) == 2


def test_nothing_to_choose_from_is_said() -> None:
    with pytest.raises(DamagedFileError, match="no architecture has an accuracy"):
        choose([row("a", "test", 0.3, 0.9) | {"error": "no luck"}], 1, None)


def test_the_stages_sections_are_entries_that_the_experiments_planner_takes(tmp_path: Path) -> None:
    params = load_params(Path(__file__).resolve().parents[3] / "params.yaml")
    base, images = params.base, params.images
    of_ours = {"ghn": base.ghn, "seed": 1, "data_hash": ""}
    rows = [
        row("resnet18", "torchvision", 0.5, 0.5) | of_ours,
        row("resnet34", "torchvision", 0.9, 0.9) | of_ours | {"ghn": "another"},
        row("deepnets1m/test/3", "test", 0.2, 0.2) | of_ours,
        row("deepnets1m/wide/1", "wide", 0.2, 0.2) | of_ours,
    ]
    evaluation = tmp_path / "evaluation.parquet"
    write_rows(evaluation, rows, evaluate.COLUMNS)
    setting = TrialSetting(images.spec(base.seed), base.seed, "cpu", evaluation)

    tuned = trials_of(params.finetune.entry(base, images), setting)["main"]
    names = ["resnet18", "deepnets1m/test/3", "deepnets1m/wide/1"]
    assert [trial.architecture for trial in tuned] == [name for name in names for _ in range(2)]
    assert {trial.init for trial in tuned} == {base.ghn, "randinit"}
    assert all(trial.images.max_val == params.finetune.max_val for trial in tuned)

    moved = trials_of(params.transfer.entry(base, images), setting)["main"]
    assert {trial.architecture for trial in moved} == {"resnet18", "deepnets1m/test/3"}
    assert {trial.source_images for trial in moved} == {images.spec(base.seed)}
    assert {trial.images.few_shot for trial in moved} == {params.transfer.labels}
    assert {trial.seed for trial in moved} == {base.seed + n for n in range(params.transfer.seeds)}


def test_a_part_may_have_some_of_the_networks_only() -> None:
    params = load_params(Path(__file__).resolve().parents[3] / "params.yaml")
    entry = TrialsEntry(
        title="t",
        paper="p",
        difference="d",
        select=Selection(names=("a", "b")),
        inits=("randinit",),
        seeds=1,
        parts=(Part(), Part(name="one", architectures=("b",))),
    )
    planned = trials_of(entry, TrialSetting(params.images.spec(1), 1, "cpu"))
    found = {name: [trial.architecture for trial in trials] for name, trials in planned.items()}
    assert found == {"main": ["a", "b"], "one": ["b"]}
    assert selected(entry.select, TrialSetting(params.images.spec(1), 1, "cpu")) == ["a", "b"]


def test_what_is_named_twice_is_trained_once() -> None:
    params = load_params(Path(__file__).resolve().parents[3] / "params.yaml")
    section = params.finetune.model_copy(update={"inits": ("ghn", "randinit", "ghn3")})
    entry = section.entry(params.base, params.images)
    entry = entry.model_copy(update={"select": Selection(names=("resnet18", "resnet18"))})
    trials = trials_of(entry, TrialSetting(params.images.spec(1), 1, "cpu"))["main"]
    assert [(trial.architecture, trial.init) for trial in trials] == [
        ("resnet18", "ghn3"),
        ("resnet18", "randinit"),
    ]
