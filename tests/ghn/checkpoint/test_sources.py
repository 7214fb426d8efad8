"""Names, paths and URIs lead to hypernetworks, or to an error that says what to do."""

from __future__ import annotations

import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
import torch

from ghn import GHN, GHNConfig, from_pretrained, save_checkpoint
from ghn.checkpoint import describe, sources
from ghn.errors import ConfigError, MissingDependencyError, UnreachableError

SMALL = GHNConfig(hidden=8, heads=2, layers=1, num_classes=5, decoder_channels=8, decoder_kernel=11)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    save_checkpoint(GHN(SMALL), path := tmp_path / "mine.safetensors", {"epoch": 2})
    return path


def test_a_path(weights: Path) -> None:
    hypernetwork = from_pretrained(weights)
    assert hypernetwork.config == SMALL
    assert hypernetwork.metadata == {"source": str(weights), "epoch": 2}
    assert from_pretrained(str(weights), device="cpu").device.type == "cpu"


def test_the_package_comes_with_one(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "packaged", lambda: {"mine": weights})
    assert from_pretrained().metadata["source"] == "mine.safetensors"
    assert from_pretrained("mine").config == SMALL
    monkeypatch.setattr(sources, "packaged", dict)
    with pytest.raises(ConfigError, match="comes with no hypernetworks; pass a file"):
        from_pretrained()
    monkeypatch.setattr(sources, "packaged", lambda: {"mine": weights, "other": weights})
    with pytest.raises(ConfigError, match="comes with 2 hypernetworks; pass one of mine, other"):
        from_pretrained()


def test_an_unknown_name() -> None:
    with pytest.raises(
        ConfigError, match=r"no hypernetwork 'ghn9': neither a file nor one of .*ghn3tm8\.pt"
    ):
        from_pretrained("ghn9")
    with pytest.raises(ConfigError, match="names no file"):
        from_pretrained("hf://owner/repository")


@pytest.mark.parametrize("name", ["ghn3tm8.pt", "ghn3tm8", "hf://some/where/ghn.pt"])
def test_the_hub_offline(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    constants = pytest.importorskip(
        "huggingface_hub.constants", reason="huggingface_hub is not installed"
    )
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(
        UnreachableError, match="offline, download the file elsewhere and pass its path"
    ):
        from_pretrained(name)


@pytest.mark.parametrize("silent", [False, True])
def test_a_hub_that_cannot_be_reached_costs_seconds(
    silent: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Nobody listens there, or somebody who never answers."""
    constants = pytest.importorskip(
        "huggingface_hub.constants", reason="huggingface_hub is not installed"
    )
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        if not silent:
            server.close()
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{port}")
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
        monkeypatch.setattr(sources, "PROBE_SECONDS", 1.0)
        started = time.monotonic()
        with pytest.raises(UnreachableError, match=r"does not answer.* offline, download") as said:
            from_pretrained("ghn3tm8")
        assert said.value.__suppress_context__  # a line, not the library's three tracebacks
        assert time.monotonic() - started < 10


def test_the_hub_cache(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    huggingface_hub = pytest.importorskip(
        "huggingface_hub", reason="huggingface_hub is not installed"
    )
    asked: list[tuple[str, str]] = []

    def download(repository: str, file: str, local_files_only: bool) -> str:
        assert not local_files_only
        asked.append((repository, file))
        return str(weights)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    monkeypatch.setattr(sources, "_answers", lambda url: True)
    assert from_pretrained("ghn3xlm16").config == SMALL
    assert from_pretrained("hf://owner/repository/folder/ghn.pt").config == SMALL
    assert asked == [
        ("SamsungSAILMontreal/ghn3", "ghn3xlm16.pt"),
        ("owner/repository", "folder/ghn.pt"),
    ]


@pytest.mark.parametrize(
    ("module", "name"), [("huggingface_hub", "ghn3tm8"), ("mlflow", "models:/x@champion")]
)
def test_optional_packages_are_named(
    module: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingDependencyError, match=f"pip install {module}$"):
        from_pretrained(name)


def test_an_mlflow_registry(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model version whose artifacts hold ghn.safetensors, by alias and by number."""
    mlflow = pytest.importorskip("mlflow", reason="mlflow is not installed")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    client = mlflow.MlflowClient()
    (artifacts := tmp_path / "artifacts").mkdir()
    (artifacts / "ghn.safetensors").write_bytes(weights.read_bytes())
    (artifacts / "MLmodel").write_text("flavors: {}\n")
    client.create_registered_model("hypernetwork")
    version = client.create_model_version("hypernetwork", artifacts.as_uri())
    client.set_registered_model_alias("hypernetwork", "champion", version.version)
    for uri in ("models:/hypernetwork@champion", "models:/hypernetwork/1"):
        hypernetwork = from_pretrained(uri)
        assert hypernetwork.config == SMALL
        assert hypernetwork.metadata["source"] == uri
        about = describe(uri)
        assert about["bytes"] == weights.stat().st_size
        assert about["metadata"]["source"] == uri
    with pytest.raises(UnreachableError, match="MLFLOW_TRACKING_URI says where"):
        from_pretrained("models:/hypernetwork@challenger")


def test_copies_from_mlflow_do_not_stay(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow = pytest.importorskip("mlflow", reason="mlflow is not installed")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    experiment = mlflow.create_experiment("x", artifact_location=(tmp_path / "runs").as_uri())
    with mlflow.start_run(experiment_id=experiment) as run:
        mlflow.log_artifact(str(weights))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "copies"))
    (tmp_path / "copies").mkdir()
    uri = f"runs:/{run.info.run_id}/{weights.name}"
    assert from_pretrained(uri).metadata["source"] == uri
    assert not list((tmp_path / "copies").iterdir())
    about = describe(uri)
    assert about["file"] == about["metadata"]["source"] == uri
    assert not list((tmp_path / "copies").iterdir())


def test_an_mlflow_registry_that_is_absent_or_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("mlflow", reason="mlflow is not installed")
    store = tmp_path / "mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{store}")
    with pytest.raises(UnreachableError, match=r"no MLflow store here .*mlflow\.db"):
        from_pretrained("models:/hypernetwork@champion")
    assert not store.exists()
    store.write_text("no data base" * 1000)
    with pytest.raises(UnreachableError, match="not a database"):
        from_pretrained("models:/hypernetwork@champion")


def test_an_mlflow_that_is_away_is_named_without_its_password(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    pytest.importorskip("mlflow", reason="mlflow is not installed")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://alice:s3cret@127.0.0.1:9")
    with pytest.raises(UnreachableError, match="could not be had from MLflow") as error:
        from_pretrained("models:/ghn3@champion")
    assert "s3cret" not in str(error.value)
    assert "127.0.0.1" in str(error.value)


def test_importing_ghn_imports_no_torch() -> None:
    code = (
        "import sys, ghn; assert 'torch' not in sys.modules and 'numpy' not in sys.modules;"
        " ghn.GHNConfig"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
