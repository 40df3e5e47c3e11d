"""The Helm chart: rendered by Helm itself, and held against the schemas of Kubernetes.

Helm comes as the program on the PATH, or as ``helm-python-sdk`` from PyPI (Helm 4 as a library);
the schemas as ``kubernetes-validate``. Both are large and the chart is no part of the program, so
only ``.ci/run`` installs them; without them these tests skip and say so. What the operators of
RabbitMQ, KEDA and Prometheus define has no schema here; of that, the fields we rely on are looked
at.
"""

import functools
import importlib
import json
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import pytest

from shared.broker.policies import POLICIES, PRIORITY
from shared.broker.topology import every, exchange, protected
from shared.queues import MOVING, SENDERS, Tier
from shared.settings.load import load

ROOT = Path(__file__).parents[2]
CHART = ROOT / "deploy/helm/pop3-connector"
STAGES = {"fetcher": "poll", "parser": "incoming", "rewriter": "parsed", "deliverer": "pickup"}
_KEYS = ("name", "pattern", "definition", "priority")
BUILT_IN = {
    "ConfigMap",
    "Deployment",
    "Job",
    "NetworkPolicy",
    "PodDisruptionBudget",
    "ServiceAccount",
}
Manifest = dict[str, Any]

VARIANTS: dict[str, dict[str, Any]] = {
    "as it is": {},
    "with everything": {
        "image": {
            "repository": "registry.example/pop3-connector",
            "tag": "1",
            "pullSecrets": ["r"],
        },
        "accountsSecret": "accounts",
        "destinationsSecret": "destinations",
        "broker": {"url": "amqps://rabbitmq.mail:5671/", "caSecret": "broker-ca"},
        "state": {"caSecret": "state-ca"},
        "spool": {"endpoint": "https://minio.example", "credentialsSecret": "spool"},
        "autoscaling": {"enabled": True},
        "podAnnotations": {"a": "b"},
        "nodeSelector": {"kubernetes.io/os": "linux"},
        "tolerations": [{"key": "mail", "operator": "Exists"}],
        "serviceAccount": {"annotations": {"a": "b"}},
        "podMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
        "rabbitmq": {"enabled": True, "storageClassName": "fast"},
    },
    "with a shared disk": {
        "spool": {"existingClaim": "spool"},
        "broker": {"urls": ["amqp://rabbit-1.mail:5672/", "amqp://rabbit-2.mail:5672/"]},
    },
}


def yaml() -> Any:
    return pytest.importorskip("yaml")


def rendered_text(values: dict[str, Any]) -> str:
    """Return what ``helm template`` says, from whichever Helm there is."""
    if (program := shutil.which("helm")) is not None:
        with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
            json.dump(values, file)
            file.flush()
            command = [program, "template", "mail", str(CHART), "-n", "mail", "-f", file.name]
            done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        if done.returncode:
            raise ValueError(done.stderr)
        return done.stdout
    pytest.importorskip("helm_python", reason="neither helm nor helm-python-sdk is here")
    library = importlib.import_module("helm_python")
    chart = library.Chart.load(str(CHART))
    try:
        chart.validate_schema(values)
        files = chart.render(values, name="mail", namespace="mail")
    except library.HelmError as error:
        raise ValueError(str(error)) from error
    return "\n---\n".join(text for name, text in files.items() if name.endswith(".yaml"))


@functools.cache
def manifests(variant: str) -> tuple[Manifest, ...]:
    found = yaml().safe_load_all(rendered_text(VARIANTS[variant]))
    return tuple(manifest for manifest in found if manifest)


def of_kind(variant: str, kind: str) -> dict[str, Manifest]:
    """Return the manifests of a kind by name, less the name of the release."""
    found = [m for m in manifests(variant) if m["kind"] == kind]
    return {m["metadata"]["name"].removeprefix("mail-pop3-connector-"): m for m in found}


