"""The gate before the scoring server: every body has an answer that is no fault of the server."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flows.serving.network import LAYERS
from flows.serving.package import package
from flows.serving.request import as_body, read_request
from flows.serving.server import Gate, protocol, serve
from flows.tracking.client import TrackingError
from ghn.checkpoint import save_checkpoint
from ghn.errors import ConfigError
from ghn.models import GHN, GHNConfig

ROW = {"architecture": '{"layers": [["Flatten"], ["Linear", 12288, 10]]}', "classes": 10}
RECORD = ROW | {"image_size": 64}


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """MLflow's scoring server with a hypernetwork."""
    import mlflow
    from mlflow.pyfunc import scoring_server

    directory = tmp_path_factory.mktemp("model")
    config = GHNConfig(hidden=16, layers=1, heads=2, num_classes=10, decoder_channels=8)
    save_checkpoint(GHN(config), directory / "ghn.safetensors")
    model = package(directory / "ghn.safetensors", directory / "mlflow")
    limits = {"max_parameters": 1_000_000, "max_nodes": 100}
    return scoring_server.init(mlflow.pyfunc.load_model(str(model), model_config=limits))


def ask(gate: Gate, body: bytes, kind: str | None = "application/json") -> httpx.Response:
    async def post() -> httpx.Response:
        transport = httpx.ASGITransport(gate, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
            headers = {} if kind is None else {"content-type": kind}
            return await client.post("/invocations", content=body, headers=headers)

    return asyncio.run(post())


def test_all_forms_of_tables_are_one_request() -> None:
    split = {"columns": ["classes", "architecture", "image_size"], "data": [[10, "x", 32]]}
    record = {"architecture": "x", "classes": 10, "image_size": 32}
    expected = {"columns": ["architecture", "classes", "image_size"], "data": [["x", 10, 32]]}
    for body in (
        {"dataframe_split": split},
        {"dataframe_split": split | {"index": [0]}},
        {"dataframe_records": [record]},
        {"instances": [record]},
        {"inputs": [record]},
        {"inputs": {key: [value] for key, value in record.items()}},
        {"inputs": record},
    ):
        request = read_request(json.dumps(body | {"params": {"seed": 3}}).encode())
        made = json.loads(as_body(request))
        assert made["dataframe_split"] == expected
        assert made["params"] == {"delivery": "inline", "dtype": "float32", "seed": 3}


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"[" * 20_000 + b"]" * 20_000, "recursion limit"),
        (b'{"instances":' + b"[" * 20_000 + b"]" * 20_000 + b"}", "recursion limit"),
        (b'{"a":' * 20_000, "recursion limit"),
        (b"\xff\xfe", "Invalid JSON"),
        (b"", "Invalid JSON"),
        (b"[]", "a request is an object"),
        (b"{}", "a request is a table"),
        (b'{"instances": [[1]]}', r"rows\.0: Input should be"),
        (json.dumps({"instances": [ROW]}).encode(), r"rows\.0\.image_size: Field required"),
        (json.dumps({"instances": [RECORD | {"classes": 1.5}]}).encode(), "valid integer"),
        (json.dumps({"instances": [RECORD | {"classes": True}]}).encode(), "valid integer"),
        (json.dumps({"instances": [RECORD | {"classes": None}]}).encode(), "valid integer"),
        (json.dumps({"instances": [RECORD | {"classes": 0}]}).encode(), "greater than"),
        (json.dumps({"instances": [RECORD | {"classes": 10**30}]}).encode(), "classes: "),
        (json.dumps({"instances": [RECORD | {"classes": float("nan")}]}).encode(), "integer"),
        (json.dumps({"instances": [RECORD | {"more": 1}]}).encode(), "Extra inputs"),
        (json.dumps({"instances": [RECORD], "params": {"seed": -1}}).encode(), r"params\.seed"),
        (b'{"dataframe_split": {"columns": ["a"], "data": [[1, 2]]}}', "one for each column"),
        (b'{"instances": []}', "rows: List should have at least 1"),
        (b'{"inputs": {"classes": [1], "image_size": [1, 2]}}', "different lengths"),
    ],
)
def test_what_is_no_request_is_refused_with_the_field(body: bytes, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_request(body)
    assert ask(Gate(None), body).status_code == 400  # and MLflow never sees it


def test_nothing_is_worked_out_for_clients_that_have_gone() -> None:
    worked: list[Any] = []
    statuses: list[int] = []

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        worked.append(scope)
        await asyncio.sleep(0.2)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"{}"})

    async def client(gate: Gate, gone: asyncio.Event) -> None:
        body = json.dumps({"instances": [RECORD]}).encode()
        messages = [{"type": "http.request", "body": body}]
        headers = [(b"content-type", b"application/json")]

        async def receive() -> Any:
            if messages:
                return messages.pop()
            await gone.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            if message["type"] == "http.response.start":
                statuses.append(message["status"])

        scope = {"type": "http", "path": "/invocations", "method": "POST", "headers": headers}
        await gate(scope, receive, send)

    async def meet() -> None:
        gate = Gate(slow, slots=1, waiting=2)
        stays, goes = asyncio.Event(), asyncio.Event()
        first = asyncio.create_task(client(gate, stays))
        while not worked:
            await asyncio.sleep(0.01)
        others = [asyncio.create_task(client(gate, goes)) for _ in range(2)]
        while gate.room:
            await asyncio.sleep(0.01)
        goes.set()
        await asyncio.gather(*others)  # before the first has its answer
        assert not first.done()
        await asyncio.gather(first, client(gate, stays))

    asyncio.run(meet())
    assert (len(worked), statuses) == (2, [200, 200])


