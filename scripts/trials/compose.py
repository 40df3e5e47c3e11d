"""The trial of docker-compose.yml, called by scripts/test-compose: real mail, and breakage.

500 messages come in, ten a second. Meanwhile stages are scaled, RabbitMQ is restarted, and one
container of each stage is killed. In the end each message has to be in its mailbox, once: so the
deliverer is killed at a moment when no message is in the window that RFC 1047 leaves open (what is
delivered twice there, tests/flow/test_kill_points.py counts). Then: what the management API says,
what containers may do, where secrets are, how stages end, and TLS.
"""

from __future__ import annotations

import json
import secrets
import subprocess
import sys
import urllib.error
from collections import Counter
from functools import partial
from typing import Final

from scripts.trials.deployment import (
    ROOT,
    STAGES,
    TLS,
    Deployment,
    Failed,
    check,
    main,
    run,
    say,
    stand_in,
    wait_until,
)

INSTALMENTS: Final = ("first", "second")
EACH: Final = 250
RATE: Final = 10
BEGUN: Final = 20
"""Messages of an instalment that are delivered when its breakage begins."""
SCALE: Final = {"fetcher": 2, "parser": 3, "rewriter": 1, "deliverer": 2}
ONE_SHOTS: Final = ("secrets", "schema", "roles", "declare")

CONNECTED: Final = """
import socket, sys
from concurrent.futures import ThreadPoolExecutor
def reached(place):
    name, _, port = place.rpartition(":")
    try:
        socket.create_connection((name, int(port)), 3).close()
    except OSError:
        return ""
    return place
print(*ThreadPoolExecutor(32).map(reached, sys.argv[1:]))
"""
"""Prints those of the places in its command line to which it can connect."""
QUICKLY: Final = ("env", "RES_OPTIONS=timeout:1 attempts:1")
"""Gives up on a name that nobody knows after a second; there may be no name server out there."""
BROKER: Final = ("rabbitmq:5672",)
REACHED: Final = {
    "parser": {*BROKER},
    "rewriter": {*BROKER},
    "fetcher": {*BROKER, "postgres:5432", "provider:110", "mailserver:25"},
    "deliverer": {*BROKER, "postgres:5432", "provider:110", "mailserver:25"},
}
"""Where each stage can connect to, of all there is; containers of its own stage apart."""
MOUNTED: Final = {"fetcher", "deliverer"}
"""The stages that have the spool; both write there (the deliverer deletes)."""


def story() -> None:
    """Everything, in order."""
    plain = Deployment()
    first_start(plain)
    mail_through_breakage(plain)
    what_the_management_api_says(plain)
    who_monitors_looks_and_takes_nothing(plain)
    permissions(plain)
    roles_of_the_database(plain)
    what_each_stage_reaches(plain)
    what_containers_may_do(plain)
    where_secrets_are(plain)
    what_healthy_means(plain)
    how_stages_end(plain)
    with_tls()


def first_start(plain: Deployment) -> None:
    """The samples of the demo arrive after one command, and the demo says so."""
    say("building")
    plain.compose("build")
    say("starting")
    plain.compose("up", "--detach")
    plain.log_in()
    wait_until(lambda: plain.ended("demo"), "the samples of the demo")
    check(plain.containers("demo")[0]["State"]["ExitCode"] == 0, "the samples have arrived")
    plain.wait_for_health("healthy", dict.fromkeys(STAGES, 1))
    say("ok: every stage is healthy")


