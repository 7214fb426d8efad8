"""Runs a command and ends it, children included, as soon as whoever started us is gone.

    python flows/compute/supervise.py COMMAND [ARGUMENT ...]

The starter holds the other end of our standard input: it closes it to end the command, and the
kernel closes it if the starter is killed. Either way the command's process group gets SIGINT, as
from a terminal: a stage then ends its step and keeps what it has. If that takes longer than
`GRACE_SECONDS`, all processes below the command get SIGTERM, and in the end SIGKILL. Exit code: the
command's, or 128 + n if signal n ended it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress

import psutil

GRACE_SECONDS = float(os.environ.get("GHN_GRACE_SECONDS", "300"))
"""Between one signal and the next. A step of a training, which ends before its checkpoint is
written, may take minutes, and a second signal would end it without.
"""


def main(command: Sequence[str]) -> int:
    """Runs `command` under supervision and returns its exit code."""
    for number in (signal.SIGINT, signal.SIGTERM):
        # ours is to outlive the command; handlers are not inherited by it
        signal.signal(number, lambda *_: None)
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
    """Ends process `pid` and all below it: SIGINT, SIGTERM, SIGKILL.

    SIGINT goes to our process group alone. Whoever below made another group for its children passes
    it on to them (`flows.compute.ranks`), and would pass it on a second time.
    """
    try:
        root = psutil.Process(pid)
        family = [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return
    os.killpg(os.getpgrp(), signal.SIGINT)  # we ignore it
    _, family = psutil.wait_procs(family, timeout=GRACE_SECONDS)
    for number in (signal.SIGTERM, signal.SIGKILL):
        for member in family:
            with suppress(psutil.NoSuchProcess):
                member.send_signal(number)
        _, family = psutil.wait_procs(family, timeout=GRACE_SECONDS)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