def test_other_kinds_of_content_are_refused() -> None:
    for kind in (None, "text/csv", "application/vnd.apache.parquet", ""):
        assert ask(Gate(None), b"architecture\nresnet18", kind).status_code == 415


def test_a_network_deeper_than_python_can_call_is_refused(app: Any) -> None:
    rows: Any = [["ReLU"]]
    for _ in range(400):
        rows = [{"residual": rows}]
    for text in (json.dumps({"layers": rows}), '{"layers":' + "[" * 20_000 + "]" * 20_000 + "}"):
        body = json.dumps({"instances": [RECORD | {"architecture": text}]}).encode()
        answer = ask(Gate(app), body)
        assert answer.status_code == 400
        assert "deep" in answer.text or "recursion" in answer.text


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        # what has no parameters takes memory all the same
        ([["Flatten"], ["BatchNorm1d", 4 * 10**9, {"affine": False}]], "at most 1,000,000"),
        ([["Linear", 10**5, 10**5, {"device": "cpu"}]], "device is the server's to choose"),
        # maps of terabytes, of a network that only a real pass might have taken
        ([["Conv2d", 3, 3, 1], ["Upsample", {"scale_factor": 10**4}], ["Conv2d", 5, 10, 1]],
         "fails on inputs"),
        ([["Conv2d", 3, 3, 1], *[["Conv2d", 3, 3, 1]] * 60], "123 nodes; at most 100"),
        ([["Linear", 3, 3, {"\ud800": 1}]], r"\\ud800"),
        ([["\ud800"]], r"no layer '\\\\ud800'"),
        ([["Linear", 10**400, 3]], "Linear"),
        ([["Linear", float("inf"), 3]], "Linear"),
        ([["Conv2d", 3, 3, float("nan")]], "Conv2d"),
        ([["Dropout", float("nan")], ["Linear", 3, 3]], "between 0 and 1"),
    ],
    ids=lambda value: str(value)[:30],
)  # fmt: skip
def test_descriptions_cannot_ask_for_more_than_there_is(
    app: Any, layers: list[Any], message: str
) -> None:
    described = RECORD | {"architecture": json.dumps({"layers": layers})}
    answer = ask(Gate(app), json.dumps({"instances": [described]}).encode())
    assert answer.status_code == 400, answer.text
    assert re.search(message, answer.text), answer.text


