"""Networks by `FILE.py:NAME` and `MODULE:NAME`."""

import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import ghn
from datasets.images import load
from ghn.architectures.own import find_factory, network
from ghn.errors import ConfigError, GHNError, UnknownArchitectureError
from ghn.files import read_safetensors
from ghn.initialize import save_initialized, trace_architecture

CODE = """
import torch
from torch import nn

class Small(nn.Module):
    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.body, self.head = nn.Conv2d(3, 8, 3), nn.Linear(8, classes)

    def forward(self, x):
        return self.head(self.body(x).relu().mean((2, 3)))

class Sized(nn.Module):
    def __init__(self, img_size: int, num_classes: int) -> None:
        super().__init__()
        self.head = nn.Linear(3 * img_size**2, num_classes)

    def forward(self, x):
        return self.head(x.flatten(1))

class Tied(Small):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.second.weight = self.first.weight

    def forward(self, x):
        return self.head(self.second(self.first(self.body(x)).relu()).mean((2, 3)))

class Normed(Small):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(8)

    def forward(self, x):
        return self.head(self.norm(self.body(x)).relu().mean((2, 3)))

def needs(depth: int, num_classes: int): ...
def number(): return 3
def raises(): raise ValueError("no such\\nthing")
def silent(): raise AssertionError
def unfit(num_classes): return nn.Linear(num_classes)
made = Small()

class Fixed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        shares = [share.item() for share in torch.linspace(0, 0.1, 2)]
        self.body, self.head = nn.Conv2d(1, 8, 3), nn.Linear(8, 10)
        self.scale = nn.Parameter(torch.ones(8) * shares[1])

    def forward(self, x):
        x = self.body(x).mean((2, 3))
        return self.head(x if x.sum() > 0 else -x)

class Stateful(Small):
    def get_extra_state(self):
        return {"version": 1}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(CODE)
    return path


def test_classes_and_size_are_handed_over(file: Path) -> None:
    assert network(f"{file}:Small", 7, 32)(torch.zeros(2, 3, 32, 32)).shape == (2, 7)
    assert network(f"{file}:Sized", 7, 16)(torch.zeros(2, 3, 16, 16)).shape == (2, 7)


def test_a_module_is_imported_from_here(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(file.parent)
    assert network("mine:Small", 3, 32)(torch.zeros(1, 3, 32, 32)).shape == (1, 3)


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("mine.py:Smal", UnknownArchitectureError, "nearest: Small"),
        ("other.py:Small", UnknownArchitectureError, "other.py does not exist"),
        ("no.such.module:Small", UnknownArchitectureError, "no module 'no.such.module'"),
        ("mine.py:needs", ConfigError, "needs depth"),
        ("mine.py:number", ConfigError, "gives a int"),
        (
            "mine.py:raises",
            ConfigError,
            r"cannot be made: ValueError: no such thing \(.*mine.py:40\)",
        ),
        ("mine.py:silent", ConfigError, r"cannot be made: AssertionError \(.*mine.py:41\)"),
        ("mine.py:unfit", ConfigError, r"cannot be made: TypeError: .*features.* \(.*mine.py:42\)"),
        ("mine.py", UnknownArchitectureError, "called 'mine.py'; .*: mine.py:NAME"),
        ("mine.py:made", ConfigError, "name the class or function"),
        ("broken.py:Small", ConfigError, r"broken.py cannot be imported: SyntaxError"),
        (
            "missing.py:Small",
            ConfigError,
            r"missing.py cannot be imported: AttributeError: .*Conv9",
        ),
    ],
)
def test_what_cannot_be_made_is_said(
    file: Path, name: str, error: type[GHNError], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(file.parent)
    Path("broken.py").write_text("class Small(:")
    Path("missing.py").write_text("from torch import nn\nnn.Conv9d\n")
    modules = set(sys.modules)
    with pytest.raises(error, match=message):
        network(name, 10, 32)
    assert not [
        name for name in sys.modules.keys() - modules if "broken" in name or "missing" in name
    ]


def test_a_file_runs_once_until_it_changes(tmp_path: Path) -> None:
    path = tmp_path / "drawn.py"
    path.write_text(f"import torch\ntorch.rand(1)\n{CODE}")
    time.sleep(0.2)  # of a file that has just changed nobody knows whether it changes again
    place, state = list(sys.path), torch.get_rng_state()
    first = find_factory(f"{path}:Small")
    assert find_factory(f"{path}:Small") is first
    assert torch.equal(torch.get_rng_state(), state)
    assert sys.path == [*place, str(tmp_path)]
    path.write_text(CODE.replace("8", "16"))
    assert network(f"{path}:Small", 3, 32).body.out_channels == 16


SHADOWING = """
import sys
from pathlib import Path
import flows
from ghn.architectures.own import network

place = list(sys.path)
made = [network(name, 3, 32) for name in sys.argv[1:]]
import datasets.images
import ghn
assert sys.path == [*place, str(Path("proj").resolve())]
print([one.width for one in made], made[0].late(), ghn.GHN.__name__, datasets.images.load.__name__)
"""

SHADOWED = """
import datasets
from torch import nn

