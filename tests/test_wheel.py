"""The wheel, built and installed where nothing of this checkout is on the path."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

SHOWN = """
import torch, ghn
from ghn.architectures import build

hypernetwork = ghn.from_pretrained()
model = hypernetwork(build("squeezenet1_1", num_classes=10, image_size=32))
images = [(torch.randn(8, 3, 32, 32), torch.zeros(8, dtype=torch.long))]
ghn.reestimate_batch_norm(model, images)
assert model.eval()(images[0][0]).shape == (8, 10)
print(ghn.__file__)
"""
"""The Python lines of the README, on a small network."""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    tracked = subprocess.run(["git", "archive", "HEAD"], cwd=ROOT, check=True, capture_output=True)
    subprocess.run(["tar", "-x", "-C", source], input=tracked.stdout, check=True)
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--wheel-dir", str(out), str(source)], check=True)
    (built,) = out.glob("*.whl")
    return built


@pytest.mark.slow
def test_a_wheel_has_licence_types_weights_and_no_pipeline(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as file:
        names = file.namelist()
        (entry_points,) = (name for name in names if name.endswith("entry_points.txt"))
        scripts = file.read(entry_points).decode()
    ends = ("/licenses/LICENSE", "/licenses/NOTICE", "ghn/py.typed", "ghn/__init__.pyi")
    for end in (*ends, "ghn/pretrained/ghn3-cifar10.safetensors"):
        assert any(name.endswith(end) for name in names), end
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {"ghn"}
    assert "flows" not in scripts
    assert "ghn = ghn.cli:main" in scripts


@pytest.mark.slow
def test_what_the_readme_shows_works_from_a_wheel(wheel: Path, tmp_path: Path) -> None:
    """Its dependencies are those of this environment, but not this checkout."""
    environment = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(environment)], check=True)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    packages = environment / "lib" / version / "site-packages"
    target = ["--target", str(packages), "--no-deps", "--quiet", str(wheel)]
    subprocess.run([sys.executable, "-m", "pip", "install", *target], check=True)
    others = [sysconfig.get_path(name) for name in ("purelib", "platlib")]
    # As lines of a .pth file: their own .pth files, one of which names the checkout, are not read.
    (packages / "others.pth").write_text("\n".join(dict.fromkeys(others)) + "\n")
    clean = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}

    def run(*arguments: str) -> str:
        command = [str(environment / "bin" / "python"), *arguments]
        result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=clean)
        assert result.returncode == 0, result.stderr
        return result.stdout

    assert run("-c", SHOWN).strip() == str(packages / "ghn" / "__init__.py")
    commands = run("-c", "import sys; sys.argv[1:] = ['--help']; from ghn.cli import main; main()")
    assert " init " in commands
    assert " evaluate " not in commands.split("Commands")[-1]
