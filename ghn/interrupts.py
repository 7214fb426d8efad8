"""Signals that ask a command to stop."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import typer


@contextmanager
def interruptible(*numbers: int) -> Iterator[list[int]]:
    """Makes `KeyboardInterrupt` of these signals, whatever becomes of it on its way; for the main
    thread. Those that the process ignores, as one in the background does Ctrl-C, stay ignored.

    Yields:
        the signals that came.

    Raises:
        KeyboardInterrupt: one came. Compiled code may turn it into an error of its own while it
            calls Python (pydantic into a `SchemaError` of a class that is being made at import),
            so that any error after a signal stands for it; an exit (`SystemExit`, `typer.Exit`)
            has its code already and stays.
    """
    received: list[int] = []

    def stop(number: int, _frame: FrameType | None) -> None:
        received.append(number)
        raise KeyboardInterrupt

    before = {
        number: signal.signal(number, stop)
        for number in numbers
        if signal.getsignal(number) is not signal.SIG_IGN
    }
    try:
        yield received
    except Exception as error:
        if received and not isinstance(error, typer.Exit):
            raise KeyboardInterrupt from error
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
