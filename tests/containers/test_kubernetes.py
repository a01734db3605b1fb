"""The manifests against the schemas of Kubernetes, and against the images that they run."""

import importlib
import os
import re
from pathlib import Path
from typing import Any

import pytest

from runtime.cli import build_parser
from runtime.cli.serve import flags_of
from runtime.config import Config, load_config
from runtime.transport.access import HTTP_ROLES

FOLDER = Path(__file__).resolve().parents[2] / "containers" / "kubernetes"
NAME = "app.kubernetes.io/name"


def required(name: str) -> Any:
    """The module, or a skip; where everything was installed (SPILLWAY_REQUIRE), a failure instead."""
    if os.environ.get("SPILLWAY_REQUIRE") == "1":
        return importlib.import_module(name)
    return pytest.importorskip(name)


kubernetes_validate = required("kubernetes_validate")
yaml = required("yaml")  # comes with kubernetes-validate


def documents(path: Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(path.read_text()))


def manifests() -> dict[str, dict[str, Any]]:
    """The objects of the base, by kind and name."""
    listed = documents(FOLDER / "base" / "kustomization.yaml")[0]["resources"]
    found = [entry for name in listed for entry in documents(FOLDER / "base" / name)]
    return {f"{entry['kind']}/{entry['metadata']['name']}": entry for entry in found}


def pod() -> dict[str, Any]:
    return dict(manifests()["Deployment/spillway"]["spec"]["template"]["spec"])


def test_the_base_lists_every_file_beside_it() -> None:
    beside = {path.name for path in (FOLDER / "base").glob("*.yaml")} - {"kustomization.yaml"}
    assert set(documents(FOLDER / "base" / "kustomization.yaml")[0]["resources"]) == beside


@pytest.mark.parametrize("name", manifests())
def test_the_schema_accepts_it(name: str) -> None:
    kubernetes_validate.validate(manifests()[name], kubernetes_validate.latest_version(), strict=True)


def test_the_schema_would_refuse_a_misspelt_key() -> None:
    broken = manifests()["Deployment/spillway"]
    broken["spec"]["template"]["spec"]["terminationGracePeriod"] = 1
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, kubernetes_validate.latest_version(), strict=True)


def test_everything_selects_the_same_pods() -> None:
    found = manifests()
    deployment = found.pop("Deployment/spillway")["spec"]
    wanted = deployment["template"]["metadata"]["labels"]
    assert deployment["selector"]["matchLabels"] == wanted == {NAME: "spillway"}
    for entry in found.values():
        selector = entry["spec"]["selector"]
        assert selector.get("matchLabels", selector) == wanted


def test_services_reach_a_port_that_the_pod_has() -> None:
    ports = {port["name"]: port["containerPort"] for port in pod()["containers"][0]["ports"]}
    for entry in manifests().values():
        if entry["kind"] == "Service":
            assert {port["targetPort"] for port in entry["spec"]["ports"]} <= set(ports)
    assert ports["grpc"] == 8001


def test_the_pod_is_what_the_image_is_made_for() -> None:
    image = (FOLDER.parent / "Containerfile.cpu").read_text()
    user = re.search(r"^USER (\d+):(\d+)$", image, re.MULTILINE)
    assert user is not None
    context, container = pod()["securityContext"], pod()["containers"][0]
    assert (context["runAsUser"], context["runAsGroup"]) == tuple(map(int, user.groups()))
    assert context["runAsNonRoot"] is True
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    written = {"/tmp", "/var/lib/spillway"}
    assert written <= {mount["mountPath"] for mount in container["volumeMounts"] if not mount.get("readOnly")}


def test_service_variables_cannot_become_configuration() -> None:
    """A service called spillway-grpc makes Kubernetes set SPILLWAY_GRPC_PORT, and SPILLWAY_* is ours."""
    assert pod()["enableServiceLinks"] is False


def test_the_daemon_takes_the_command_and_would_start_safely() -> None:
    """Whatever listens beyond the pod asks for certificates; what does not stays on loopback."""
    container = pod()["containers"][0]
    environment = {entry["name"]: entry["value"] for entry in container["env"]}
    parsed = build_parser("serve").parse_args(container["args"])
    config = load_config(Path(os.devnull), flags_of(parsed), environment).config
    assert config.grpc.host == "0.0.0.0"
    assert config.grpc.mutual_tls
    assert not config.access.insecure
    assert (config.http.host, config.http.metrics_host) == ("127.0.0.1", "127.0.0.1")
    mounted = {mount["mountPath"] for mount in container["volumeMounts"]}
    assert {str(Path(path).parent) for path in (config.grpc.tls_cert, config.grpc.tls_key)} <= mounted
    assert set(config.repository.directories) <= mounted


@pytest.mark.parametrize("probe", ["startupProbe", "readinessProbe", "livenessProbe"])
def test_a_probe_runs_what_the_image_has(probe: str) -> None:
    python, _, program, path = pod()["containers"][0][probe]["exec"]["command"]
    assert python == "python"
    assert f"COPY containers/probe.py {program}\n" in (FOLDER.parent / "Containerfile.cpu").read_text()
    assert ("GET", path) in HTTP_ROLES


def test_the_grace_period_holds_the_whole_stop() -> None:
    pre_stop = pod()["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert pod()["terminationGracePeriodSeconds"] > pre_stop + Config().daemon.drain_s


def test_the_accelerator_variant_patches_what_is_there() -> None:
    overlay = documents(FOLDER / "gpu" / "kustomization.yaml")[0]
    (patch,) = overlay["patches"]
    (change,) = documents(FOLDER / "gpu" / patch["path"])
    assert f"{patch['target']['kind']}/{patch['target']['name']}" in manifests()
    assert [entry["name"] for entry in change["spec"]["template"]["spec"]["containers"]] == [
        entry["name"] for entry in pod()["containers"]
    ]
    (base_image,) = documents(FOLDER / "base" / "kustomization.yaml")[0]["images"]
    assert overlay["images"][0]["name"] == base_image["newName"]
