"""What MkDocs is told beyond mkdocs.yml: pages made from code, and links that leave docs/."""

from __future__ import annotations

import ast
import importlib
import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

from literate import EXAMPLES, to_page  # noqa: E402
from mkdocs.structure.files import File, Files  # noqa: E402

from flows.settings.describe import fields, to_markdown  # noqa: E402

PACKAGES = {
    "ghn": ("ghn", "Networks in, parameters out."),
    "ghn.models": ("ghn/models", "Hypernetworks."),
    "ghn.predict": ("ghn/predict", "Predictions into networks, and statistics of batch norm."),
    "ghn.checkpoint": ("ghn/checkpoint", "Files of hypernetworks."),
    "ghn.finetune": ("ghn/finetune", "Training a network from a prediction."),
    "ghn.baselines": ("ghn/baselines", "Other initialisations."),
    "ghn.train": ("ghn/train", "Training a hypernetwork."),
    "ghn.analysis": ("ghn/analysis", "Measures of the paper."),
    "datasets.images": ("datasets/images", "Images as tensors or streams."),
    "datasets.deepnets": ("datasets/deepnets", "DeepNets-1M."),
}
_OUTSIDE = re.compile(r"\[([^\]]*)\]\(\.\./([^)#]+)(#[^)]*)?\)")


def on_config(config: Any) -> Any:
    """Puts the pages that mkdocs.yml does not name into the menu."""
    menu = {next(iter(entry)): entry for entry in config["nav"] if isinstance(entry, dict)}
    named = re.findall(r"[\w/-]+\.md", str(config["nav"]))
    pages = sorted(path.name for path in (ROOT / "docs").glob("*.md") if path.name not in named)
    menu["In depth"]["In depth"] = pages
    menu["In depth"]["In depth"] += [f"benchmarks/{p.name}" for p in _benchmarks()]
    menu["Examples"]["Examples"] = [f"examples/{path.stem}.md" for path in _examples()]
    menu["Reference"]["Reference"] += [{name: f"reference/{name}.md"} for name in PACKAGES]
    return config


def on_files(files: Files, config: Any) -> Files:
    """Adds the pages that are made here."""
    made = {f"examples/{p.stem}.md": to_page(p.name, p.read_text()) for p in _examples()}
    made |= {f"benchmarks/{p.name}": p.read_text() for p in _benchmarks()}
    made |= {f"reference/{name}.md": interface(name) for name in PACKAGES}
    made["reference/parameters.md"] = parameters()
    made["reference/commands.md"] = commands()
    for name, text in made.items():
        files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Leads links to files outside of docs/ to their pages here; the rest become names."""
    up = "../" * page.file.src_uri.count("/")

    def link(match: re.Match[str]) -> str:
        text, path, anchor = match[1], match[2], match[3] or ""
        if path.startswith("docs/"):
            return f"[{text}]({up}{path.removeprefix('docs/')}{anchor})"
        if path.startswith("examples/"):
            return f"[{text}]({up}{path.removesuffix('.py')}.md)"
        if path.startswith("benchmarks/") and path.endswith(".md"):
            return f"[{text}]({up}{path}{anchor})"
        return text if "`" in text or text == path else f"{text} (`{path}`)"

    return _OUTSIDE.sub(link, markdown)


def interface(package: str) -> str:
    """The page of a package: every public name, from its stub, the one list of them."""
    folder, about = PACKAGES[package]
    lines = [f"# {package}", "", about, ""]
    tree = ast.parse((ROOT / folder / "__init__.pyi").read_text())
    for node in tree.body:
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                lines += [f"::: {package}.{node.module}.{alias.name}", ""]
                if alias.name.endswith("Config"):
                    module = importlib.import_module(f"{package}.{node.module}")
                    lines += [to_markdown([*fields(getattr(module, alias.name))], sections=False)]
    return "\n".join(lines)


def parameters() -> str:
    """The page of params.yaml."""
    from flows.params import Params

    head = (
        "# Parameters\n\nEvery field of `params.yaml`, from the descriptions beside the code"
        " (`ghn params describe`). `ghn params set train.steps=1000` sets one, `ghn run -S"
        " train.steps=1000` sets it and runs. `ghn params schema > params.schema.json` and the line"
        " `# yaml-language-server: $schema=params.schema.json` in `params.yaml` make editors"
        " complete and check it.\n"
    )
    return head + to_markdown([*fields(Params)])


def commands() -> str:
    """The page of the command line."""
    import typer

    from flows.commands.stages import register
    from ghn import cli

    register(cli.app)
    root = typer.main.get_command(cli.app)
    head = (
        "# Command line\n\n`ghn --install-completion` completes commands, options, networks,"
        " splits, fields and stages in your shell. Exit codes: 0 success, 1 bad data, 2 bad usage"
        " or parameters, 130 Ctrl-C; `GHN_TRACEBACK=1` keeps the traceback of an error. A wheel has"
        f" {', '.join(f'`{name}`' for name in ('init', 'list', 'trace', 'info', 'convert'))}; a"
        " checkout all.\n"
    )
    return head + "\n".join(_command(root, "ghn"))


def _command(command: Any, path: str) -> list[str]:
    lines: list[str] = []
    children = getattr(command, "commands", {})
    if not children or path.count(" ") == 1:
        level = "##" if path.count(" ") == 1 else "###"
        lines += [f"\n{level} {path}\n", _text(command.help), ""]
        rows = [row for parameter in command.params if (row := _row(parameter))]
        if rows:
            lines += ["| | |", "|---|---|", *rows]
    for name, child in children.items():
        lines += _command(child, f"{path} {name}")
    return lines


def _row(parameter: Any) -> str:
    if "--help" in parameter.opts:
        return ""
    argument = parameter.param_type_name == "argument"
    names = (parameter.metavar or parameter.name.upper()) if argument else ", ".join(parameter.opts)
    default = parameter.default
    shown = "" if default in (None, False, ()) or callable(default) else f" Default `{default}`."
    help_text = _text(getattr(parameter, "help", "") or "").replace("|", "\\|")
    return f"| `{names}` | {help_text.replace('<', '&lt;')}{shown} |"


def _text(text: str | None) -> str:
    paragraphs = (text or "").split("\n\n")
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)


def _examples() -> list[Path]:
    return sorted(EXAMPLES.glob("*.py"))


def _benchmarks() -> list[Path]:
    return sorted((ROOT / "benchmarks").glob("*.md"))
