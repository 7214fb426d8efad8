"""`ghn init --images`, `ghn compare` and `ghn evaluate FILE`, on a folder of pictures."""

import json
from pathlib import Path

import numpy as np
import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

import ghn
from flows.commands.stages import register
from ghn import cli

CODE = """
from torch import nn

class Small(nn.Module):
    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.body, self.norm = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)
        self.head = nn.Linear(8, num_classes)

    def forward(self, x):
        return self.head(self.norm(self.body(x)).relu().mean((2, 3)))


class Plain(Small):
    def forward(self, x):
        return self.head(self.body(x).relu().mean((2, 3)))
"""


@pytest.fixture(scope="module")
def app() -> typer.Typer:
    made = typer.Typer(cls=cli._Group)
    made.command("list")(cli.list_architectures)
    register(made)
    return made


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with a network of twelve lines and 120 pictures of two classes."""
    monkeypatch.chdir(tmp_path)
    Path("my.py").write_text(CODE)
    random = np.random.default_rng(0)
    for label in ("horizontal", "vertical"):
        directory = Path("photos", label)
        directory.mkdir(parents=True)
        for number in range(60):
            pixels = random.integers(0, 100, (24, 24, 3), dtype=np.uint8)
            (pixels if label == "horizontal" else pixels.transpose(1, 0, 2))[::4] += 150
            Image.fromarray(pixels).save(directory / f"{number}.png")
    return tmp_path


def test_init_with_images_is_ready_for_evaluation(app: typer.Typer, here: Path) -> None:
    done = CliRunner().invoke(app, ["init", "my.py:Small", "--images", "photos"])
    assert done.exit_code == 0, done.output
    assert "2 classes" in done.stdout
    assert "running statistics are those of 86 images" in done.stdout
    command = ["evaluate", "Small.safetensors", "--images", "photos", "--json"]
    assert "--network my.py:Small" in CliRunner().invoke(app, command).stderr
    done = CliRunner().invoke(app, [*command, "--network", "my.py:Small"])
    said = json.loads(done.stdout)
    assert said["n_images"] == 24
    assert said["statistics"] == "own"
    assert 0 <= said["accuracy"] <= 1
    likely = (said["accuracy"] * 24 + 1) / 26  # all or none right of 24 is no certainty
    assert said["standard_error"] == pytest.approx((likely * (1 - likely) / 26) ** 0.5)


def test_init_with_images_says_where_predictions_do_not_help(app: typer.Typer, here: Path) -> None:
    weak = ghn.from_pretrained()
    del weak.metadata["source"]
    ghn.save_checkpoint(weak, "weak.safetensors", {**weak.metadata, "accuracy": {"no norm": 0.1}})
    command = ["init", "my.py:Plain", "--images", "photos", "--from", "weak.safetensors"]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    assert "not known to help" in done.stdout


def test_a_named_network_needs_no_code(app: typer.Typer, here: Path) -> None:
    command = ["init", "squeezenet1_1", "--images", "photos", "-o", "s.safetensors"]
    assert CliRunner().invoke(app, command).exit_code == 0
    done = CliRunner().invoke(app, ["evaluate", "s.safetensors", "--images", "photos"])
    assert "of 24 images (test) of photos" in done.stdout
    assert type(ghn.load_initialized("s.safetensors")).__name__ == "SqueezeNet"


def test_compare_answers_in_words_json_and_a_plot(app: typer.Typer, here: Path) -> None:
    command = ["compare", "my.py:Small", "--images", "photos", "--steps", "3", "--seeds", "1"]
    done = CliRunner().invoke(app, [*command, "--out", "plot.svg"])
    assert done.exit_code == 0, done.output
    for word in (
        "86 training, 10 validation and 24 test images",
        "predicted",
        "random",
        "orthogonal",
    ):
        assert word in done.stdout
    assert "standard error" in done.stdout
    assert "<svg" in Path("plot.svg").read_text()
    found = json.loads(CliRunner().invoke(app, [*command, "--json"]).stdout)
    assert [start["kind"] for start in found["starts"]] == ["predicted", "random", "orthogonal"]
    assert found["gain_error"] > 0
    assert Path("compare.png").is_file()


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["compare", "my.py:Small", "--images", "none"], "no images named 'none'"),
        (["compare", "my.py:Smal", "--images", "photos"], "nearest: Small"),
        (["compare", "my.py:Small", "--images", "photos", "-o", "a.gif"], "a plot is"),
        (["compare", "my.py:Small", "--images", "photos", "--lr=-1"], "learning rate -1 is not"),
        (["evaluate", "none.pt", "--images", "photos"], "none.pt: no such file"),
        (["evaluate", "my.py"], "--images is missing"),
        (["evaluate", "--images", "photos"], "go with a FILE"),
        (["init", "my.py:Small", "--images", "none"], "no images named 'none'"),
    ],
)
def test_errors_are_one_line_and_leave_nothing(
    app: typer.Typer, here: Path, command: list[str], message: str
) -> None:
    before = {path.name for path in here.iterdir()}
    done = CliRunner().invoke(app, command)
    assert done.exit_code in (1, 2)
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert {path.name for path in here.iterdir()} - {"__pycache__"} == before


def test_cifar_as_a_parquet_file(app: typer.Typer, here: Path, data_root: Path) -> None:
    file = data_root / "cifar10-test.parquet"
    command = [
        "evaluate",
        "my.py:Small",
        "--images",
        str(file.resolve()),
        "--split",
        "val",
        "--json",
    ]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["n_images"] == 800


def test_an_accuracy_of_other_classes_is_refused(app: typer.Typer, here: Path) -> None:
    assert (
        CliRunner().invoke(app, ["init", "my.py:Small", "--out", "ten.safetensors"]).exit_code == 0
    )
    asked = ["evaluate", "ten.safetensors", "--network", "my.py:Small", "--images", "photos"]
    done = CliRunner().invoke(app, asked)
    assert done.exit_code == 2
    assert "the network in ten.safetensors has 10 classes, photos has 2" in done.stderr


def test_what_does_not_fit_is_counted_in_a_line(app: typer.Typer, here: Path) -> None:
    assert CliRunner().invoke(app, ["init", "my.py:Small", "--images", "photos"]).exit_code == 0
    asked = ["evaluate", "Small.safetensors", "--network", "resnet18", "--images", "photos"]
    done = CliRunner().invoke(app, asked)
    assert done.exit_code == 2
    assert "(first conv1.weight)" in done.stderr
    assert len(done.stderr) < 300


def test_a_networks_parameters_are_no_hypernetwork(app: typer.Typer, here: Path) -> None:
    assert CliRunner().invoke(app, ["init", "my.py:Small", "--images", "photos"]).exit_code == 0
    with pytest.raises(ghn.errors.UnsupportedFormatError, match=r"parameters of .*Small, not a"):
        ghn.from_pretrained("Small.safetensors")


def test_an_accuracy_of_one_image(app: typer.Typer, here: Path) -> None:
    for number, split in enumerate(("train", "test")):
        for label in ("horizontal", "vertical")[number:]:
            (to := Path("cut", split, label)).mkdir(parents=True)
            for name in ("0.png", "1.png")[number:]:
                (to / name).write_bytes(Path("photos", label, name).read_bytes())
    made = CliRunner().invoke(app, ["init", "my.py:Plain", "--images", "cut"])
    assert made.exit_code == 0, made.stderr
    asked = ["evaluate", "Plain.safetensors", "--network", "my.py:Plain", "--images", "cut"]
    done = CliRunner().invoke(app, asked)
    assert done.exit_code == 0, done.stderr
    assert " of 1 images (test) of cut" in done.stdout
