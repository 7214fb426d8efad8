import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from flows import params as parameters
from flows.params import load_params, merge, use_profile
from flows.settings.images import ImagesSpec
from flows.training.start import trained_hypernetwork
from ghn.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def tree(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A directory with params.yaml and its profiles."""
    (tmp_path / "params").mkdir()
    for path in (ROOT / "params").glob("*.yaml"):
        (tmp_path / "params" / path.name).write_text(path.read_text())
    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def change(**sections: dict) -> None:
    path = Path("params.yaml")
    path.write_text(yaml.safe_dump(merge(yaml.safe_load(path.read_text()), sections)))


def test_committed_parameters_are_valid(tree: Path) -> None:
    params = load_params()
    assert params.architectures.torchvision == "all"
    assert params.architectures.splits == ("test", "wide", "deep", "dense", "bnfree")


@pytest.mark.parametrize("profile", ["paper", "gpu", "tiny"])
def test_profiles_are_valid_and_change_something(tree: Path, profile: str) -> None:
    assert load_params(profile=profile) != load_params()


@pytest.mark.parametrize("profile", [None, "paper", "gpu", "tiny"])
def test_a_profile_begins_with_weights_of_its_own_configuration(
    tree: Path, profile: str | None
) -> None:
    train = load_params(profile=profile).train
    if train.initial is not None:
        trained_hypernetwork(train.initial, train.hypernetwork(10), seed=1)


def test_evaluation_splits_have_their_published_sizes(tree: Path) -> None:
    rules = load_params().generate.rules()
    sizes = {
        name: rules[name].size
        for name in ("val", "test", "wide", "deep", "dense", "bnfree", "train")
    }
    assert sizes == {
        "val": 500,
        "test": 500,
        "wide": 100,
        "deep": 100,
        "dense": 100,
        "bnfree": 100,
        "train": 6000,
    }


def test_wrong_values_name_field_value_and_what_is_allowed(tree: Path) -> None:
    change(evaluate={"batch_size": 1}, base={"device": "tpu"}, report={"colour": "red"})
    with pytest.raises(ConfigError) as error:
        load_params()
    message = str(error.value)
    assert "3 problems" in message
    assert "evaluate.batch_size = 1: input should be greater than or equal to 2" in message
    assert "base.device = 'tpu': input should be 'auto', 'cpu' or 'cuda'" in message
    assert "report.colour: unknown; allowed: title, bins" in message


@pytest.mark.parametrize("section", ["finetune", "transfer"])
@pytest.mark.parametrize(
    "field",
    [{"lr": 0.003}, {"weight_decay": 0.1}, {"optimizer": "adamw"}],
    ids=["rate", "decay", "optimizer"],
)
def test_what_the_grid_sets_is_refused_below_train(tree: Path, section: str, field: dict) -> None:
    change(**{section: {"train": field}})
    ((name, value),) = field.items()
    with pytest.raises(ConfigError, match=rf"{section}\.train.*grid: \{{{name}: \[{value}\]\}}"):
        load_params()


@pytest.mark.parametrize("section", ["finetune", "transfer"])
@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("lr", []),
        ("lr", [0.1, -0.01]),
        ("lr", [0]),
        ("weight_decay", []),
        ("weight_decay", [-1]),
        ("optimizer", []),
        ("optimizer", ["adam"]),
    ],
)
def test_a_grid_that_cannot_be_trained_is_refused_before_the_training(
    tree: Path, section: str, field: str, values: list
) -> None:
    change(**{section: {"grid": {field: values}}})
    with pytest.raises(ConfigError, match=rf"{section}\.grid\.{field}"):
        load_params()


@pytest.mark.parametrize(("share", "wanted"), [(0.01, "choose"), (0.99, "train")])
def test_labels_are_left_to_train_and_to_choose_on(tree: Path, share: float, wanted: str) -> None:
    change(transfer={"labels": 40, "held_out": share})
    with pytest.raises(ConfigError, match=rf"transfer\.held_out = {share}: .* none to {wanted} on"):
        load_params()
    change(transfer={"held_out": 0.05})
    assert load_params().transfer.held_out == 0.05


@pytest.mark.parametrize(
    ("split", "message"),
    [
        ({"train": {"size": 0}}, r"splits\.train\.size = 0: input should be greater than 0"),
        ({"mine": {"bogus": 1}}, r"splits\.mine\.bogus = 1: extra .*; allowed: size, seed"),
        ({"mine": {}}, r"splits\.mine\.size: missing"),
        ({"deep": {"steps": [3, 1]}}, r"splits\.deep = {'steps': \[3, 1\]}: steps must be an"),
    ],
)
def test_wrong_rules_name_their_split(tree: Path, split: dict, message: str) -> None:
    change(generate={"splits": split})
    with pytest.raises(ConfigError, match=rf"generate\.{message}"):
        load_params()


@pytest.mark.parametrize("value", [float("inf"), float("nan"), "inf"])
@pytest.mark.parametrize(
    "field",
    [
        "train.lr",
        "train.population.0.weight",
        "evaluate.max_gmacs",
        "fanout.gpus",
        "finetune.train.grad_clip",
        "report.targets.accuracy.test",
    ],
)
def test_every_number_is_finite(tree: Path, field: str, value: float | str) -> None:
    values = yaml.safe_load(Path("params.yaml").read_text())
    inside = values
    *places, last = (int(part) if part.isdecimal() else part for part in field.split("."))
    for place in places:
        inside = inside[place]
    inside[last] = value
    Path("params.yaml").write_text(yaml.safe_dump(values))
    with pytest.raises(ConfigError, match=rf"{field} = '?(inf|nan)'?: .*finite number"):
        load_params()


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ({"variant": "ghn9"}, r"train\.variant = 'ghn9': no hypernetwork variant .*ghn3-t, ghn3-s"),
        (
            {"ghn": {"foo": 3}},
            r"train\.ghn = .*: GHNConfig has no field 'foo'; its fields are",
        ),
        ({"ghn": {"self": 3}}, r"train\.ghn = .*: GHNConfig has no field 'self'"),
        (
            {"ghn": {"hidden": 30}},
            r"train\.ghn = .*: GHNConfig\.hidden is 30; it must be",
        ),
        ({"ghn": {"num_classes": 3}}, r"train\.ghn = .*: num_classes is that of the images"),
        ({"split": "nope"}, r"train\.split = 'nope': no split of generate\.splits; known: train"),
        ({"phases": [{"channels": [96, 32]}]}, r"train\.phases\.0\.channels = .*increasing pair"),
        ({"phases": [{"fc_dim": [0, 1]}]}, r"train\.phases\.0\.fc_dim = .*increasing pair"),
        (
            {"curve_torchvision": ["resnet19"]},
            r"train\.curve_torchvision = .*: no network fits 'resnet19'; nearest: resnet18",
        ),
        (
            {"curve_torchvision": ["resnet*"]},
            r"train\.curve_torchvision = .*'resnet\*' is a pattern",
        ),
        ({"population": []}, r"train\.population = .*: tuple should have at least 1 item"),
        (
            {"population": [{"networks": "deepnets1m", "max_gmacs": 0.01}]},
            r"train\.population\.0 = .*: exclude and max_gmacs do not hold for deepnets1m",
        ),
        (
            {"population": [{"networks": "deepnets1m", "exclude": ["deep*"]}]},
            r"train\.population\.0 = .*: exclude and max_gmacs do not hold for deepnets1m",
        ),
    ],
)
def test_what_is_to_be_trained_is_checked_before_any_stage(
    tree: Path, train: dict, message: str
) -> None:
    change(train=train)
    with pytest.raises(ConfigError, match=message):
        load_params()


@pytest.mark.parametrize("split", ["val", "test", "wide", "deep", "dense", "bnfree"])
def test_what_is_measured_by_is_not_trained_on(tree: Path, split: str) -> None:
    change(train={"split": split})
    with pytest.raises(ConfigError, match=rf"train\.split = '{split}': .* kept for measuring"):
        load_params()


def test_a_split_to_train_on_has_rules_or_is_there(tree: Path) -> None:
    change(train={"split": "mine"}, generate={"splits": {"mine": {"size": 3}}})
    assert load_params().train.split == "mine"
    change(train={"split": "imported"})
    (tree / "data" / "deepnets1m").mkdir(parents=True)
    (tree / "data" / "deepnets1m" / "imported.h5").touch()
    assert load_params().train.split == "imported"


def test_no_architectures_at_all_are_refused(tree: Path) -> None:
    change(architectures={"splits": [], "torchvision": ["resnet18"]})
    assert load_params().architectures.splits == ()
    change(architectures={"torchvision": []})
    with pytest.raises(ConfigError, match=r"architectures\.splits = \(\): nothing would be pred"):
        load_params()


def test_unknown_architectures_are_refused_before_the_training(tree: Path) -> None:
    change(architectures={"torchvision": ["resnet18", "resnet19"]})
    with pytest.raises(ConfigError, match=r"architectures\.torchvision = .*fits 'resnet19'; near"):
        load_params()


@pytest.mark.parametrize("section", ["base", "train"])
@pytest.mark.parametrize("seed", [-1, 2**63, 2**64])
def test_seeds_are_those_that_every_library_takes(tree: Path, section: str, seed: int) -> None:
    change(**{section: {"seed": 2**63 - 1}})
    load_params()
    change(**{section: {"seed": seed}})
    with pytest.raises(ConfigError, match=rf"{section}\.seed = {seed}"):
        load_params()


@pytest.mark.parametrize("name", [".", "..", ".hidden"])
def test_a_hypernetwork_has_a_directory_of_its_own(tree: Path, name: str) -> None:
    change(base={"ghn": name})
    with pytest.raises(ConfigError, match=r"base\.ghn = '\.+"):
        load_params()


def test_a_hypernetwork_is_not_called_as_a_baseline(tree: Path) -> None:
    change(base={"ghn": "orthogonal"})
    with pytest.raises(ConfigError, match=r"base\.ghn = 'orthogonal': it is the name of another"):
        load_params()


def test_workers_of_a_stream_divide_its_lanes(tree: Path) -> None:
    change(images={"workers": 4})
    assert load_params().images.workers == 4
    change(images={"workers": 3})
    with pytest.raises(ConfigError, match=r"images\.workers = 3: 8 must divide by it"):
        load_params()


def test_a_stream_is_not_cut_down(tree: Path) -> None:
    change(images={"stream": True}, finetune={"max_train": 64})
    with pytest.raises(ConfigError, match=r"finetune\.max_train = 64: max_train needs"):
        load_params()
    change(finetune={"max_train": None})
    assert load_params().images.stream
    for limit in ("max_train", "few_shot"):
        with pytest.raises(ValidationError, match=f"{limit} needs the training images in memory"):
            ImagesSpec(name="cifar10", stream=True, **{limit: 64})


STARTS = (
    "ghn", "fixup", "ghn3", "ghn3+orth2", "ghn3xlm16", "ghn2.pt", "ghn3-cifar10+orth1", "other",
    "mine.safetensors", "a/directory", "hf://owner/repository/file", "models:/ghn3@champion",
    "selection=larger.pt",
)  # fmt: skip


@pytest.mark.parametrize("section", ["finetune", "transfer"])
def test_starts_are_known_names_or_places(tree: Path, section: str) -> None:
    weights = tree / "models" / "other" / "ghn.safetensors"
    weights.parent.mkdir(parents=True)
    weights.touch()
    change(**{section: {"inits": list(STARTS)}})
    assert getattr(load_params(), section).inits == STARTS
    wrong = ["foo", "selection", "selection=", "ghn+orth2", "randinit+orth1", "x" * 300]
    change(**{section: {"inits": ["ghn", *wrong]}})
    with pytest.raises(ConfigError, match=f"{len(wrong)} problems") as error:
        load_params()
    for number, init in enumerate(wrong, 1):
        assert f"{section}.inits.{number} = '{init}': no such start; use ghn, " in str(error.value)


@pytest.mark.parametrize(
    ("alias", "reason"),
    [
        ("champion", "the comparison alone makes a champion"),
        ("latest", "reserved by MLflow"),
        ("Latest", "reserved by MLflow"),
        ("v12", "reserved by MLflow"),
    ],
)
def test_an_alias_that_is_not_ours_to_give_is_refused_before_the_training(
    tree: Path, alias: str, reason: str
) -> None:
    change(register={"alias": alias})
    with pytest.raises(ConfigError, match=f"register.alias = '{alias}': .*{reason}"):
        load_params()


@pytest.mark.parametrize("name", ["ghn-3.1", "..", " "])
def test_a_model_is_not_called_what_mlflow_refuses(tree: Path, name: str) -> None:
    change(register={"name": name})
    with pytest.raises(ConfigError, match=r"register\.name"):
        load_params()


def test_unknown_section_lists_the_sections(tree: Path) -> None:
    change(evalute={"images": 3})
    with pytest.raises(ConfigError, match=r"evalute: unknown; allowed: base, fanout, .*evaluate"):
        load_params()


def test_missing_section_is_named(tree: Path) -> None:
    path = Path("params.yaml")
    path.write_text(
        yaml.safe_dump({k: v for k, v in yaml.safe_load(path.read_text()).items() if k != "train"})
    )
    with pytest.raises(ConfigError, match="train: missing"):
        load_params()


@pytest.mark.parametrize(
    ("text", "message"), [("a: [", "not valid YAML"), ("- 1", "must be a mapping"), ("", "mapping")]
)
def test_malformed_file(tree: Path, text: str, message: str) -> None:
    Path("params.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_params()


def test_absent_file_says_where_to_run(tree: Path) -> None:
    Path("params.yaml").unlink()
    with pytest.raises(ConfigError, match="root of the tree"):
        load_params()


def test_use_profile_keeps_comments_and_is_what_load_gives(tree: Path) -> None:
    expected = load_params(profile="tiny")
    assert use_profile("tiny") == expected == load_params()
    assert "# models/<ghn>" in Path("params.yaml").read_text()


def test_unknown_profile_lists_those_that_exist(tree: Path) -> None:
    with pytest.raises(ConfigError, match="there are gpu, laptop, paper, tiny"):
        use_profile("papper")


def test_an_invalid_profile_leaves_the_file_alone(tree: Path) -> None:
    (tree / "params" / "bad.yaml").write_text("base: {seed: -1}")
    before = Path("params.yaml").read_text()
    with pytest.raises(ConfigError, match=r"base\.seed = -1"):
        use_profile("bad")
    assert Path("params.yaml").read_text() == before


def test_merge_replaces_leaves_only() -> None:
    merged = parameters.merge({"a": {"b": 1, "c": 2}, "d": [1, 2]}, {"a": {"c": 3}, "d": [3]})
    assert merged == {"a": {"b": 1, "c": 3}, "d": [3]}


def test_the_paper_profile_is_the_paper_s_setting(tree: Path) -> None:
    from datasets.deepnets import MetaBatchConfig
    from datasets.deepnets.space.rules import PUBLISHED
    from ghn.models import GHNConfig

    params = load_params(profile="paper")
    assert params.generate.rules()["train"] == PUBLISHED["train"]
    assert params.train.hypernetwork(1000) == GHNConfig.variant("ghn3-t", 1000)
    assert params.train.networks == MetaBatchConfig()
    assert (params.train.output_gain, params.train.network_clip) == (1, None)
    assert params.train.steps * params.train.batch_size == pytest.approx(75 * 1_281_167, rel=0.01)
    assert params.finetune.grid.lr == (0.4, 0.1, 0.04, 0.01, 0.001)


def test_reading_parameters_imports_no_library_of_a_stage() -> None:
    """`ghn params check` is to answer at once."""
    heavy = {"torch", "h5py", "mlflow", "pandas", "numpy", "pyarrow", "torchvision"}
    code = (
        "import pkgutil, sys, flows.params, flows.settings\n"
        "for module in pkgutil.iter_modules(flows.settings.__path__):\n"
        "    __import__(f'flows.settings.{module.name}')\n"
        f"sys.exit(', '.join(sorted({heavy!r} & set(sys.modules))) or 0)"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (found.returncode, found.stderr) == (0, "")