class Net(nn.Module):
    width = datasets.WIDTH

    def late(self):
        import blocks
        return blocks.DEPTH
"""


def test_files_may_be_called_as_our_packages(tmp_path: Path) -> None:
    (project := tmp_path / "proj").mkdir()
    for name in ("ghn.py", "net.py"):
        (project / name).write_text(SHADOWED)
    (project / "datasets.py").write_text("WIDTH = 5")
    (project / "blocks.py").write_text("DEPTH = 7")
    names = ["proj/ghn.py:Net", "proj/net.py:Net"]
    command = [sys.executable, "-c", SHADOWING, *names]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("[5, 5] 7 GHN load\n", "")


def test_a_module_here_does_not_hide_ours(tmp_path: Path) -> None:
    (project := tmp_path / "proj").mkdir()
    (project / "net.py").write_text(SHADOWED)
    (project / "datasets.py").write_text("WIDTH = 5")
    (project / "blocks.py").write_text("DEPTH = 7")
    code = SHADOWING.replace('"proj"', '"."')
    command = [sys.executable, "-c", code, "net:Net"]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("[5] 7 GHN load\n", "")


def test_a_file_does_not_name_code_to_run(file: Path, tmp_path: Path) -> None:
    out = tmp_path / "own.safetensors"
    said = save_initialized(f"{file}:Small", None, out, 5)
    assert "YOUR_NETWORK" in said
    with pytest.raises(ConfigError, match=r"pass that network"):
        ghn.load_initialized(out)
    model = network(f"{file}:Small", 5, 32)
    before = model.head.weight.clone()
    assert ghn.load_initialized(out, model) is model
    assert not torch.equal(before, model.head.weight)
    with pytest.raises(ConfigError, match="not of this"):
        ghn.load_initialized(out, network(f"{file}:Small", 6, 32))


def test_half_precision_halves_the_file(file: Path, tmp_path: Path) -> None:
    whole, half = tmp_path / "whole.safetensors", tmp_path / "half.safetensors"
    save_initialized(f"{file}:Small", None, whole)
    save_initialized(f"{file}:Small", None, half, dtype=torch.float16)
    models = [ghn.load_initialized(f, network(f"{file}:Small", 10, 32)) for f in (whole, half)]
    assert models[1].head.weight.dtype == torch.float32
    torch.testing.assert_close(models[0].state_dict(), models[1].state_dict(), rtol=1e-3, atol=1e-5)
    assert half.stat().st_size < whole.stat().st_size


@pytest.mark.parametrize("dtype", [None, torch.float16])
def test_tied_parameters_come_back_tied(
    file: Path, tmp_path: Path, dtype: torch.dtype | None
) -> None:
    out = tmp_path / "tied.safetensors"
    save_initialized(f"{file}:Tied", None, out, dtype=dtype)
    model = network(f"{file}:Tied", 10, 32)
    expected = ghn.from_pretrained()(network(f"{file}:Tied", 10, 32)).second.weight
    ghn.load_initialized(out, model)
    assert model.second.weight is model.first.weight
    torch.testing.assert_close(model.first.weight, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "n_images", "said"),
    [("Normed", 60, "60"), ("Normed", 200, "128"), ("Normed", 600, "512"), ("Small", 60, None)],
)
def test_the_file_says_how_many_images_were_used(
    file: Path, tmp_path: Path, name: str, n_images: int, said: str | None
) -> None:
    images = load("digits", split="train", image_size=8).subset(range(n_images))
    out = tmp_path / "normed.safetensors"
    report = save_initialized(f"{file}:{name}", None, out, image_size=8, images=images)
    assert read_safetensors(out)[1].get("statistics") == said
    assert (f"running statistics are those of {said} images" in report) is (said is not None)


def test_constructors_and_passes_that_need_values_are_traced(file: Path) -> None:
    graph = trace_architecture(f"{file}:Fixed", 10, 32)
    assert [name for name in graph.param if name] == [
        "body.weight", "body.bias", "head.weight", "head.bias",
    ]  # fmt: skip


def test_the_size_of_images_of_one_channel_can_be_told(file: Path, tmp_path: Path) -> None:
    said = save_initialized(f"{file}:Fixed", None, tmp_path / "f.safetensors", image_size=28)
    assert "28 pixels" in said


def test_classes_that_a_network_cannot_be_told_are_refused(file: Path, tmp_path: Path) -> None:
    out = tmp_path / "fixed.safetensors"
    with pytest.raises(ConfigError, match="no argument num_classes"):
        save_initialized(f"{file}:Fixed", None, out, 5)
    assert not out.exists()
    said = save_initialized(f"{file}:Fixed", None, out)
    assert "178 parameters, 32 pixels" in said
    assert "5 classes, 32 pixels" in save_initialized(f"{file}:Small", None, out, 5)


def test_states_of_more_than_tensors_are_refused(file: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="has a dict as '_extra_state'"):
        save_initialized(f"{file}:Stateful", None, tmp_path / "stateful.safetensors")


def test_a_builtin_of_no_signature_is_no_network() -> None:
    with pytest.raises(ConfigError, match="gives a dict"):
        network("builtins:dict", 10, 32)
