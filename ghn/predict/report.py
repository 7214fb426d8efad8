"""What a hypernetwork predicted of a network, what it did not, and why."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

NO_STATISTICS = "the running statistics of"
"""How the note begins that says that they are not predicted."""


@dataclass(frozen=True)
class Kept:
    """A parameter, or some of its entries, that keeps its values.

    Attributes:
        name: in the network's state dict.
        shape: of the whole parameter.
        entries: how many of its numbers keep their values.
        reason: why.
    """

    name: str
    shape: tuple[int, ...]
    entries: int
    reason: str


@dataclass(frozen=True)
class Report:
    """What happened to the parameters of one network.

    Attributes:
        network: its class.
        predicted: names of predicted parameters.
        n_predicted: how many numbers were predicted.
        kept: what keeps its values.
        n_parameters: how many numbers the network has.
        warnings: what of the network does not fit the hypernetwork.
        notes: what else is to be known before the network is used.
    """

    network: str
    predicted: tuple[str, ...]
    n_predicted: int
    kept: tuple[Kept, ...]
    n_parameters: int
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def complete(self) -> bool:
        """Whether everything was predicted."""
        return not self.kept

    def with_statistics(self) -> Report:
        """The report once running statistics were estimated: without the note that asks for it."""
        notes = tuple(note for note in self.notes if not note.startswith(NO_STATISTICS))
        return replace(self, notes=notes)

    def __str__(self) -> str:
        share = 100 * self.n_predicted / max(1, self.n_parameters)
        lines = [
            f"{self.network}: predicted {self.n_predicted:,} of {self.n_parameters:,} numbers"
            f" ({share:.1f}%) in {len(self.predicted)} tensors"
        ]
        for reason, count in Counter(kept.reason for kept in self.kept).most_common():
            same = [kept for kept in self.kept if kept.reason == reason]
            names = ", ".join(kept.name for kept in same[:3]) + (", ..." if count > 3 else "")
            lines.append(
                f"  kept {sum(k.entries for k in same):,} numbers in {count} tensors: {reason}"
                f" ({names})"
            )
        lines += [f"  warning: {warning}" for warning in self.warnings]
        lines += [f"  note: {note}" for note in self.notes]
        return "\n".join(lines)
