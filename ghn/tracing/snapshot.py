"""What a network is before a forward pass, to be put back after it.

A forward pass may leave anything behind: tables and features in attributes, lists and dictionaries,
hooks that it installs, values of parameters that it clips, random numbers that it draws. A snapshot
has everything that can be reached from a network's modules (`reach`) and what belongs to the
process (`process`).

What is out of reach: what C extensions keep to themselves (cursors of data bases, writers of CSV),
what was written to pipes and sockets, other threads, and what a pass imports.
"""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, nn

from ghn.tracing.iterators import find_places, lend_holders
from ghn.tracing.process import process_state, undo_of_process
from ghn.tracing.reach import Reach
from ghn.tracing.undo import Undo, own_methods, restore_dict, undo_of_tensor


class Snapshot:
    """Everything that can be reached from `root`, by reference; values of tensors that are not
    parameters or buffers too.

    Attributes:
        tensors: found on the way, by identity.
    """

    def __init__(self, root: nn.Module, registered: Iterable[Tensor]) -> None:
        self._found = found = Reach(registered)
        self.tensors = found.tensors
        self._registered = list(self.tensors.values())
        self._values: list[Undo] = []
        found.follow(root)
        for tensor in self._registered:
            found.note_attributes(tensor)
        for state in process_state():
            found.follow(state)
        dicts = [(current.__setitem__, before.items()) for current, before in found.dicts]
        lists = [(current.__setitem__, enumerate(current)) for current in found.lists]
        lend_holders(found.holders, found.lent)
        find_places(found.places, [*dicts, *lists], found.lent)
        found.undo += undo_of_process(self._registered)

    def lend(self) -> None:
        """Puts stand-ins in the places of iterators, which cannot be rewound, for a pass."""
        for lent in self._found.lent.values():
            lent.lend()

    def keep_values(self) -> None:
        """Copies the values of parameters and buffers, for a pass that computes with them."""
        self._values = [undo for t in self._registered if (undo := undo_of_tensor(t)) is not None]

    def restore(self) -> None:
        """Puts everything back; what has not changed is not touched."""
        for thing, kind, attributes in self._found.objects:
            if type(thing) is not kind:  # lazy modules become others
                object.__setattr__(thing, "__class__", kind)
            if attributes is not None and vars(thing) is not attributes:
                object.__setattr__(thing, "__dict__", attributes)
        for empty in self._found.empty:
            if empty:
                own_methods(empty).clear(empty)
        for current, before in self._found.dicts:
            restore_dict(current, before)
        for undo in (*self._found.undo, *self._values):
            undo()
        for lent in self._found.lent.values():
            lent.settle()
