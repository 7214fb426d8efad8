"""Section on how to use the hypernetwork that the page is about."""

from __future__ import annotations

from pathlib import Path

from flows.report.blocks import Code, Section, Text


def use(weights: Path, registered: str) -> Section:
    """Commands and lines of Python to copy.

    Args:
        weights: the hypernetwork's file.
        registered: its name in the MLflow registry.
    """
    command = (
        f"ghn compare my.py:Net --images photos --from {weights}\n"
        f"ghn init my.py:Net --images photos --from {weights}\n"
        "ghn registry promote  # the newest version becomes the champion, if it is better\n"
        f"ghn init resnet50 --from models:/{registered}@champion"
    )
    python = (
        "import ghn\n"
        "\n"
        f'hypernetwork = ghn.from_pretrained("models:/{registered}@champion")  # or "{weights}"\n'
        "ghn.init_(model, hypernetwork, batches=batches)"
    )
    text = (
        "In the directory of this run; my.py:Net is a network of yours, photos a folder with a"
        " folder per class."
    )
    return Section("use", "Use it", [Text(text, "lead"), Code(command), Code(python)])
