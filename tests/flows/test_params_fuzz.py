"""Whatever stands in params.yaml: parameters, or an error that a user can act on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flows.params import load_params
from ghn.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
TREE = yaml.safe_load((ROOT / "params.yaml").read_text())
FUZZ = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-(10**30), 10**30),
    st.floats(),
    st.text(max_size=8),
    st.dates(),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=5,
)
FIELDS = [(section, field) for section, fields in TREE.items() for field in fields]


def loads(path: Path, text: bytes) -> None:
    path.write_bytes(text)
    try:
        load_params(path)
    except ConfigError as error:
        assert str(error)  # noqa: PT017, one is as good as none


@FUZZ
@given(where=st.sampled_from(FIELDS), value=VALUES)
def test_any_value_of_any_field(
    tmp_path_factory: pytest.TempPathFactory, where: tuple[str, str], value: Any
) -> None:
    section, field = where
    tree = {**TREE, section: {**TREE[section], field: value}}
    path = tmp_path_factory.mktemp("fuzz") / "params.yaml"
    loads(path, yaml.safe_dump(tree, allow_unicode=True).encode("utf-8", "surrogatepass"))


@FUZZ
@given(section=st.sampled_from(sorted(TREE)), value=VALUES)
def test_any_section(tmp_path_factory: pytest.TempPathFactory, section: str, value: Any) -> None:
    path = tmp_path_factory.mktemp("fuzz") / "params.yaml"
    loads(path, yaml.safe_dump({**TREE, section: value}).encode("utf-8", "surrogatepass"))


@FUZZ
@given(text=st.one_of(st.binary(max_size=200), st.text("{}[]:-&*!|>?%@`'\"#,\n ab1", max_size=60)))
def test_any_text(tmp_path_factory: pytest.TempPathFactory, text: bytes | str) -> None:
    content = text if isinstance(text, bytes) else text.encode()
    loads(tmp_path_factory.mktemp("fuzz") / "params.yaml", content)


@FUZZ
@given(place=st.integers(0, 10**6), byte=st.integers(0, 255))
def test_any_byte_of_the_file(
    tmp_path_factory: pytest.TempPathFactory, place: int, byte: int
) -> None:
    content = bytearray((ROOT / "params.yaml").read_bytes())
    content[place % len(content)] = byte
    loads(tmp_path_factory.mktemp("fuzz") / "params.yaml", bytes(content))


@pytest.mark.parametrize(
    "text",
    [
        b"[" * 20_000,
        b"base: " + b"{a: " * 5_000,
        b"a: &a [1]\nb: &b [*a, *a]\nbase: *b",
        b"base: &x {ghn: *x}",
        b"base: !!python/object/apply:os.system [echo]",
        b"\xff\xfe\x00",
        b"base:\n\t- 1",
        b"? [a, b]\n: 1",
        b"base: {seed: 0x7fffffffffffffffffffffff}",
        b"2020-13-45: 1\nbase: 2020-13-45",
    ],
)
def test_text_that_a_parser_may_stumble_over(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "params.yaml").write_bytes(text)
    with pytest.raises(ConfigError, match=r"params\.yaml"):
        load_params(tmp_path / "params.yaml")
