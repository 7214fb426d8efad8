"""Examples as pages and notebooks: their comments are the text.

python docs/site/literate.py DIRECTORY    # a notebook per example
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path
from typing import NamedTuple

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


class Cell(NamedTuple):
    """A piece of a script: prose or code."""

    prose: bool
    text: str


def cells(script: str) -> list[Cell]:
    """The docstring and the comments at the left margin, each with the code that follows it."""
    tree = ast.parse(script)
    first = tree.body[0].end_lineno
    found = [Cell(True, ast.get_docstring(tree) or "")]
    prose: list[str] = []
    code: list[str] = []

    def flush() -> None:
        for lines, is_prose in ((prose, True), (code, False)):
            text = "\n".join(lines).strip("\n")
            if text:
                found.append(Cell(is_prose, text))
            lines.clear()

    for line in script.splitlines()[first:]:
        if line.startswith("# "):
            if code:
                flush()
            prose.append(line.removeprefix("# "))
        else:
            code.append(line)
    flush()
    return found


def to_page(name: str, script: str) -> str:
    """A page of Markdown."""
    title, _, rest = cells(script)[0].text.partition("\n")
    body = (c.text if c.prose else f"```python\n{c.text}\n```" for c in cells(script)[1:])
    end = f"The script is `examples/{name}`; a test runs it."
    parts = [f"# {title}", rest.strip("\n"), *body, end]
    return "\n\n".join(part for part in parts if part) + "\n"


def to_notebook(name: str, script: str) -> str:
    """A notebook as JSON, the same bytes for the same script."""
    import nbformat
    from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

    first = new_code_cell(f"import sys\n\nsys.argv = [{name!r}]  # arguments of the script go here")
    kinds = (new_code_cell, new_markdown_cell)
    made = [first, *(kinds[cell.prose](cell.text) for cell in cells(script))]
    for number, cell in enumerate(made):
        cell["id"] = f"cell-{number}"  # the library draws one at random
    book = new_notebook(cells=made)
    nbformat.validate(book)
    return nbformat.writes(book) + "\n"


def main(directory: Path) -> None:
    """Writes the notebooks."""
    directory.mkdir(parents=True, exist_ok=True)
    for path in sorted(EXAMPLES.glob("*.py")):
        out = directory / f"{path.stem}.ipynb"
        out.write_text(to_notebook(path.name, path.read_text()))
        print(out)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "build/notebooks"))
