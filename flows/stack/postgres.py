"""PostgreSQL from the system's package: found, initialised once, run as a service of the stack.

PostgreSQL refuses to run as root, so under root it runs as the package's user `postgres`, or
`nobody`.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

from flows.stack.config import DATABASES, USER, StackConfig
from flows.stack.service import Service, ServiceError, as_user
from ghn.errors import ConfigError


def binaries() -> Path:
    """The directory of PostgreSQL's programs, the newest version if there are several.

    Raises:
        ConfigError: PostgreSQL is not installed.
    """
    candidates = sorted(
        Path("/usr/lib/postgresql").glob("*/bin"),
        key=lambda p: int(p.parent.name.split(".")[0]),
        reverse=True,
    )
    if (pg_config := shutil.which("pg_config")) is not None:
        found = subprocess.run([pg_config, "--bindir"], capture_output=True, text=True)
        candidates.append(Path(found.stdout.strip()))
    if (initdb := shutil.which("initdb")) is not None:
        candidates.append(Path(initdb).parent)
    for directory in candidates:
        if (directory / "initdb").exists() and (directory / "postgres").exists():
            return directory
    raise ConfigError(
        "PostgreSQL's server is not installed; on Debian and Ubuntu: apt-get install postgresql"
    )


def run_as() -> str | None:
    """The user that PostgreSQL runs as under root; None otherwise."""
    if os.geteuid() != 0:
        return None
    import pwd

    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name).pw_name
        except KeyError:
            continue
    raise ConfigError(
        "PostgreSQL does not run as root, and there is neither a user postgres nor nobody"
    )


def data_directory(config: StackConfig) -> Path:
    """`postgres/` in the stack's directory, or where the user postgres can reach it: a symbolic
    link leads there.

    (Under root the checkout may lie in a home directory that no other user may enter.)
    """
    link = config.directory / "postgres"
    user = run_as()
    if link.exists() or user is None:
        return link.resolve()
    config.directory.mkdir(parents=True, exist_ok=True)
    enter = subprocess.run(["test", "-x", str(config.directory)], check=False, **as_user(user))
    if enter.returncode != 0:
        name = hashlib.sha256(str(config.directory).encode()).hexdigest()[:12]
        # survives a restart of the machine, unlike /tmp
        outside = Path("/var/tmp") / f"ghn-stack-{name}"
        outside.mkdir(exist_ok=True)
        link.symlink_to(outside)
    return link.resolve()


def service(config: StackConfig) -> Service:
    """The server process; it listens on loopback only, whatever the stack's host is."""
    programs = binaries()
    data = data_directory(config)

    def ready() -> bool:
        command = [
            str(programs / "pg_isready"),
            "-q",
            "-h",
            "127.0.0.1",
            "-p",
            str(config.postgres_port),
        ]
        return subprocess.run(command).returncode == 0

    return Service(
        "postgres",
        [
            *(str(programs / "postgres"), "-D", str(data), "-p", str(config.postgres_port)),
            *("-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories="),
        ],
        config.directory,
        ready,
        cwd=Path("/"),
        user=run_as(),
        stop_signal=signal.SIGINT,  # closes connections, then ends
    )


def create_cluster(config: StackConfig) -> None:
    """Makes the data directory, if it is not there; idempotent.

    Raises:
        ServiceError: initdb failed; its output is in the message.
    """
    data = data_directory(config)
    if (data / "PG_VERSION").exists():
        return
    user = run_as()
    data.mkdir(parents=True, exist_ok=True)
    data.chmod(0o700)
    if user is not None:
        shutil.chown(data, user)
    with tempfile.NamedTemporaryFile("w", prefix="ghn-stack-") as password:
        password.write(config.password)
        password.flush()
        if user is not None:
            shutil.chown(password.name, user)
        command = [
            *(
                str(binaries() / "initdb"),
                "-D",
                str(data),
                "-U",
                USER,
                "--encoding=UTF8",
                "--locale=C.UTF-8",
            ),
            *("--auth=scram-sha-256", f"--pwfile={password.name}"),
        ]
        result = subprocess.run(command, capture_output=True, text=True, cwd="/", **as_user(user))
    if result.returncode != 0:
        raise ServiceError(f"initdb {data}: {result.stderr.strip()}")


def create_databases(config: StackConfig) -> None:
    """Creates the databases that do not exist yet, in the running server."""
    programs = binaries()
    environment = {**os.environ, "PGPASSWORD": config.password}
    where = ["-h", "127.0.0.1", "-p", str(config.postgres_port), "-U", USER]
    for name in DATABASES:
        result = subprocess.run(
            [str(programs / "createdb"), *where, name],
            env=environment,
            capture_output=True,
            text=True,
        )
        if result.returncode != 0 and "already exists" not in result.stderr:
            raise ServiceError(f"createdb {name}: {result.stderr.strip()}")