@pytest.mark.parametrize(
    ("classes", "image_size", "message"),
    [
        (10, 48, None),
        (10, 64, r"fails on inputs of shape \(2, 3, 64, 64\)"),
        (100, 48, r"shape \(2, 10\) for 2 inputs of shape \(3, 48, 48\).*classes=100"),
    ],
)
def test_a_description_is_of_the_size_and_the_classes_that_it_is_asked_for(
    app: Any, classes: int, image_size: int, message: str | None
) -> None:
    """At 48 pixels, which are none of those that are tried where no size is known."""
    layers = [["Conv2d", 3, 8, 3, 2, 1], ["ReLU"], ["Flatten"], ["Linear", 8 * 24**2, 10]]
    described = json.dumps({"layers": layers})
    record = {"architecture": described, "classes": classes, "image_size": image_size}
    answer = ask(Gate(app), json.dumps({"instances": [record]}).encode())
    assert answer.status_code == (200 if message is None else 400), answer.text
    assert re.search(message or "safetensors", answer.text), answer.text


LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
TREES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=12,
)
ARGUMENTS = st.integers(-2, 70) | st.just({"padding": 1}) | st.floats(-1, 3) | st.none()
LAYER = (
    st.tuples(st.sampled_from([*LAYERS, "exec"]))
    .map(list)
    .flatmap(lambda name: st.lists(ARGUMENTS, max_size=4).map(lambda arguments: name + arguments))
)
NETWORK = st.lists(LAYER | st.builds(lambda rows: {"residual": rows}, st.lists(LAYER, max_size=3)))
DESCRIPTION = st.builds(lambda rows: json.dumps({"layers": rows}), NETWORK)
CELLS = st.builds(lambda tree: json.dumps({"deepnets": tree}), st.dictionaries(st.text(), TREES))
NAMES = st.sampled_from(["squeezenet1_1", "resnet5O", "timm/x", "../x", "deepnets1m/test/1", ""])
VALUE = st.integers(-2, 70) | TREES
RECORDS = st.fixed_dictionaries(
    {
        "architecture": NAMES | DESCRIPTION | CELLS | st.builds(json.dumps, TREES) | TREES,
        "classes": st.just(10) | VALUE,
        "image_size": st.just(32) | VALUE,
    }
)
BODIES = (
    st.binary(max_size=200)
    | TREES.map(lambda tree: json.dumps(tree).encode())
    | st.builds(
        lambda key, rows, params: json.dumps({key: rows, "params": params}).encode(),
        st.sampled_from(["instances", "inputs", "dataframe_records", "dataframe_split"]),
        st.lists(RECORDS, min_size=1, max_size=2) | TREES,
        st.none() | st.dictionaries(st.sampled_from(["seed", "dtype", "delivery"]), TREES),
    )
)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(body=BODIES)
def test_no_body_is_a_fault_of_the_server(app: Any, body: bytes) -> None:
    answer = ask(Gate(app), body)
    assert answer.status_code in (200, 400, 404, 415), answer.text
    assert answer.status_code == 200 or json.loads(answer.text)["message"]


@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
@given(record=RECORDS.filter(lambda record: isinstance(record["architecture"], str)))
def test_no_network_is_a_fault_of_the_server(app: Any, record: dict[str, Any]) -> None:
    body = json.dumps({"instances": [record | {"classes": 10, "image_size": 32}]}).encode()
    answer = ask(Gate(app), body)
    assert answer.status_code in (200, 400, 404), answer.text


class _Client:
    """The other side of an ASGI application, in the order that a test wants."""

    def __init__(self, body: bytes = b"", pause: float = 0.0, accepts: float = 0.0) -> None:
        self.body, self.pause, self.accepts = body, pause, accepts
        self.status = 0
        self.taken = bytearray()

    async def receive(self) -> dict[str, Any]:
        await asyncio.sleep(self.pause)
        return {"type": "http.request", "body": self.body, "more_body": self.pause > 0}

    async def send(self, message: dict[str, Any]) -> None:
        await asyncio.sleep(self.accepts)
        self.status = message.get("status", self.status)
        self.taken += message.get("body", b"")

    async def ask(self, gate: Gate) -> int:
        scope = {
            "type": "http",
            "path": "/invocations",
            "method": "POST",
            "headers": [(b"content-type", b"application/json")],
        }
        await gate(scope, self.receive, self.send)
        return self.status


