"""Names are found without PyTorch, and are those that the libraries have."""

import subprocess
import sys

import pytest
import timm

from ghn import names
from ghn.architectures import available
from ghn.errors import UnknownArchitectureError


def test_the_names_are_those_of_the_libraries() -> None:
    assert sorted(names.torchvision_names()) == sorted(available())
    assert {name.removeprefix("timm/") for name in names.timm_names()} == {*timm.list_models()}


def test_a_pattern_selects() -> None:
    assert {"resnet18", "resnet1000"} <= {*names.find("resnet*")}
    assert not [name for name in names.find("resnet*") if not name.startswith("resnet")]
    assert names.find("resnet18", timm=True) == ["timm/resnet18"]
    assert names.find("timm/resnet18", timm=True) == ["timm/resnet18"]


def test_a_pattern_without_a_match_names_the_nearest() -> None:
    with pytest.raises(UnknownArchitectureError, match="resnet50"):
        names.find("resnet5x*")


def test_listing_needs_no_torch() -> None:
    code = (
        "import sys; from ghn.names import find; find('resnet*'); find(None, timm=True);"
        " sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
