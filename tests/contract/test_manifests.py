"""The manifests agree with the programs: every setting is known, every port and name is the same on both sides."""

from pathlib import Path

import pytest
import yaml

import cvmprobe
from cvmprobe.cluster import names
from cvmprobe.config.agent import AgentSettings
from cvmprobe.config.collector import CollectorSettings
from cvmprobe.config.load import load
from cvmprobe.wire.identity import Access

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"


def objects(kind):
    files = sorted((DEPLOY / "base").glob("*.yaml"))
    found = [item for file in files for item in yaml.safe_load_all(file.read_text()) if item]
    return {item["metadata"]["name"]: item for item in found if item.get("kind") == kind and "metadata" in item}


@pytest.fixture
def settings_file(tmp_path):
    path = tmp_path / "cvmprobe.toml"
    path.write_text(objects("ConfigMap")["cvmprobe-settings"]["data"]["cvmprobe.toml"])
    return path


def environment_of(workload):
    container = workload["spec"]["template"]["spec"]["containers"][0]
    return {variable["name"]: variable.get("value", "node1") for variable in container["env"]}


@pytest.fixture
def collector(settings_file):
    environ = environment_of(objects("StatefulSet")["cvmprobe-collector"])
    return load(CollectorSettings, "collector", file=settings_file, environ=environ)


@pytest.fixture(params=["agent", "peer"])
def agent(request, settings_file):
    environ = environment_of(objects("DaemonSet")[f"cvmprobe-{request.param}"])
    return load(AgentSettings, "agent", file=settings_file, environ=environ)


def test_every_budget_is_stated_and_none_is_without_end(collector, agent):
    for budgets in (collector.budgets, agent.budgets):
        values = [getattr(budgets, name) for name in type(budgets).__struct_fields__]
        assert all(0 < value < 1 << 50 for value in values)


def test_the_light_budget_is_what_the_documents_promise(collector):
    assert collector.budgets.light_bits_per_s <= 1_000_000
    assert collector.budgets.light_operations_per_s <= 200


def test_ports_are_those_of_the_services(collector, agent):
    services = {name: item["spec"]["ports"][0]["port"] for name, item in objects("Service").items()}
    assert services["cvmprobe-collector"] == int(collector.listen.rpartition(":")[2])
    assert agent.collector == f"cvmprobe-collector:{services['cvmprobe-collector']}"
    assert agent.responder_port == services[collector.service_host]
    probe = objects("StatefulSet")["cvmprobe-collector"]["spec"]["template"]["spec"]["containers"][0]["readinessProbe"]
    assert probe["grpc"]["port"] == int(collector.health_listen.rpartition(":")[2])


def test_the_certificate_is_good_for_the_name_that_agents_dial(collector, agent):
    assert agent.collector.rpartition(":")[0] in collector.names


def test_people_find_what_the_command_looks_for(settings_file, collector):
    assert objects("Namespace").keys() == {names.NAMESPACE}
    assert names.CONFIG_MAP in objects("ConfigMap")
    assert int(collector.listen.rpartition(":")[2]) == names.COLLECTOR_PORT
    assert names.SERVER_NAME in collector.names
    pods = {**objects("StatefulSet"), **objects("DaemonSet")}
    for component in ("collector", "agent"):
        labels = pods[f"cvmprobe-{component}"]["spec"]["template"]["metadata"]["labels"]
        assert labels[names.COMPONENT] == component
        assert names.OURS in [f"{name}={value}" for name, value in labels.items()]
    agent = load(AgentSettings, "agent", file=settings_file, environ=environment_of(pods["cvmprobe-agent"]))
    assert agent.probe_service
    assert agent.probe_service_port == names.PROBE_SERVICE_PORT
    (token,) = [
        volume for volume in pods["cvmprobe-agent"]["spec"]["template"]["spec"]["volumes"] if "projected" in volume
    ]
    assert token["projected"]["sources"][0]["serviceAccountToken"]["audience"] == names.AUDIENCE


@pytest.mark.parametrize("role", [Access.VIEWER, Access.RUNNER, Access.ADMIN])
def test_the_role_of_people_allows_what_the_command_asks(role):
    account = f"cvmprobe-{role}"
    assert account in objects("ServiceAccount")
    rules = objects("Role")[account]["rules"]
    for resource, verb, name in (
        ("pods", "list", None),
        ("pods/portforward", "get", None),
        ("pods/portforward", "create", None),
        ("configmaps", "get", names.CONFIG_MAP),
        ("serviceaccounts/token", "create", account),
    ):
        assert any(
            resource in rule["resources"] and verb in rule["verbs"] and name in rule.get("resourceNames", [None])
            for rule in rules
        ), (resource, verb)


def test_only_the_agent_that_has_a_volume_is_told_of_one(settings_file):
    for name, workload in objects("DaemonSet").items():
        settings = load(AgentSettings, "agent", file=settings_file, environ=environment_of(workload))
        mounts = {m["mountPath"] for m in workload["spec"]["template"]["spec"]["containers"][0]["volumeMounts"]}
        assert {str(path) for path in settings.volumes.values()} <= mounts, name


def test_images_are_of_this_version():
    kustomization = yaml.safe_load((DEPLOY / "base/kustomization.yaml").read_text())
    assert {image["newTag"] for image in kustomization["images"]} == {cvmprobe.__version__}


@pytest.mark.parametrize("kind", ["DaemonSet", "StatefulSet"])
def test_every_pod_is_restricted(kind):
    for workload in objects(kind).values():
        pod = workload["spec"]["template"]["spec"]
        container = pod["containers"][0]
        assert pod["securityContext"]["runAsNonRoot"]
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert container["securityContext"]["readOnlyRootFilesystem"]
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert "cpu" not in container["resources"]["limits"]