def mail_through_breakage(plain: Deployment) -> None:
    """Mail comes in while everything is changed, restarted or killed; each message arrives once."""
    first, second = INSTALMENTS
    seeding = coming_in(plain, first)
    plain.compose("up", "--detach", "--no-recreate", *scaled())
    say(f"scaled to {SCALE}")
    check(seeding.poll() is None, "mail still comes in: restarting RabbitMQ")
    plain.compose("restart", "rabbitmq")
    check(seeding.wait() == 0, f"{EACH} messages have come in")
    seeding = coming_in(plain, second)
    check(seeding.poll() is None, "mail still comes in: killing one container of each stage")
    for stage in ("fetcher", "parser", "rewriter"):
        plain.kill(stage)
    kill_deliverer(plain)
    check(seeding.wait() == 0, f"{EACH} more messages have come in")
    wanted = {f"<{n}.{part}@example.net>" for part in INSTALMENTS for n in range(EACH)}
    wait_until(lambda: wanted <= set(plain.delivered()), "all of them in the mailboxes")
    wait_until(plain.idle, "empty queues")
    counts = Counter(i for i in plain.delivered() if i in wanted)
    twice = sum(counts.values()) - len(counts)
    check(
        twice == 0, f"{len(wanted)} messages: {len(counts)} delivered once, {twice} twice, 0 lost"
    )
    plain.wait_for_health("healthy", SCALE)
    restarted = [c["Name"] for c in plain.containers(*SCALE) if c["RestartCount"]]
    check(len(restarted) == len(SCALE), "each of the four was killed, and all are healthy again")


def kill_deliverer(plain: Deployment) -> None:
    """SIGKILL a deliverer in the middle of its work, with no message in the window of RFC 1047.

    All deliverers are stopped in their tracks, and what the mail server took from them is compared
    with what the ledger knows. If that is the same, none is in the window; what is in hand is
    before it, or behind.
    """
    while True:
        with plain.frozen("deliverer"):
            wait_until(lambda: not plain.inside("mailserver", "postqueue", "-j"), "all in Maildirs")
            unknown = plain.accepted() - plain.recorded()
            if not unknown:
                plain.kill("deliverer")
                break
        say(f"{len(unknown)} messages in the window of RFC 1047: waiting for another moment")
    say(f"killed one container of each stage, with {len(plain.recorded())} messages delivered")


def what_the_management_api_says(plain: Deployment) -> None:
    """Queues by stage, consumers and connections by name, the policy."""
    queues = plain.queues()
    check({q["type"] for q in queues.values()} == {"quorum"}, f"{len(queues)} quorum queues")
    check(
        [name for name, queue in queues.items() if queue.get("policy") == "backlog"]
        == ["incoming", "parsed", "pickup"],
        "the policy is on the inboxes",
    )
    consumers = Counter(
        (tag_stage(c["consumer_tag"]), c["queue"]["name"]) for c in plain.api("consumers")
    )
    check(
        consumers == {(s, q): SCALE[s] for s, q in STAGES.items()},
        f"one consumer for each container, tagged with its stage: {dict(consumers)}",
    )
    names = [c["client_properties"]["connection_name"] for c in plain.api("connections")]
    check(
        Counter(name.split("@")[0].split()[1] for name in names)
        == {stage: 2 * count for stage, count in SCALE.items()},
        f"two connections for each container, such as {names[0]!r}",
    )


def holds(plain: Deployment, queue: str, count: int) -> bool:
    """Return whether so many messages are in a queue."""
    return plain.depths()[queue] == count


def who_monitors_looks_and_takes_nothing(plain: Deployment) -> None:
    """Counts what is kept; what is in it, the operator's command says."""
    for queue in ("pickup.failed", "quarantine"):
        before = plain.depths()[queue] or 0
        body = {"count": 1, "ackmode": "ack_requeue_false", "encoding": "auto"}
        try:
            plain.api(f"queues/%2F/{queue}/get", body)
        except urllib.error.HTTPError as error:
            said = error.code
        else:
            said = 200
        check(said in (401, 403), f"who monitors cannot take from {queue}: {said}")
        wait_until(partial(holds, plain, queue, before), queue, 30)
    listed = json.loads(plain.tool("failed", "list", "--json"))
    check([m["account"] for m in listed] == ["former"], "Failed Mail has the message it had")