def pods(variant: str) -> dict[str, Manifest]:
    """Return the pod specs by service."""
    jobs = {name.partition("-")[0]: job for name, job in of_kind(variant, "Job").items()}
    return {
        name: workload["spec"]["template"]["spec"]
        for name, workload in {**of_kind(variant, "Deployment"), **jobs}.items()
    }


@pytest.mark.parametrize("variant", VARIANTS)
def test_kubernetes_would_take_it(variant: str) -> None:
    validator = pytest.importorskip("kubernetes_validate")
    for manifest in manifests(variant):
        if manifest["kind"] in BUILT_IN:
            validator.validate(manifest, "1.31", strict=True)
    assert {m["kind"] for m in manifests(variant)} >= BUILT_IN


@pytest.mark.parametrize("variant", VARIANTS)
def test_names_are_unique_and_there_is_no_secret_in_it(variant: str) -> None:
    names = [(m["kind"], m["metadata"]["name"]) for m in manifests(variant)]
    assert len(names) == len(set(names))
    assert "Secret" not in {kind for kind, _ in names}


@pytest.mark.parametrize("variant", VARIANTS)
def test_nothing_may_do_more_than_it_needs(variant: str) -> None:
    for service, pod in pods(variant).items():
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] == 10001
        assert pod["automountServiceAccountToken"] is False
        (container,) = pod["containers"]
        allowed = container["securityContext"]
        assert allowed["capabilities"] == {"drop": ["ALL"]}
        assert allowed["readOnlyRootFilesystem"] is True
        assert allowed["allowPrivilegeEscalation"] is False
        mounted = {mount["mountPath"] for mount in container["volumeMounts"]}
        knows_state = service in ("fetcher", "deliverer", "postmaster", "schema")
        assert ("/run/secrets/database" in mounted) == knows_state
        has_spool = service in ("fetcher", "deliverer", "postmaster")
        assert any("spool" in path for path in mounted) <= has_spool
        assert ("/run/secrets/accounts" in mounted) <= (service == "fetcher")
        assert ("/run/secrets/destinations" in mounted) <= (service == "deliverer")
        assert {m["name"] for m in container["volumeMounts"]} == {v["name"] for v in pod["volumes"]}
        secrets = {v["name"]: v["secret"]["secretName"] for v in pod["volumes"] if "secret" in v}
        broker, database = secrets.get("broker"), secrets.get("database")
        wanted = None if service == "schema" else f"pop3-connector-broker-{service}"
        assert broker == wanted
        role = "connector" if service == "schema" else service
        assert database == (f"pop3-connector-database-{role}" if knows_state else None)


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_program_understands_what_it_is_given(variant: str, tmp_path: Path) -> None:
    """The configuration as the containers see it, with their files where the test may put them."""
    (config,) = of_kind(variant, "ConfigMap").values()
    file = tmp_path / "connector.toml"
    file.write_text(config["data"]["connector.toml"])
    for pod in pods(variant).values():
        (container,) = pod["containers"]
        given = {one["name"]: one["value"] for one in container["env"]}
        for name, path in given.items():
            if name.endswith("_FILE"):
                secret = tmp_path / path.strip("/").replace("/", "-")
                secret.write_text("a-secret")
                given[name] = str(secret)
        settings = load(file, given)
        if "POP3_CONNECTOR__BROKER__USERNAME_FILE" in given:
            assert settings.broker.username == "a-secret"
            addresses = settings.broker.addresses()
            assert len(addresses) == (2 if variant == "with a shared disk" else 1)
            assert all("a-secret" in address for address in addresses)
        if "POP3_CONNECTOR__STATE__URL" in given:
            assert "a-secret" in str(settings.state_address())


def test_every_stage_runs_and_tells_how_it_is() -> None:
    deployments = of_kind("as it is", "Deployment")
    assert set(deployments) == {*STAGES, "postmaster"}
    for stage in STAGES:
        deployment = deployments[stage]
        assert deployment["spec"]["replicas"] >= 1
        pod = deployment["spec"]["template"]
        (container,) = pod["spec"]["containers"]
        assert container["args"] == [stage]
        assert container["livenessProbe"]["httpGet"]["path"] == "/healthz"
        assert container["readinessProbe"]["httpGet"]["path"] == "/readyz"
        selected = deployment["spec"]["selector"]["matchLabels"].items()
        assert selected <= pod["metadata"]["labels"].items()
        assert pod["spec"]["terminationGracePeriodSeconds"] > 30


