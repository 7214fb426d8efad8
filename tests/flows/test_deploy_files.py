"""Files for those who have containers: consistent in themselves, as far as that shows without
them.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from flows.compute.supervise import GRACE_SECONDS

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "docker-compose.yaml").read_text())


def test_what_an_event_of_a_model_starts_is_about_that_model():
    deployments = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]
    triggers = [trigger for one in deployments for trigger in one.get("triggers", ())]
    of_models = [t for t in triggers if t["match"]["prefect.resource.id"] == "ghn.model.*"]
    assert len(of_models) == 2
    for trigger in of_models:
        assert trigger["parameters"]["model"] == "{{ event.payload.model }}", trigger["name"]


def test_services_refer_to_what_exists(compose):
    services = compose["services"]
    assert services.keys() == {
        "postgres",
        "prefect",
        "mlflow",
        "deploy",
        "worker-cpu",
        "worker-gpu",
    }
    for service in services.values():
        for name, condition in service.get("depends_on", {}).items():
            assert name in services
            if condition["condition"] == "service_healthy":
                assert "healthcheck" in services[name]
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert (
                (ROOT / source).exists() if source.startswith(".") else source in compose["volumes"]
            )


def test_only_loopback_is_published_and_no_secret_is_written(compose):
    ports = [port for service in compose["services"].values() for port in service.get("ports", [])]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)
    text = (ROOT / "docker-compose.yaml").read_text()
    assert "${GHN_STACK_PASSWORD:?" in text
    assert not re.search(r"ghn:(?!\$\{)\w+@", text)


@pytest.mark.parametrize("name", ["docker-gpu", "kubernetes-gpu"])
def test_pool_templates_fill_in_only_variables_that_they_declare(name):
    template = json.loads((ROOT / "deploy" / "pools" / f"{name}.json").read_text())
    assert template.keys() == {"variables", "job_configuration"}
    used = set(re.findall(r"\{\{ *([\w.]+) *\}\}", json.dumps(template["job_configuration"])))
    assert used <= set(template["variables"]["properties"])


def test_the_pools_ask_for_a_gpu():
    docker = json.loads((ROOT / "deploy/pools/docker-gpu.json").read_text())["variables"][
        "properties"
    ]
    assert docker["container_create_kwargs"]["default"]["device_requests"][0]["capabilities"] == [
        ["gpu"]
    ]
    manifest = json.loads((ROOT / "deploy/pools/kubernetes-gpu.json").read_text())[
        "job_configuration"
    ]["job_manifest"]
    (container,) = manifest["spec"]["template"]["spec"]["containers"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "{{ gpus }}"


def test_all_containers_work_in_one_checkout(compose):
    # a stage that one leaves to the other needs its files
    for worker in ("worker-cpu", "worker-gpu"):
        assert compose["services"][worker]["volumes"] == [".:/app"]
        assert compose["services"][worker]["environment"]["GHN_ROOT"] == "/app"
    docker = json.loads((ROOT / "deploy/pools/docker-gpu.json").read_text())["variables"][
        "properties"
    ]
    assert [volume.split(":")[1] for volume in docker["volumes"]["default"]] == ["/app"]
    variables = json.loads((ROOT / "deploy/pools/kubernetes-gpu.json").read_text())["variables"]
    mounts = variables["properties"]["volume_mounts"]["default"]
    assert {"name": "ghn3", "mountPath": "/app"} in mounts
    assert {mount["name"] for mount in mounts} == {
        volume["name"] for volume in variables["properties"]["volumes"]["default"]
    }


def test_containers_may_end_in_the_time_that_a_stage_is_given(compose):
    manifest = json.loads((ROOT / "deploy/pools/kubernetes-gpu.json").read_text())
    pod = manifest["job_configuration"]["job_manifest"]["spec"]["template"]["spec"]
    assert pod["terminationGracePeriodSeconds"] > GRACE_SECONDS
    minutes = compose["services"]["worker-gpu"]["stop_grace_period"]
    assert 60 * int(minutes.removesuffix("m")) > GRACE_SECONDS


def test_make_alone_says_what_there_is_and_installs_nothing(tmp_path):
    shutil.copy(ROOT / "Makefile", tmp_path)
    result = subprocess.run(["make"], cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0
    targets = set(re.findall(r"(?m)^make ([a-z-]+) +\S", result.stdout))
    assert targets >= {"help", "setup", "run", "test", "up", "down"}
    assert [path.name for path in tmp_path.iterdir()] == ["Makefile"]
