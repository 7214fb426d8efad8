"""MLflow's scoring server with a limit on the size of a request (`ghn serve`).

`mlflow models serve` reads a request whole, however large, before the model sees it; here what is
too long is refused with 413 as soon as it is known to be. Everything else is MLflow's: the routes
/ping, /version and /invocations.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

MAX_REQUEST_BYTES = 1_000_000
"""Sixteen descriptions at their limit do not fit, sixteen usual ones (a few kilobytes) do."""


class RequestLimit:
    """ASGI middleware that refuses a body above `max_bytes`, declared or counted."""

    def __init__(self, app: Any, max_bytes: int) -> None:
        self.app = app
        self.max_bytes = max_bytes

    async def __call__(self, scope: Mapping[str, Any], receive: Any, send: Any) -> None:
        """Reads the body up to the limit and hands it on whole."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        declared = headers.get(b"content-length", b"0")
        too_long = declared.isdigit() and int(declared) > self.max_bytes
        body, more = b"", True
        while more and not too_long:
            message = await receive()
            if message["type"] != "http.request":
                return
            body += message.get("body", b"")
            more = message.get("more_body", False)
            too_long = len(body) > self.max_bytes
        if too_long:
            await self._refuse(send)
            return
        given = False

        async def replay() -> Any:
            nonlocal given
            if given:
                return await receive()
            given = True
            return {"type": "http.request", "body": body, "more_body": False}

        await self.app(scope, replay, send)

    async def _refuse(self, send: Any) -> None:
        text = (
            f'{{"error_code": "BAD_REQUEST", "message": "a request has at most {self.max_bytes}'
            ' bytes here"}'
        )
        headers = [(b"content-type", b"application/json"), (b"connection", b"close")]
        await send({"type": "http.response.start", "status": 413, "headers": headers})
        await send({"type": "http.response.body", "body": text.encode()})


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
    """
    import mlflow
    import uvicorn
    from mlflow.pyfunc import scoring_server

    model = mlflow.pyfunc.load_model(model_uri, model_config=dict(limits))
    app = scoring_server.init(model)
    uvicorn.run(RequestLimit(app, max_request_bytes), host=host, port=port, log_level="info")