def permissions(plain: Deployment) -> None:
    """Users and permissions are those of deploy/rabbitmq/definitions.json, and no others."""
    wanted = json.loads((ROOT / "deploy/rabbitmq/definitions.json").read_text())
    password = secrets.token_hex(16)
    rabbitmqctl = ("rabbitmq", "rabbitmqctl", "--quiet")
    plain.inside(*rabbitmqctl, "add_user", "auditor", password)
    plain.inside(*rabbitmqctl, "set_user_tags", "auditor", "administrator")
    login = f"auditor:{password}"
    users = {u["name"]: u["tags"] for u in plain.api("users", login=login)}
    users.pop("auditor")
    found = {json.dumps(p, sort_keys=True) for p in plain.api("permissions", login=login)}
    plain.inside(*rabbitmqctl, "delete_user", "auditor")
    check(
        users == {u["name"]: u["tags"] for u in wanted["users"]},
        f"users: {', '.join(sorted(users))}; no guest",
    )
    check(
        found == {json.dumps(p, sort_keys=True) for p in wanted["permissions"]},
        "permissions are those of the definitions",
    )


def roles_of_the_database(plain: Deployment) -> None:
    """Each service is there as itself; the owner's password is its alone."""
    query = "select distinct usename from pg_stat_activity where client_addr is not null"
    psql = ("psql", "-U", "connector", "-d", "connector", "-Atc")
    users = set(plain.inside("postgres", *psql, query).split())
    check(users == {"fetcher", "deliverer"}, f"in the database: {', '.join(sorted(users))}")
    try:
        plain.inside("postgres", *psql, "set role fetcher; drop table delivered")
    except Failed as error:
        check("must be owner" in str(error), "a service's role may not alter the database")
    else:
        check(False, "a service's role may not alter the database")


def what_each_stage_reaches(plain: Deployment) -> None:
    """Parser and rewriter: RabbitMQ, and nothing else of all that there is, within or without."""
    places = {
        *(f"{stage}:9108" for stage in STAGES),
        *("rabbitmq:5672", "postgres:5432", "provider:110", "mailserver:25", "1.1.1.1:443"),
        *(f"{address}:{port}" for address, port in addresses(plain)),
    }
    for stage, wanted in REACHED.items():
        others = {p for p in places if not p.startswith(f"{stage}:")}
        asked = (*QUICKLY, "python", "-ISc", CONNECTED, *sorted(others))
        found = set(plain.inside(stage, *asked).split())
        named = {p for p in found if not p[0].isdigit() and p.partition(":")[0] not in STAGES}
        check(named == wanted, f"{stage} reaches {', '.join(sorted(named))}")
        if wanted == {*BROKER}:
            check(found == named, f"{stage} reaches no other container, by no address")
    mounted = {
        stage
        for stage in STAGES
        for mount in plain.containers(stage)[0]["Mounts"]
        if mount["Destination"] == "/var/spool/pop3-connector"
    }
    check(mounted == MOUNTED, f"the spool is mounted by {', '.join(sorted(mounted))}")


def addresses(plain: Deployment) -> list[tuple[str, int]]:
    """Return where all that the others listen on is, by address: names are known to some alone."""
    listens = {
        "postgres": 5432,
        "provider": 110,
        "mailserver": 25,
        "fetcher": 9108,
        "deliverer": 9108,
    }
    return [
        (network["IPAddress"], port)
        for service, port in listens.items()
        for container in plain.containers(service)
        for network in container["NetworkSettings"]["Networks"].values()
    ]


def what_containers_may_do(plain: Deployment) -> None:
    """Nothing but their work."""
    for container in plain.containers(*STAGES, "declare"):
        host, name = container["HostConfig"], container["Name"]
        confined = (
            container["Config"]["User"].split(":")[0] == "10001"
            and host["ReadonlyRootfs"]
            and host["CapDrop"] == ["ALL"]
            and not host["CapAdd"]
            and "no-new-privileges:true" in host["SecurityOpt"]
        )
        if not confined:
            check(False, f"{name} is confined")
    say("ok: stages run as 10001, read-only, without capabilities")
    for service in (*STAGES, "rabbitmq", "postgres"):
        said = plain.inside(service, "sh", "-c", "ulimit -c").strip()
        check(said == "0", f"{service} leaves no core dump")
    tools = (
        "for t in gcc cc make ld; do command -v $t; done; find / -xdev -name pip -path '*cache*'"
    )
    image = plain.containers("fetcher")[0]["Image"]
    found = subprocess.run(
        ["docker", "run", "--rm", "--entrypoint", "sh", image, "-c", tools],
        capture_output=True,
        text=True,
        check=False,
    )
    check(not found.stdout, "no compiler and no pip cache in the image")


