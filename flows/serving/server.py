"""MLflow's scoring server behind a gate (`ghn serve`).

`mlflow models serve` reads a request whole, however large and however slowly it comes, works on as
many at a time as there are threads, and keeps every answer until its client has taken it. The gate
bounds all of these, and lets in only what `flows.serving.request` understands. Everything else is
MLflow's: the routes /ping, /health, /version and /invocations.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Mapping
from typing import Any

from flows.serving.request import as_body, read_request
from ghn.addresses import first_line
from ghn.errors import ConfigError

MAX_REQUEST_BYTES = 1_000_000
"""Sixteen descriptions at their limit do not fit, sixteen usual ones (a few kilobytes) do."""

HEAD_SECONDS = 30.0
"""How long a connection may stay without a request's head: a connection is one of those that the
server has at most.
"""

BODY_SECONDS = 60.0
"""How long a client may take to send a request."""

PIECE_BYTES = 1_000_000
PIECE_SECONDS = 60.0
"""How long a client may take for so much of the answer."""

SLOTS = 2
"""Requests that are worked on, or whose large answer is being taken: each has its answer in memory.
"""

SMALL_BYTES = 8_000_000
"""An answer up to this size does not keep its slot while the client takes it."""

WAITING = 100
"""Requests that may wait for a slot."""


class RefusedError(Exception):
    """A request is refused with an HTTP status and a reason."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class Gate:
    """ASGI middleware: bounds on bodies, on requests at a time, and on slow clients."""

    def __init__(
        self,
        app: Any,
        max_bytes: int = MAX_REQUEST_BYTES,
        body_seconds: float = BODY_SECONDS,
        piece_seconds: float = PIECE_SECONDS,
        slots: int = SLOTS,
        waiting: int = WAITING,
    ) -> None:
        self.app = app
        self.max_bytes = max_bytes
        self.body_seconds = body_seconds
        self.piece_seconds = piece_seconds
        self.slots = asyncio.Semaphore(slots)
        self.room = slots + waiting

    async def __call__(self, scope: Mapping[str, Any], receive: Any, send: Any) -> None:
        """Lets a request through, or answers it with the reason why not."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":  # a web socket: nothing here speaks that
            await send({"type": "websocket.close", "code": 1003})
            return
        try:
            body = await asyncio.wait_for(self._body(scope, receive), self.body_seconds)
            if body is None:
                return
            if (scope["path"], scope["method"]) == ("/invocations", "POST"):
                await self._predict(scope, body, receive, send)
            else:
                await self.app(scope, _replay(body, receive), send)
        except TimeoutError:
            await _refuse(send, 408, f"a request must be here within {self.body_seconds:.0f} s")
        except RefusedError as error:
            await _refuse(send, error.status, str(error))

    async def _body(self, scope: Mapping[str, Any], receive: Any) -> bytes | None:
        """The whole body; None if the client has gone."""
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        size = int(declared[:20]) if declared.isdigit() else 0
        body, more = bytearray(), True
        while more and size <= self.max_bytes:
            message = await receive()
            if message["type"] != "http.request":
                return None
            body += message.get("body", b"")
            size = max(size, len(body))
            more = message.get("more_body", False)
        if size > self.max_bytes:
            raise RefusedError(413, f"a request has at most {self.max_bytes} bytes here")
        return bytes(body)

    async def _predict(
        self, scope: Mapping[str, Any], body: bytes, receive: Any, send: Any
    ) -> None:
        headers = dict(scope["headers"])
        kind = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
        if kind != b"application/json":
            raise RefusedError(415, "a request is JSON: content-type application/json")
        try:
            request = await asyncio.to_thread(read_request, body)
        except ConfigError as error:
            raise RefusedError(400, str(error)) from None
        if self.room <= 0:
            raise RefusedError(503, "too many requests wait already; try again later")
        self.room -= 1
        held = False
        try:
            if not await self._turn(receive):
                return
            held = True
            start, answer = await self._ask(scope, as_body(request))
            if len(answer) <= SMALL_BYTES:
                self.slots.release()
                held = False
            await self._hand_over(start, answer, send)
        finally:
            self.room += 1
            if held:
                self.slots.release()

    async def _turn(self, receive: Any) -> bool:
        """Waits for a slot and takes it; False, without one, if the client has gone before."""
        turn, gone = map(asyncio.ensure_future, (self.slots.acquire(), _disconnect(receive)))
        try:
            await asyncio.wait((turn, gone), return_when=asyncio.FIRST_COMPLETED)
            return turn.done()
        finally:
            turn.cancel()
            gone.cancel()

    async def _ask(
        self, scope: Mapping[str, Any], body: bytes
    ) -> tuple[Mapping[str, Any], memoryview]:
        """MLflow's answer to a body: its start and its whole content."""
        start: dict[str, Any] = {}
        parts: list[bytes] = []

        async def keep(message: Mapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                start.update(message)
            else:
                parts.append(message.get("body", b""))

        replaced = (b"content-length", b"content-type", b"transfer-encoding")
        headers = [(key, value) for key, value in scope["headers"] if key not in replaced]
        headers += [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        await self.app({**scope, "headers": headers}, _replay(body, _never), keep)
        parts = [part for part in parts if part]
        return start, memoryview(parts[0] if len(parts) == 1 else b"".join(parts))

    async def _hand_over(self, start: Mapping[str, Any], answer: memoryview, send: Any) -> None:
        """Sends in pieces, so that the connection never buffers more than one of them, and gives up
        a client that does not take them.
        """
        try:
            await asyncio.wait_for(send(start), self.piece_seconds)
            for begin in range(0, max(1, len(answer)), PIECE_BYTES):
                piece = bytes(answer[begin : begin + PIECE_BYTES])
                more = begin + PIECE_BYTES < len(answer)
                message = {"type": "http.response.body", "body": piece, "more_body": more}
                await asyncio.wait_for(send(message), self.piece_seconds)
        except TimeoutError:
            raise ConnectionAbortedError("a client does not take its answer") from None


def _replay(body: bytes, after: Any) -> Any:
    """An ASGI `receive` that gives a body that is here already."""
    given = False

    async def receive() -> Any:
        nonlocal given
        if given:
            return await after()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return receive


async def _disconnect(receive: Any) -> Any:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _never() -> Any:
    await asyncio.Event().wait()


async def _refuse(send: Any, status: int, reason: str) -> None:
    text = json.dumps({"error_code": "BAD_REQUEST", "message": reason}).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(text)),
        (b"connection", b"close"),
    ]
    if status == 503:
        headers.append((b"retry-after", b"10"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": text})


def protocol(seconds: float = HEAD_SECONDS) -> type[asyncio.Protocol]:
    """uvicorn's protocol of HTTP, which closes a connection that takes longer for its first head;
    uvicorn itself waits for ever.
    """
    from uvicorn.protocols.http.auto import AutoHTTPProtocol

    class Impatient(AutoHTTPProtocol):  # type: ignore[misc, valid-type]
        def connection_made(self, transport: asyncio.Transport) -> None:
            super().connection_made(transport)
            self.loop.call_later(seconds, self.give_up)

        def give_up(self) -> None:
            if self.cycle is None:  # no request yet
                self.transport.close()

    return Impatient


def serve(
    model_uri: str, host: str, port: int, max_request_bytes: int, limits: Mapping[str, int]
) -> None:
    """Loads the model and answers until it is told to end.

    Args:
        model_uri: `models:/ghn3@champion`, or a directory.
        host: to bind to.
        port: likewise.
        max_request_bytes: of a request's body.
        limits: overrides of `flows.serving.model.LIMITS`.

    Raises:
        TrackingError: the registry is away, or not there.
        ConfigError: there is no such model.
    """
    from flows.tracking.client import client

    if model_uri.startswith(("models:/", "runs:/")):
        client(create=False)
    os.environ.setdefault("MLFLOW_SCORING_SERVER_REQUEST_TIMEOUT", "600")  # 60 s: a large network
    import mlflow
    import uvicorn
    from mlflow.pyfunc import scoring_server

    try:
        model = mlflow.pyfunc.load_model(model_uri, model_config=dict(limits))
    except mlflow.MlflowException as error:
        raise ConfigError(
            f"{model_uri} cannot be served: {first_line(error)}; `ghn registry list` shows what"
            " there is"
        ) from error
    gate = Gate(scoring_server.init(model), max_request_bytes)
    uvicorn.run(
        gate,
        host=host,
        port=port,
        http=protocol(),
        log_level="info",
        limit_concurrency=4 * WAITING,
    )
