"""`ghn params`: params.yaml checked, set, switched to another profile, described."""

from __future__ import annotations

import json
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ghn import options

if TYPE_CHECKING:
    from flows.settings.describe import Field

params_app = typer.Typer(
    help="Check, set and describe params.yaml, and switch profiles.", no_args_is_help=True
)


def complete_profile(incomplete: str) -> list[str]:
    """Profiles that begin with what was typed."""
    from flows.params import PROFILES
    from flows.settings.files import profiles

    return [name for name in profiles(PROFILES) if name.startswith(incomplete)]


def complete_field(incomplete: str) -> list[str]:
    """Dotted names of fields that begin with what was typed."""
    from flows.params import Params
    from flows.settings.describe import fields

    return [field.name for field in fields(Params) if field.name.startswith(incomplete)]


@params_app.command("check")
def check_params(
    profile: Annotated[
        str | None,
        typer.Option(
            "--profile",
            help="With the overlay params/PROFILE.yaml.",
            autocompletion=complete_profile,
        ),
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Check params.yaml (or a profile) and print it complete, defaults filled in."""
    import yaml

    from flows.params import load_params

    tree = load_params(profile=profile).tree()
    text = json.dumps(tree) + "\n" if as_json else yaml.safe_dump(tree, sort_keys=False)
    typer.echo(text, nl=False)


@params_app.command("use")
def use_params(
    profile: Annotated[
        str,
        typer.Argument(
            help="A file of params/, for example paper.", autocompletion=complete_profile
        ),
    ],
) -> None:
    """Write a profile's values into params.yaml (`git checkout params.yaml` goes back to the laptop
    profile).
    """
    from flows.params import PARAMS_FILE, use_profile

    with _no_run():
        use_profile(profile)
    typer.echo(
        f"{PARAMS_FILE} has the values of profile {profile}; `git diff {PARAMS_FILE}` shows them"
    )


@params_app.command("set")
def set_fields(
    values: Annotated[
        list[str],
        typer.Argument(
            metavar="FIELD=VALUE...",
            help="For example train.steps=1000.",
            autocompletion=complete_field,
        ),
    ],
) -> None:
    """Set fields of params.yaml, those too that it leaves at their defaults; comments stay."""
    from flows.params import PARAMS_FILE, set_params

    new = assignments(values)
    with _no_run():
        set_params(new)
    typer.echo(f"{PARAMS_FILE}: {', '.join(values)}")


def _no_run() -> AbstractContextManager[None]:
    """Keeps runs of the pipeline out of this tree while its parameters are written.

    Raises:
        ConfigError: one is at work; DVC would take the new parameters for those of its outputs.
    """
    from flows.params import PARAMS_FILE
    from flows.settings import paths
    from ghn.errors import ConfigError
    from ghn.locks import held

    message = (
        f"{PARAMS_FILE} is in use: a run works in this tree, whose outputs DVC would take for those"
        " of the new parameters; wait until it has ended, or use `ghn run -S FIELD=VALUE` or"
        " `--profile`, which waits"
    )
    return held(paths.TREE_LOCK, ConfigError(message))


def assignments(values: list[str]) -> dict[str, Any]:
    """`train.steps=10` as a name and a value, read as YAML 1.2.

    Raises:
        ConfigError: no `=`, a name that is no field, or a value that is not YAML.
    """
    import difflib

    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    from flows.params import Params
    from flows.settings.describe import fields, is_field
    from ghn.errors import ConfigError

    found: dict[str, Any] = {}
    for text in values:
        name, sign, value = text.partition("=")
        if not sign:
            raise ConfigError(f"{text}: write FIELD=VALUE, for example train.steps=1000")
        if not is_field(Params, name):
            near = difflib.get_close_matches(name, [field.name for field in fields(Params)], n=3)
            hint = f"; nearest: {', '.join(near)}" if near else ""
            raise ConfigError(f"{name} is no field of params.yaml{hint} (`ghn params describe`)")
        try:
            found[name] = YAML(typ="safe", pure=True).load(value)  # 1.2: off is a word, 1e-3 not
        except YAMLError as error:
            raise ConfigError(f"{text}: {value!r} is not YAML: {error}") from None
    return found


@params_app.command("profiles")
def list_profiles(as_json: options.Json = False) -> None:
    """List the profiles."""
    from flows.params import PROFILES
    from flows.settings.files import profiles

    names = profiles(PROFILES)
    for line in [json.dumps(names)] if as_json else names:
        typer.echo(line)


@params_app.command("describe")
def describe_params(
    section: Annotated[
        str | None,
        typer.Argument(
            help="A section or field, for example train or train.steps.",
            autocompletion=complete_field,
        ),
    ] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Tables of Markdown.")] = False,
    as_json: options.Json = False,
) -> None:
    """Say what each field of params.yaml means, its type and its default."""
    from flows.params import Params
    from flows.settings.describe import fields, to_markdown
    from ghn.errors import ConfigError

    found = [field for field in fields(Params) if section is None or _is_in(field, section)]
    if not found:
        raise ConfigError(f"params.yaml has no section or field {section!r}")
    if as_json:
        typer.echo(json.dumps([field._asdict() for field in found]))
    elif markdown:
        typer.echo(to_markdown(found))
    else:
        for field in found:
            typer.echo(f"{field.name}: {field.kind} = {field.default}")
            if field.description:
                typer.echo(f"    {field.description}")


def _is_in(field: Field, section: str) -> bool:
    return field.name == section or field.name.startswith(f"{section}.")


@params_app.command("schema")
def print_schema() -> None:
    """Print the JSON schema of params.yaml, by which editors complete and check it.

    In the first line of params.yaml: `# yaml-language-server: $schema=params.schema.json`.
    """
    from flows.params import Params

    typer.echo(json.dumps(Params.model_json_schema(by_alias=True), indent=2))
