"""The MLflow model: packaged, loaded again, asked; and behind MLflow's scoring server."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import urllib.request
from pathlib import Path
from urllib.error import HTTPError

import pytest
import torch
from safetensors.torch import load, load_file

from flows.serving import package as packaging
from flows.serving.network import builder, outline
from flows.serving.package import package
from flows.tracking.spool import send_pending
from ghn.checkpoint import save_checkpoint
from ghn.errors import ConfigError, UnknownArchitectureError
from ghn.models import GHN, GHNConfig

LAYERS = [
    ["Conv2d", 3, 16, 3],
    ["ReLU"],
    {"residual": [["Conv2d", 16, 16, 3, {"padding": 1}], ["BatchNorm2d", 16]]},
    ["AdaptiveAvgPool2d", 1],
    ["Flatten"],
    ["Linear", 16, 10],
]


def test_layers_in_a_row():
    network = builder(json.dumps({"layers": LAYERS}), 10, 32)("cpu")
    assert network(torch.zeros(2, 3, 32, 32)).shape == (2, 10)
    shapes = outline(builder(json.dumps({"layers": LAYERS}), 10, 32))
    assert [p.shape for p in shapes.parameters()] == [p.shape for p in network.parameters()]
    assert all(tensor.is_meta for tensor in shapes.state_dict().values())


@pytest.mark.parametrize(
    ("architecture", "error", "message"),
    [
        ("resnet5O", UnknownArchitectureError, "resnet5O"),
        ("timm/hf-hub:owner/name", UnknownArchitectureError, "only names"),
        ("{", ConfigError, "not valid JSON"),
        ('{"layers": [["Linear", 1, 2]], "more": 1}', ConfigError, "a description is"),
        (
            '{"layers": [["Linear", 1, 2], ["exec", "x"]]}',
            ConfigError,
            r"layers\[1\]: no layer 'exec'",
        ),
        ('{"layers": [["Linear", 1]]}', ConfigError, r"layers\[0\]: Linear"),
        (
            '{"layers": [{"residual": [["Linear", "a", 2]]}]}',
            ConfigError,
            r"layers\[0\]\.residual\[0\]",
        ),
        *(
            (f'{{"layers": [["Linear", 100000, 100000, {given}]]}}', ConfigError, "the server's")
            for given in ('true, "cpu"', 'true, null, "float64"', '{"device": "cpu"}')
        ),
        ('{"layers": [7]}', ConfigError, r"layers\[0\]: a layer is"),
        (json.dumps({"layers": [["ReLU"]] * 3000}), ConfigError, "3000 layers; at most 2000"),
        ('{"deepnets": {"n_cells": 3}}', ConfigError, "genotype"),
    ],
)
def test_what_cannot_be_built_is_refused_with_the_reason(architecture, error, message):
    with pytest.raises(error, match=message):
        outline(builder(architecture, 10, 32))


@pytest.fixture(scope="module")
def model_directory(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    hypernetwork = GHN(GHNConfig(hidden=16, layers=1, heads=2, num_classes=10, decoder_kernel=11))
    save_checkpoint(hypernetwork, directory / "ghn.safetensors")
    return package(directory / "ghn.safetensors", directory / "mlflow")


def table(*rows: tuple[str, int, int], **params: object) -> dict[str, object]:
    request: dict[str, object] = {
        "dataframe_split": {"columns": ["architecture", "classes", "image_size"], "data": rows}
    }
    return request | ({"params": params} if params else {})


def test_what_is_packaged(model_directory):
    import mlflow

    info = mlflow.models.get_model_info(str(model_directory))
    assert [column.name for column in info.signature.inputs] == [
        "architecture",
        "classes",
        "image_size",
    ]
    assert {parameter.name for parameter in info.signature.params} == {"delivery", "dtype", "seed"}
    assert info.saved_input_example_info is not None
    requirements = (model_directory / "requirements.txt").read_text().split()
    assert all("==" in line for line in requirements)
    assert {line.split("==")[0] for line in requirements} >= {
        "torch",
        "torchvision",
        "mlflow",
        "safetensors",
    }
    code = model_directory / "code"
    assert {path.name for path in code.iterdir()} == {"ghn", "datasets", "flows"}
    of_flows = {path.relative_to(code).as_posix() for path in (code / "flows").rglob("*.py")}
    serving = {f"flows/serving/{name}.py" for name in ("__init__", "model", "network")}
    assert of_flows == {"flows/__init__.py", *serving}


def test_in_a_process_without_this_code_pytorch_gives_the_hypernetwork(model_directory):
    """With the code that the model carries, and no other."""
    program = (
        "import sys, mlflow.pytorch\n"
        f"model = mlflow.pytorch.load_model({str(model_directory)!r})\n"
        "import ghn; assert 'mlflow/code' in ghn.__file__, ghn.__file__\n"
        f"answer = mlflow.pyfunc.load_model({str(model_directory)!r})\n"
        "import flows; assert 'mlflow/code' in flows.__file__, flows.__file__\n"
        "print(type(model).__name__, model.config.hidden)"
    )
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    result = subprocess.run(
        [sys.executable, "-P", "-c", program],
        capture_output=True,
        text=True,
        env=environment,
        cwd=model_directory.parent,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "GHN 16"


def test_artifacts_have_their_names_where_dvc_keeps_links_into_its_cache(tmp_path):
    from ghn import from_pretrained

    cache = tmp_path / "cache" / "files" / "md5" / "dd"
    config = GHNConfig(hidden=16, layers=1, heads=2, num_classes=10, decoder_channels=8)
    save_checkpoint(GHN(config), cache / "00f90c86")
    (cache / "11aa").write_bytes(b"rows")
    weights, rows = tmp_path / "ghn.safetensors", tmp_path / "evaluation.parquet"
    weights.symlink_to(cache / "00f90c86")
    rows.symlink_to(cache / "11aa")
    model = package(weights, tmp_path / "models" / "model", rows)
    kept = {path.name: path for path in (model / "artifacts").iterdir()}
    assert kept.keys() == {"ghn.safetensors", "evaluation.parquet"}
    assert not any(path.is_symlink() for path in kept.values())
    assert kept["evaluation.parquet"].read_bytes() == b"rows"
    assert from_pretrained(model).config == config
    assert [path.name for path in (tmp_path / "models").iterdir()] == ["model"]


def test_a_sender_of_other_logs_leaves_alone_what_is_being_packaged(tmp_path, monkeypatch):
    weights, spool = tmp_path / "ghn.safetensors", tmp_path / "spool"
    config = GHNConfig(hidden=16, layers=1, heads=2, num_classes=10, decoder_channels=8)
    save_checkpoint(GHN(config), weights)
    (spool / "models").mkdir(parents=True)
    (spool / "20261127T000000-register-01234567.open").touch()  # the stage's own, which is going on
    serving = packaging._serving

    def meanwhile(staged: Path) -> Path:
        made = serving(staged)
        send_pending(spool, attempts=0)  # another stage has ended
        return made

    monkeypatch.setattr(packaging, "_serving", meanwhile)
    model = package(weights, spool / "models" / "0123456789ab")
    assert [path.name for path in (spool / "models").iterdir()] == [model.name]


def test_numbers_that_are_not_whole_are_refused(model_directory):
    import mlflow
    import pandas as pd

    loaded = mlflow.pyfunc.load_model(str(model_directory))
    for classes in (1.5, 0, -3):
        rows = pd.DataFrame(
            {"architecture": ["squeezenet1_1"], "classes": [classes], "image_size": [32]}
        )
        with pytest.raises(mlflow.MlflowException):
            loaded.predict(rows)


def test_load_model_predicts_what_the_library_predicts(model_directory):
    import mlflow
    import pandas as pd

    from ghn import from_pretrained
    from ghn.architectures import build

    loaded = mlflow.pyfunc.load_model(str(model_directory))
    rows = pd.DataFrame({"architecture": ["squeezenet1_1"], "classes": [10], "image_size": [32]})
    answer = loaded.predict(rows, params={"seed": 3}).iloc[0]
    state = load(base64.b64decode(answer["safetensors"]))
    network = build("squeezenet1_1", num_classes=10, image_size=32)
    network.load_state_dict(state)
    expected = from_pretrained(model_directory).predict(network)
    assert expected.keys() <= state.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(state[name], tensor)
    answers = {loaded.predict(rows, params={"seed": 3}).iloc[0]["sha256"] for _ in range(6)}
    assert answers == {answer["sha256"]}
    half = loaded.predict(rows, params={"dtype": "float16"}).iloc[0]
    assert load(base64.b64decode(half["safetensors"]))["features.0.weight"].dtype == torch.float16


def test_limits_can_be_set_when_loading(model_directory):
    import mlflow
    import pandas as pd

    loaded = mlflow.pyfunc.load_model(str(model_directory), model_config={"max_parameters": 1000})
    rows = pd.DataFrame({"architecture": ["squeezenet1_1"], "classes": [10], "image_size": [32]})
    with pytest.raises(mlflow.MlflowException, match=r"727,626 parameters; at most 1,000"):
        loaded.predict(rows)


@pytest.fixture(scope="module")
def server(model_directory, tmp_path_factory):
    """`ghn serve`, which is MLflow's scoring server behind a limit on requests."""
    from socket import socket

    with socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = (tmp_path_factory.mktemp("server") / "log").open("w")
    served = tmp_path_factory.mktemp("served")
    command = [sys.executable, "-m", "ghn.cli", "serve", str(model_directory), "--port", str(port)]
    command += ["--max-request-bytes", "20000", "--max-parameters", "20000000"]
    process = subprocess.Popen(
        command,
        stdout=log,
        stderr=log,
        env={**os.environ, "GHN_SERVE_DIR": str(served), "OMP_NUM_THREADS": "1"},
    )
    import time

    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(600):
            assert process.poll() is None, Path(log.name).read_text()
            try:
                urllib.request.urlopen(f"{url}/ping", timeout=2)
                break
            except OSError:
                time.sleep(0.2)
        yield url, served
    finally:
        process.terminate()
        process.wait(20)
        log.close()