VALID = json.dumps({"instances": [RECORD]}).encode()


class _Worker:
    """An application whose answers have a size and take a time; counts those that work at once."""

    def __init__(self, size: int, seconds: float) -> None:
        self.size, self.seconds = size, seconds
        self.now = self.most = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await receive()
        self.now += 1
        self.most = max(self.most, self.now)
        await asyncio.sleep(self.seconds)
        self.now -= 1
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": bytes(self.size)})


def test_fifty_requests_at_once_are_all_answered_and_few_are_worked_on() -> None:
    async def run() -> None:
        worker = _Worker(100, 0.01)
        gate = Gate(worker)
        clients = [_Client(VALID) for _ in range(50)]
        assert await asyncio.gather(*(client.ask(gate) for client in clients)) == [200] * 50
        assert worker.most == 2

    asyncio.run(run())


def test_more_than_may_wait_are_sent_away() -> None:
    async def run() -> None:
        gate = Gate(_Worker(100, 0.2), slots=1, waiting=3)
        codes = await asyncio.gather(*(_Client(VALID).ask(gate) for _ in range(10)))
        assert sorted(codes) == [200] * 4 + [503] * 6
        assert await _Client(VALID).ask(gate) == 200  # there is room again

    asyncio.run(run())


def test_a_client_that_sends_slowly_holds_up_nobody() -> None:
    async def run() -> None:
        gate = Gate(_Worker(100, 0.01), body_seconds=0.5, slots=1)
        slow = asyncio.create_task(_Client(b" ", pause=0.1).ask(gate))
        await asyncio.sleep(0.05)
        assert await _Client(VALID).ask(gate) == 200
        assert not slow.done()
        assert await slow == 408

    asyncio.run(run())


def test_a_client_that_takes_a_small_answer_slowly_holds_up_nobody() -> None:
    async def run() -> None:
        gate = Gate(_Worker(100, 0.01), slots=1)
        slow = asyncio.create_task(_Client(VALID, accepts=1.0).ask(gate))
        await asyncio.sleep(0.3)
        assert await _Client(VALID).ask(gate) == 200
        assert not slow.done()
        assert await slow == 200

    asyncio.run(run())


def test_a_client_that_does_not_take_its_answer_is_given_up() -> None:
    async def run() -> None:
        gate = Gate(_Worker(20_000_000, 0.0), piece_seconds=0.1, slots=1)
        with pytest.raises(ConnectionAbortedError):
            await _Client(VALID, accepts=10.0).ask(gate)
        client = _Client(VALID)
        assert await client.ask(gate) == 200
        assert len(client.taken) == 20_000_000

    asyncio.run(run())


def test_a_connection_without_a_request_is_closed() -> None:
    """Or as many as the server has would keep everybody else away."""

    async def run() -> None:
        config = uvicorn.Config(
            Gate(_Worker(2, 0.0)), port=0, http=protocol(0.5), log_level="error",
            limit_concurrency=5, lifespan="off",
        )  # fmt: skip
        server = uvicorn.Server(config)
        serving = asyncio.create_task(server.serve())
        while not server.started:
            await asyncio.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        idle = [await asyncio.open_connection("127.0.0.1", port) for _ in range(5)]
        for _, writer in idle[:3]:
            writer.write(b"POST /invocations HTTP/1.1\r\nHost:")
        for reader, writer in idle:
            assert await asyncio.wait_for(reader.read(), 10) == b""
            writer.close()
        async with httpx.AsyncClient() as client:
            headers = {"content-type": "application/json"}
            url = f"http://127.0.0.1:{port}/invocations"
            assert (await client.post(url, content=VALID, headers=headers)).status_code == 200
        server.should_exit = True
        await serving

    asyncio.run(run())


def test_a_model_that_is_not_there_is_one_line_and_makes_no_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    with pytest.raises(TrackingError, match="There is no MLflow store here"):
        serve("models:/ghn3@champion", "127.0.0.1", 0, 1000, {})
    with pytest.raises(ConfigError, match=r"^nope cannot be served: No such artifact"):
        serve("nope", "127.0.0.1", 0, 1000, {})
    assert not list(tmp_path.iterdir())
