"""What a request for predictions looks like, checked before MLflow sees it.

MLflow takes tables of many forms, casts what is in them to the types of the model's signature (1.5
classes become 1), and answers some malformed bodies with 500. Here a body is JSON, of one of
MLflow's four forms, with the three columns and whole numbers, or it is refused with the field.
"""

from __future__ import annotations

import json
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ghn.errors import ConfigError

COLUMNS = ("architecture", "classes", "image_size")


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Row(_Strict):
    """A network: a name or a description, and what it is for."""

    architecture: str
    classes: Annotated[int, Field(ge=1, lt=2**31)]
    image_size: Annotated[int, Field(ge=1, lt=2**31)]


class Parameters(_Strict):
    """How the answer shall be."""

    delivery: str = "inline"
    dtype: str = "float32"
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0


class Request(_Strict):
    """The rows, whatever form of table they came in."""

    rows: Annotated[list[Row], Field(min_length=1)]
    params: Parameters = Parameters()

    @model_validator(mode="before")
    @classmethod
    def _any_form(cls, body: Any) -> Any:
        if not isinstance(body, dict):
            raise ValueError("a request is an object")
        rest = {key: value for key, value in body.items() if key != "params"}
        params = body.get("params")
        match rest:
            case {"dataframe_split": {"columns": list(columns), "data": list(data), **more}} if len(
                rest
            ) == 1 and not more.keys() - {"index"}:
                rows: Any = [_named(columns, row) for row in data]
            case (
                {"dataframe_records": list(rows)}
                | {"instances": list(rows)}
                | {"inputs": list(rows)}
            ) if len(rest) == 1:
                pass
            case {"inputs": dict(columns)} if len(rest) == 1:
                rows = _by_row(columns)
            case _:
                raise ValueError(
                    "a request is a table: dataframe_split, dataframe_records, instances or inputs,"
                    f" and params; its columns are {', '.join(COLUMNS)}"
                )
        return {"rows": rows} | ({} if params is None else {"params": params})


def _named(columns: list[Any], row: Any) -> dict[Any, Any]:
    if not isinstance(row, list) or len(row) != len(columns):
        raise ValueError(f"dataframe_split: a row has {len(columns)} values, one for each column")
    if not all(isinstance(column, str) for column in columns):
        raise ValueError("dataframe_split: columns are names")
    return dict(zip(columns, row, strict=True))


def _by_row(columns: dict[Any, Any]) -> list[dict[Any, Any]]:
    lists = {key: v if isinstance(v, list) else [v] for key, v in columns.items()}
    if len({len(values) for values in lists.values()}) > 1:
        raise ValueError("inputs: columns of different lengths")
    return [dict(zip(lists, row, strict=True)) for row in zip(*lists.values(), strict=True)]


def read_request(body: bytes) -> Request:
    """The request in a body.

    Raises:
        ConfigError: it is no JSON, or no request; the message names the field.
    """
    try:
        return Request.model_validate_json(body)
    except ValidationError as error:
        places = [
            f"{'.'.join(map(str, entry['loc'])) or 'request'}:"
            f" {entry['msg'].removeprefix('Value error, ')}"
            for entry in error.errors(include_input=False, include_url=False, include_context=False)
        ]
        raise ConfigError("; ".join(places[:3])) from None


def as_body(request: Request) -> bytes:
    """The request in the one form that is handed to MLflow."""
    data = [[row.architecture, row.classes, row.image_size] for row in request.rows]
    table = {"columns": list(COLUMNS), "data": data}
    return json.dumps({"dataframe_split": table, "params": request.params.model_dump()}).encode()
