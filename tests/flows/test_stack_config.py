"""Where the stack's servers listen and what their addresses are."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.fernet import Fernet, InvalidToken
from sqlalchemy.engine import make_url

from flows.stack.config import StackConfig
from flows.stack.service import ServiceError
from flows.stack.stack import deploy
from ghn.errors import ConfigError


def test_any_password_survives_the_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GHN_STACK_PASSWORD", "p@ss/w:rd?#% ü")
    config = StackConfig(directory=tmp_path)
    url = make_url(config.database("mlflow", "psycopg2"))
    assert url.password == "p@ss/w:rd?#% ü"
    assert (url.host, url.port, url.database) == ("127.0.0.1", 5433, "mlflow")


def test_secrets_of_webhooks_outlive_the_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GHN_STACK_PASSWORD", raising=False)
    secret = Fernet(StackConfig(directory=tmp_path).webhook_key).encrypt(b"secret")
    assert Fernet(StackConfig(directory=tmp_path).webhook_key).decrypt(secret) == b"secret"
    monkeypatch.setenv("GHN_STACK_PASSWORD", "another")
    with pytest.raises(InvalidToken):
        Fernet(StackConfig(directory=tmp_path).webhook_key).decrypt(secret)


def test_a_port_that_is_no_number_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GHN_STACK_PREFECT_PORT", "http")
    with pytest.raises(ConfigError, match="GHN_STACK_PREFECT_PORT='http'"):
        StackConfig()


def test_deploying_without_a_server_says_how_to_start_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GHN_STACK_PREFECT_PORT", "9")
    with pytest.raises(ServiceError, match=r"no Prefect answers at .*:9; `ghn stack up` starts it"):
        deploy(StackConfig(directory=tmp_path))