def test_replicas_follow_the_depth_of_the_inbox() -> None:
    scaled = of_kind("with everything", "ScaledObject")
    assert set(scaled) == set(STAGES)
    for stage, one in scaled.items():
        deployment = of_kind("with everything", "Deployment")[stage]
        assert "replicas" not in deployment["spec"]
        assert one["spec"]["scaleTargetRef"]["name"] == deployment["metadata"]["name"]
        (trigger,) = one["spec"]["triggers"]
        assert trigger["type"] == "rabbitmq"
        assert trigger["metadata"]["queueName"] == STAGES[stage]
        assert all(isinstance(value, str) for value in trigger["metadata"].values())


def test_the_operators_users_may_do_what_those_of_compose_may() -> None:
    definitions = json.loads((ROOT / "deploy/rabbitmq/definitions.json").read_text())
    granted = {
        one["user"]: {what: one[what] for what in ("configure", "write", "read")}
        for one in definitions["permissions"]
    }
    variant = "with everything"
    permissions = of_kind(variant, "Permission")
    assert {name: one["spec"]["permissions"] for name, one in permissions.items()} == granted
    users = of_kind(variant, "User")
    assert set(users) == {user["name"] for user in definitions["users"]}
    tags = {name: one["spec"].get("tags", []) for name, one in users.items()}
    assert tags == {user["name"]: user["tags"] for user in definitions["users"]}
    policies = {one["spec"]["name"]: one["spec"] for one in of_kind(variant, "Policy").values()}
    assert policies.keys() == {policy.name for policy in POLICIES}
    for policy in definitions["policies"]:
        ours = policies[policy["name"]]
        for key, spec in (("apply-to", "applyTo"), *((k, k) for k in _KEYS)):
            assert ours[spec] == policy[key]


def test_the_policies_are_those_of_the_program() -> None:
    definitions = json.loads((ROOT / "deploy/rabbitmq/definitions.json").read_text())
    assert [[p[key] for key in _KEYS] for p in definitions["policies"]] == [
        [policy.name, policy.pattern, dict(policy.definition), PRIORITY] for policy in POLICIES
    ]
    names = {spec.name for spec in protected((Tier("30s", 30.0),))}
    names |= {name + MOVING for name in names}
    for name in names:  # one of them for each queue, and not two
        assert sum(bool(re.search(policy.pattern, name)) for policy in POLICIES) == 1


def test_the_permissions_of_the_operator_reach_every_queue() -> None:
    definitions = json.loads((ROOT / "deploy/rabbitmq/definitions.json").read_text())
    (may,) = (one["read"] for one in definitions["permissions"] if one["user"] == "postmaster")
    for spec in every((Tier("30s", 30.0),)):
        assert re.search(may, spec.name)
        assert re.search(may, spec.name + MOVING)


def test_the_senders_may_send() -> None:
    definitions = json.loads((ROOT / "deploy/rabbitmq/definitions.json").read_text())
    granted = {one["user"]: one for one in definitions["permissions"]}
    for sender in SENDERS:
        assert re.search(granted[sender]["write"], exchange(sender).name)


def test_another_configuration_is_another_job() -> None:
    before = {f"mail-pop3-connector-{name}" for name in of_kind("as it is", "Job")}
    text = rendered_text({"config": '[delivery]\nurl = "smtp://other.example"\n'})
    jobs = [m for m in yaml().safe_load_all(text) if m and m["kind"] == "Job"]
    assert len(before) == len(jobs) == 2
    assert not before & {job["metadata"]["name"] for job in jobs}


