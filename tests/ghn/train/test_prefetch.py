import threading
from collections.abc import Iterator

import pytest

from ghn.train.prefetch import Prefetched


def test_items_come_in_order_and_the_end_is_an_end() -> None:
    assert list(Prefetched(iter(range(100)), depth=3)) == list(range(100))


def test_an_exception_comes_after_the_items_before_it() -> None:
    def broken() -> Iterator[int]:
        yield 1
        yield 2
        raise ValueError("third")

    data = Prefetched(broken())
    assert [next(data), next(data)] == [1, 2]
    with pytest.raises(ValueError, match="third"):
        next(data)


def test_closing_stops_an_endless_source_and_closes_it() -> None:
    closed = threading.Event()

    def endless() -> Iterator[int]:
        try:
            n = 0
            while True:
                yield n
                n += 1
        finally:
            closed.set()

    data = Prefetched(endless(), depth=2)
    assert next(data) == 0
    data.close()
    assert closed.is_set()
    assert not [
        thread
        for thread in threading.enumerate()
        if thread.name == "prefetch" and thread.is_alive()
    ]
