"""Who is told when an alias of a model moves: a webhook of the MLflow server, without Prefect.

MLflow sends it itself, whoever moved the alias: a stage, `ghn registry`, another program, MLflow's
page. A store that is a file has no server that could.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from flows.registry.lookup import RegistryError
from flows.tracking.client import client, shown_uri, tracking_uri
from ghn.addresses import first_line, without_credentials

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.webhook import Webhook

NAME = "ghn-alias-moved"
_ABOUT = "An alias of a hypernetwork, such as @champion, points to another version."


def announce(url: str, secret: str | None = None) -> Webhook:
    """Has MLflow post to `url` whenever an alias is set or removed; replaces the address that was
    told before.

    The body is JSON: `entity` and `action` (`model_version_alias`, `created` or `deleted`) and
    `data` with `name`, `alias` and `version`.

    Args:
        url: of the receiver.
        secret: with which MLflow signs (HMAC, header X-MLflow-Signature), so that the receiver
            knows who sent it.

    Raises:
        RegistryError: the store has no server, or the server refuses the address.
    """
    from mlflow.exceptions import MlflowException

    mlflow_client = _client()
    before = _known(mlflow_client)
    try:
        made = mlflow_client.create_webhook(
            NAME,
            url,
            ["model_version_alias.created", "model_version_alias.deleted"],
            description=_ABOUT,
            secret=secret,
        )
    except MlflowException as error:
        raise RegistryError(
            f"MLflow does not take {without_credentials(url)}: {first_line(error)} (it takes public"
            " https addresses; others if its server has MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS=true and"
            " MLFLOW_WEBHOOK_ALLOWED_SCHEMES=https,http in its environment)"
        ) from None
    for old in before:  # not updated, which would keep an old secret
        mlflow_client.delete_webhook(old.webhook_id)
    return made


def silence() -> bool:
    """Removes the webhook; whether there was one."""
    mlflow_client = _client()
    known = _known(mlflow_client)
    for hook in known:
        mlflow_client.delete_webhook(hook.webhook_id)
    return bool(known)


def _client() -> MlflowClient:
    if not tracking_uri().startswith(("http://", "https://")):
        raise RegistryError(
            f"{shown_uri()} is no server: webhooks are sent by `mlflow server` (`make up`); set"
            " MLFLOW_TRACKING_URI to its address"
        )
    return client(create=False)


def _known(mlflow_client: MlflowClient) -> list[Webhook]:
    return [hook for hook in mlflow_client.list_webhooks() if hook.name == NAME]
