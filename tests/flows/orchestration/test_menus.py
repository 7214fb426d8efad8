"""The menus of the forms, and what the server does with what is not on them."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import httpx
import pytest
from prefect.client.orchestration import SyncPrefectClient
from prefect.exceptions import PrefectHTTPStatusError
from prefect.utilities.callables import parameter_schema

from flows.orchestration import menus
from flows.orchestration.deployments import Variant, train
from flows.orchestration.pipeline import pipeline
from flows.settings.files import profiles
from ghn.models import VARIANTS

ROOT = Path(__file__).resolve().parents[3]


def test_the_forms_offer_stages_profiles_and_variants() -> None:
    form = parameter_schema(pipeline).properties
    stages = form["targets"]["anyOf"][0]["items"]["enum"]
    assert {"generate", "generate@train", "train", "report"} <= set(stages)
    assert form["profile"]["anyOf"][0]["enum"] == profiles(ROOT / "params")
    form = parameter_schema(train).properties
    assert form["variant"]["enum"] == list(get_args(Variant))
    assert form["profile"]["enum"] == profiles(ROOT / "params")
    assert set(get_args(Variant)) <= set(VARIANTS)


def test_a_checkout_without_parameters_has_no_menu(tmp_path: Path) -> None:
    assert menus.stages(tmp_path) == []
    (tmp_path / "params.yaml").write_text("generate: {nonsense: 1}\n")
    assert menus.stages(tmp_path) == []


def test_the_server_refuses_what_is_not_on_a_menu(server: SyncPrefectClient) -> None:
    flow_id = server.create_flow(train)
    deployment = server.create_deployment(
        flow_id=flow_id,
        name="menus",
        parameter_openapi_schema=parameter_schema(train).model_dump_for_openapi(),
        enforce_parameter_schema=True,
    )
    with pytest.raises((PrefectHTTPStatusError, httpx.HTTPStatusError), match="ghn4") as refused:
        server.create_flow_run_from_deployment(deployment, parameters={"variant": "ghn4"})
    assert "'ghn3-t', 'ghn3-s'" in str(refused.value)
    server.create_flow_run_from_deployment(deployment, parameters={"profile": "tiny"})
