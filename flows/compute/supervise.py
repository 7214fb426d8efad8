"""Runs a command and ends it, children included, as soon as whoever started us is gone.

    python flows/compute/supervise.py COMMAND [ARGUMENT ...]

The starter holds the other end of our standard input: it closes it to end the command, and the
kernel closes it if the
starter is killed. Either way the command and all processes below it get SIGINT (a stage then keeps
what it has), after a while SIGTERM, and in the end SIGKILL. Exit code: the command's, or 128 + n if
signal n ended it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence

import psutil

GRACE_SECONDS = float(os.environ.get("GHN_GRACE_SECONDS", "10"))
"""Between one signal and the next."""


def main(command: Sequence[str]) -> int:
    """Runs `command` under supervision and returns its exit code."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(
            number, lambda *_: None
        )  # ours is to outlive the command; handlers are not inherited by it
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    ending = threading.Event()

    def end_on_eof() -> None:
        while os.read(sys.stdin.fileno(), 4096):
            pass
        ending.set()
        end_family(process.pid)

    watcher = threading.Thread(target=end_on_eof, daemon=True)
    watcher.start()
    code = process.wait()
    if ending.is_set():  # the command is gone, but perhaps not all below it
        watcher.join()
    return code if code >= 0 else 128 - code


def end_family(pid: int) -> None:
    """Ends process `pid` and all below it: SIGINT, SIGTERM, SIGKILL."""
    try:
        root = psutil.Process(pid)
        family = [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        for member in family:
            try:
                member.send_signal(number)
            except psutil.NoSuchProcess:
                continue
        _, family = psutil.wait_procs(family, timeout=GRACE_SECONDS)
        if not family:
            return


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