def where_secrets_are(plain: Deployment) -> None:
    """In the files of those who need them; in no environment, no image, no log."""
    printed = plain.compose(
        "run", "--rm", "--entrypoint", "sh", "secrets", "-c", "cd /secrets; grep -r . */*-password"
    )
    made = {line.split(":", 1)[1] for line in printed.splitlines()}
    containers = plain.containers()
    images = sorted({c["Image"] for c in containers})
    places = {
        "the containers' configuration": json.dumps(containers),
        "the images": "".join(run("docker", "history", "--no-trunc", i) for i in images),
        "the logs": plain.compose("logs", "--no-color"),
    }
    for place, text in places.items():
        check(not any(secret in text for secret in made), f"no secret in {place}")
    inside = plain.inside("parser", "python", "-c", "import os; print(os.listdir('/run/secrets'))")
    check(inside.strip() == "['broker-password']", f"the parser has one secret: {inside.strip()}")


def what_healthy_means(plain: Deployment) -> None:
    """It works; without its destination it is ready, without its broker it waits for that."""
    plain.compose("stop", "mailserver", "rabbitmq")
    wait_until(lambda: not any(map(plain.ready, STAGES)), "all stages to be unready")
    plain.wait_for_health("healthy", SCALE)
    say("ok: stages are healthy without RabbitMQ, and not ready")
    plain.compose("start", "rabbitmq")
    plain.wait_until_ready(*STAGES)
    say("ok: stages are ready with it, and without the mail server")


def how_stages_end(plain: Deployment) -> None:
    """With status 0, on SIGTERM, and without being killed."""
    plain.compose("stop", *STAGES)
    codes = {c["Name"]: c["State"]["ExitCode"] for c in plain.containers(*STAGES)}
    check(set(codes.values()) == {0}, f"{len(codes)} containers ended in good order")


def with_tls() -> None:
    """The same deployment over TLS: mail goes through, and nothing is in clear."""
    tls = Deployment((*TLS, *stand_in()))
    say("starting again with TLS")
    tls.compose("build", "--quiet", "postgres")
    tls.compose("up", "--detach")
    tls.log_in()
    tls.wait_until_ready(*STAGES)
    tls.inside("provider", "seed", "20", "tls")
    wait_until(lambda: tls.tagged("tls") == 20, "20 messages over TLS")
    connections = tls.api("connections")
    check(
        len(connections) == 2 * len(STAGES) and all(c["ssl"] for c in connections),
        f"{len(connections)} connections to RabbitMQ, all with {connections[0]['ssl_protocol']}",
    )
    query = (
        "select bool_and(ssl) from pg_stat_ssl join pg_stat_activity using (pid)"
        " where client_addr is not null"
    )
    said = tls.inside("postgres", "psql", "-U", "connector", "-d", "connector", "-Atc", query)
    check(said.strip() == "t", "connections to PostgreSQL have TLS, too")
    check(
        len(json.loads(tls.tool("failed", "list", "--json"))) == 1, "the operator's command does it"
    )


def coming_in(plain: Deployment, tag: str) -> subprocess.Popen[bytes]:
    """Let an instalment come in; return once its first messages are delivered."""
    seeding = plain.begin("provider", "seed", str(EACH), tag, str(RATE))
    wait_until(lambda: plain.tagged(tag) >= BEGUN, f"{BEGUN} messages delivered")
    say(f"{tag} instalment: {plain.tagged(tag)} of {EACH} delivered")
    return seeding


def scaled() -> list[str]:
    """Return the options of ``up`` that scale the stages."""
    return [part for s, count in SCALE.items() for part in ("--scale", f"{s}={count}")]


def tag_stage(consumer_tag: str) -> str:
    """Return the stage in a consumer tag, such as ``parser`` of ``parser@host``."""
    return consumer_tag.split("@")[0].split()[-1]


if __name__ == "__main__":
    sys.exit(main(story))