def ask(url: str, body: object) -> tuple[int, str]:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(
        f"{url}/invocations", data, {"content-type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return response.status, response.read().decode()
    except HTTPError as error:
        return error.code, error.read().decode()


@pytest.mark.server
def test_over_http(server):
    url, served = server
    status, text = ask(
        url, table(("squeezenet1_1", 10, 32), (json.dumps({"layers": LAYERS}), 10, 32))
    )
    assert status == 200
    named, described = json.loads(text)["predictions"]
    assert named["parameters"] == 727_626
    assert "5.weight" in load(base64.b64decode(described["safetensors"]))

    status, text = ask(url, table(("squeezenet1_1", 10, 32), delivery="path"))
    (answer,) = json.loads(text)["predictions"]
    assert (status, answer["safetensors"]) == (200, "")
    assert Path(answer["path"]).parent == served
    assert load_file(answer["path"]).keys() == load(base64.b64decode(named["safetensors"])).keys()


@pytest.mark.server
@pytest.mark.parametrize(
    ("body", "status", "reason"),
    [
        (table(("resnet5O", 10, 32)), 404, "resnet5O"),
        (table(('{"layers": [["exec"]]}', 10, 32)), 400, "no layer 'exec'"),
        (table(("vgg16", 1000, 224)), 400, "138,357,544 parameters; at most 20,000,000"),
        (table(("squeezenet1_1", 10, 5000)), 400, "image_size is 5,000 pixels"),
        (table(("squeezenet1_1", 10, 32), dtype="int8"), 400, "dtype='int8'"),
        (table(*[("squeezenet1_1", 10, 32)] * 17), 400, "17 networks in a request; at most 16"),
        (table(("x" * 30_000, 10, 32)), 413, "at most 20000 bytes"),
        (b"not json", 400, "JSON"),
        (b"[" * 9_000 + b"]" * 9_000, 400, "recursion limit"),
        (table(("squeezenet1_1", 1.5, 32)), 400, "rows.0.classes"),  # type: ignore[arg-type]
    ],
)
def test_refusals_have_a_status_and_a_reason(server, body, status, reason):
    got, text = ask(server[0], body)
    assert got == status
    assert reason in json.loads(text)["message"]


@pytest.mark.server
def test_fifty_at_once_beside_clients_that_are_slow(server):
    import socket
    from concurrent.futures import ThreadPoolExecutor
    from urllib.parse import urlsplit

    url, _ = server
    body = table((json.dumps({"layers": LAYERS}), 10, 32))
    slow = []
    for _ in range(20):  # each has sent half of a request
        connection = socket.create_connection((urlsplit(url).hostname, urlsplit(url).port))
        connection.sendall(
            b"POST /invocations HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
            b"content-length: 1000\r\n\r\n{"
        )
        slow.append(connection)
    with ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(lambda _: ask(url, body), range(50)))
    assert [status for status, _ in answers] == [200] * 50
    hashes = {json.loads(text)["predictions"][0]["sha256"] for _, text in answers}
    assert len(hashes) == 1
    for connection in slow:
        connection.close()
