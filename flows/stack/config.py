"""Where the stack listens and keeps its data, from the environment."""

from __future__ import annotations

import base64
import hashlib
import os
import secrets
import socket
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from urllib.parse import quote

from flows.compute.gpus import visible
from flows.settings.imports import ROOT
from ghn.errors import ConfigError

USER = "ghn"
DATABASES = ("prefect", "mlflow")


@dataclass(frozen=True)
class StackConfig:
    """Addresses and directories of one stack; several stacks on one machine differ in directory and
    ports.

    Attributes:
        directory: data, logs and process ids (GHN_STACK_DIR, `.stack` in the checkout).
        host: what the servers bind to (GHN_STACK_HOST, 127.0.0.1). Prefect and MLflow have no
            log-in of their own, so any other value belongs behind a proxy that has one.
        postgres_port, prefect_port, mlflow_port: GHN_STACK_{POSTGRES,PREFECT,MLFLOW}_PORT.
        gpus: of this machine that the pool `gpu` may use (GHN_STACK_GPUS); 0 stands for all.
        cpu_slots: flow runs at once in the pool `cpu` (GHN_STACK_CPU_RUNS, 2).
    """

    directory: Path = field(
        default_factory=lambda: Path(os.environ.get("GHN_STACK_DIR") or ROOT / ".stack").resolve()
    )
    host: str = field(default_factory=lambda: os.environ.get("GHN_STACK_HOST", "127.0.0.1"))
    postgres_port: int = field(default_factory=lambda: _number("GHN_STACK_POSTGRES_PORT", 5433))
    prefect_port: int = field(default_factory=lambda: _number("GHN_STACK_PREFECT_PORT", 4200))
    mlflow_port: int = field(default_factory=lambda: _number("GHN_STACK_MLFLOW_PORT", 5000))
    gpus: int = field(default_factory=lambda: _number("GHN_STACK_GPUS", 0))
    cpu_slots: int = field(default_factory=lambda: _number("GHN_STACK_CPU_RUNS", 2))

    @cached_property
    def training_slots(self) -> int:
        """Trainings at once: a GPU each, or one on the CPU of a machine without."""
        return self.gpus or max(1, len(visible()))  # asks PyTorch, which takes seconds to import

    @property
    def logs(self) -> Path:
        """One log file per service."""
        return self.directory / "logs"

    @property
    def prefect_url(self) -> str:
        """The address of the web pages; the API is below `/api`."""
        return f"http://{self._reachable}:{self.prefect_port}"

    @property
    def prefect_api(self) -> str:
        """PREFECT_API_URL."""
        return f"{self.prefect_url}/api"

    @property
    def mlflow_url(self) -> str:
        """The address of the web pages and the API."""
        return f"http://{self._reachable}:{self.mlflow_port}"

    @property
    def _reachable(self) -> str:
        return "127.0.0.1" if self.host in ("0.0.0.0", "::") else self.host

    @property
    def password(self) -> str:
        """The database user's: GHN_STACK_PASSWORD, or a random one kept in the stack's directory
        (mode 600).
        """
        if given := os.environ.get("GHN_STACK_PASSWORD"):
            return given
        path = self.directory / "password"
        if not path.exists():
            self.directory.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w") as file:
                file.write(secrets.token_urlsafe(24))
        return path.read_text().strip()

    @property
    def webhook_key(self) -> str:
        """With which MLflow encrypts the secrets of webhooks (as Fernet takes it); without one each
        of its processes would draw its own.
        """
        digest = hashlib.sha256(f"webhooks {self.password}".encode()).digest()
        return base64.urlsafe_b64encode(digest).decode()

    def database(self, name: str, driver: str) -> str:
        """SQLAlchemy address of a database of the stack."""
        password = quote(self.password, safe="")
        return f"postgresql+{driver}://{USER}:{password}@127.0.0.1:{self.postgres_port}/{name}"

    def client_environment(self) -> dict[str, str]:
        """What a process needs to talk to the servers (`eval "$(ghn stack env)"`)."""
        return {
            "PREFECT_API_URL": self.prefect_api,
            "MLFLOW_TRACKING_URI": self.mlflow_url,
        }

    def check_ports(self) -> None:
        """Raises ConfigError if something else listens on a port of the stack."""
        for variable in ("postgres", "prefect", "mlflow"):
            port: int = getattr(self, f"{variable}_port")
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    raise ConfigError(
                        f"port {port} is taken by another program; choose one with"
                        f" GHN_STACK_{variable.upper()}_PORT"
                    )


def _number(variable: str, default: int) -> int:
    text = os.environ.get(variable) or str(default)
    if not text.isdigit():
        raise ConfigError(f"{variable}={text!r} is not a whole number")
    return int(text)