def test_each_service_is_a_role_of_its_own_in_the_database() -> None:
    users = {}
    for service, pod in pods("as it is").items():
        given = {one["name"]: one["value"] for one in pod["containers"][0]["env"]}
        if url := given.get("POP3_CONNECTOR__STATE__URL"):
            users[service] = url.partition("://")[2].partition("@")[0]
    services = ("fetcher", "deliverer", "postmaster")
    assert users == {**{name: name for name in services}, "schema": "connector"}
    assert pods("as it is")["schema"]["containers"][0]["args"] == ["state", "migrate"]


def test_one_role_for_all_needs_nobody_who_makes_the_tables() -> None:
    state = {"url": "postgresql+psycopg://connector@db/connector", "secretName": "database"}
    found = [m for m in yaml().safe_load_all(rendered_text({"state": state})) if m]
    (job,) = [m for m in found if m["kind"] == "Job"]
    assert "-declare-" in job["metadata"]["name"]


@pytest.mark.parametrize("variant", VARIANTS)
def test_parser_and_rewriter_reach_the_broker_and_nothing_else(variant: str) -> None:
    policies = of_kind(variant, "NetworkPolicy")
    assert set(policies) == {"in", "parser", "rewriter"}
    for stage in ("parser", "rewriter"):
        spec = policies[stage]["spec"]
        deployment = of_kind(variant, "Deployment")[stage]
        labels = deployment["spec"]["template"]["metadata"]["labels"].items()
        assert spec["podSelector"]["matchLabels"].items() <= labels
        assert spec["podSelector"]["matchLabels"]["app.kubernetes.io/component"] == stage
        assert spec["policyTypes"] == ["Egress"]
        broker, names = spec["egress"]
        everything = variant == "with everything"
        assert [one["port"] for one in broker["ports"]] == [5671 if everything else 5672]
        assert ("to" in broker) == everything  # the chart's own RabbitMQ
        assert {one["port"] for one in names["ports"]} == {53}
        assert names["to"]
    assert policies["in"]["spec"]["ingress"] == [{"ports": [{"protocol": "TCP", "port": 9108}]}]


def test_an_image_can_be_pinned() -> None:
    digest = "sha256:" + 64 * "a"
    found = yaml().safe_load_all(rendered_text({"image": {"digest": digest}}))
    stages = [m for m in found if m and m["kind"] == "Deployment"]
    images = {m["spec"]["template"]["spec"]["containers"][0]["image"] for m in stages}
    assert {image.partition("@")[2] for image in images} == {digest}


def test_a_configuration_too_large_for_a_configmap_lies_in_a_volume() -> None:
    text = rendered_text({"configClaim": "mail-accounts"})
    found = [m for m in yaml().safe_load_all(text) if m]
    assert "ConfigMap" not in {m["kind"] for m in found}
    workloads = [m for m in found if m["kind"] in ("Deployment", "Job")]
    assert len(workloads) == len(STAGES) + 3
    for workload in workloads:
        pod = workload["spec"]["template"]["spec"]
        (volume,) = [v for v in pod["volumes"] if v["name"] == "config"]
        claim = {"claimName": "mail-accounts", "readOnly": True}
        assert volume == {"name": "config", "persistentVolumeClaim": claim}
        (container,) = pod["containers"]
        (mount,) = [m for m in container["volumeMounts"] if m["name"] == "config"]
        assert mount["mountPath"] == "/etc/pop3-connector"


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "an unknown key": ({"brokr": {}}, "brokr"),
    "a password in the URL of the broker": ({"broker": {"url": "amqp://a:b@rabbit/"}}, "url"),
    "a password in the URL of the database": ({"state": {"url": "postgresql://a:b@c/d"}}, "url"),
    "no replicas": ({"stages": {"parser": {"replicas": 0}}}, "replicas"),
    "two nodes": ({"rabbitmq": {"replicas": 2}}, "replicas"),
}


@pytest.mark.parametrize("what", WRONG)
def test_values_that_are_wrong_are_refused(what: str) -> None:
    values, where = WRONG[what]
    with pytest.raises(ValueError, match=where):
        rendered_text(values)
