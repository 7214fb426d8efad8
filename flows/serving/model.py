"""The MLflow model (`mlflow.pyfunc`), logged as code: what `mlflow models serve` and `load_model`
run.

A request is a table with a row per network: `architecture` (a name or a description, see
`flows.serving.network`), `classes` and `image_size`; parameters of the request: `delivery`
("inline": safetensors in base64; "path": a file on the server, in GHN_SERVE_DIR) and `dtype`. What
does not fit the limits, or does not exist, is refused with the reason, as HTTP status 400 or 404
behind a server.
"""

from __future__ import annotations

import base64
import json
import os
import threading
import time
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlflow
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import (
    BAD_REQUEST,
    RESOURCE_DOES_NOT_EXIST,
    TEMPORARILY_UNAVAILABLE,
)
from mlflow.pyfunc.model import PythonModel

from flows.serving import LIMITS
from ghn.errors import ConfigError, GHNError, UnknownArchitectureError

if TYPE_CHECKING:
    from ghn.models import GHN

DIRECTORY_VARIABLE = "GHN_SERVE_DIR"


class HypernetworkModel(PythonModel):
    """Predicts the parameters of each network of a request. One at a time, so that memory stays
    bounded.
    """

    def load_context(self, context: Any) -> None:
        """Loads the hypernetwork from the model's artifacts."""
        from ghn import from_pretrained

        self.ghn: GHN = from_pretrained(context.artifacts["ghn"])
        self.limits = LIMITS | {
            k: int(v) for k, v in (context.model_config or {}).items() if k in LIMITS
        }
        self.lock = threading.Lock()

    def predict(
        self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None
    ) -> pd.DataFrame:
        """A row per network: its parameters and what is to be known about them.

        Raises:
            MlflowException: the request is refused; the message has the row and the reason.
        """
        options = {"delivery": "inline", "dtype": "float32", "seed": 0} | (params or {})
        if len(model_input) > self.limits["max_rows"]:
            raise MlflowException(
                f"{len(model_input)} networks in a request; at most {self.limits['max_rows']}",
                BAD_REQUEST,
            )
        answers: list[dict[str, Any]] = []
        for index, row in enumerate(model_input.to_dict("records")):
            inline = sum(len(answer["safetensors"]) for answer in answers) * 3 // 4
            try:
                with self.lock:
                    answers.append(self._answer(row, options, inline))
            except UnknownArchitectureError as error:
                raise MlflowException(f"row {index}: {error}", RESOURCE_DOES_NOT_EXIST) from error
            except GHNError as error:
                raise MlflowException(f"row {index}: {error}", BAD_REQUEST) from error
            except (MemoryError, OSError) as error:  # of this server, and perhaps not for long
                reason = f"row {index}: {type(error).__name__}: {error}"
                raise MlflowException(reason, TEMPORARILY_UNAVAILABLE) from error
            except Exception as error:  # the network's own complaint, such as sizes that do not fit
                text = (str(error).splitlines() or [""])[0]
                reason = f"row {index}: cannot be predicted: {type(error).__name__}: {text}"
                raise MlflowException(reason, BAD_REQUEST) from error
        return pd.DataFrame(answers)

    def _answer(
        self, row: Mapping[Any, Any], options: dict[str, Any], inline_bytes: int
    ) -> dict[str, Any]:
        """The row of a network; the rows before it have `inline_bytes` of parameters."""
        import torch
        from safetensors.torch import save

        from flows.serving.network import (
            builder,
            check_logits,
            inputs_of,
            is_description,
            outline,
        )
        from ghn.tracing import trace

        architecture = str(row["architecture"])
        classes, image_size = (_whole(row[name], name) for name in ("classes", "image_size"))
        if options["dtype"] not in ("float32", "float16", "bfloat16"):
            raise ConfigError(f"dtype={options['dtype']!r}: float32, float16 or bfloat16")
        if options["delivery"] not in ("inline", "path"):
            raise ConfigError(f"delivery={options['delivery']!r}: inline or path")
        dtype: torch.dtype = getattr(torch, options["dtype"])
        inline = options["delivery"] == "inline"
        self._check(
            "max_description_characters", "the description has", len(architecture), "characters"
        )
        self._check("max_image_size", "image_size is", image_size, "pixels")
        build = builder(architecture, classes, image_size)
        shapes = outline(build)
        parameters = sum(tensor.numel() for tensor in shapes.parameters())
        statistics = sum(tensor.numel() for tensor in shapes.buffers())
        self._check("max_parameters", "the network has", parameters, "parameters")
        self._check("max_parameters", "its statistics have", statistics, "numbers")
        if inline:
            advice = "bytes inline; ask for delivery 'path' or a smaller dtype"
            size = inline_bytes + (parameters + statistics) * dtype.itemsize
            self._check("max_inline_bytes", "the parameters have", size, advice)

        started = time.perf_counter()
        # of what is not predicted and keeps its random initialisation
        torch.manual_seed(int(options["seed"]))
        network = build("cpu")
        # A description is traced by its shapes alone: with values, a network that does not fit
        # together would be run for real, with maps as large as it pleases.
        described = is_description(architecture)
        inputs = inputs_of(shapes, image_size) if described else None
        graph = trace(shapes if described else network, inputs, image_size=self.ghn.image_size)
        self._check("max_nodes", "the network's graph has", graph.n_nodes, "nodes")
        if inputs is not None:
            check_logits(shapes, inputs, classes)
        predicted = self.ghn.predict(network, graph)
        state = {
            name: tensor.to(dtype) if tensor.is_floating_point() else tensor
            for name, tensor in {**network.state_dict(), **predicted}.items()
        }
        # One entry: several would be written in any order, and equal parameters shall have equal
        # bytes.
        request = {"architecture": architecture, "num_classes": classes, "image_size": image_size}
        data = save(
            {name: tensor.detach().contiguous().clone() for name, tensor in state.items()},
            {"request": json.dumps(request, sort_keys=True)},
        )
        digest = sha256(data).hexdigest()
        return {
            "architecture": architecture,
            "parameters": parameters,
            "predicted": sum(tensor.numel() for tensor in predicted.values()),
            "seconds": time.perf_counter() - started,
            "sha256": digest,
            "safetensors": base64.b64encode(data).decode() if inline else "",
            "path": "" if inline else str(_write(data, digest)),
        }

    def _check(self, limit: str, what: str, value: int, unit: str) -> None:
        if value > self.limits[limit]:
            raise ConfigError(
                f"{what} {value:,} {unit}; at most {self.limits[limit]:,} here ({limit})"
            )


def _whole(value: Any, name: str) -> int:
    if isinstance(value, bool) or value != value or value != int(value) or int(value) < 1:
        raise ConfigError(f"{name}={value!r}: a whole number from 1 on")
    return int(value)


def _write(data: bytes, digest: str) -> Path:
    """The file that holds `data`, named by its hash, in the server's directory for it."""
    from ghn.files import atomic_path

    directory = os.environ.get(DIRECTORY_VARIABLE)
    if not directory:
        raise ConfigError(
            f"delivery='path': this server has no directory for it ({DIRECTORY_VARIABLE})"
        )
    path = Path(directory).resolve() / f"{digest}.safetensors"
    if not path.exists():
        with atomic_path(path) as temporary:
            temporary.write_bytes(data)
    return path


mlflow.models.set_model(HypernetworkModel())
