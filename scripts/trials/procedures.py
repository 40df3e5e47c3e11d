"""The trial of docs/operations.md, called by scripts/test-procedures: its commands, as they stand.

They are read from the page and run by bash at a terminal, in a copy of this tree, with the demo's
servers on both ends. Some words are the reader's to fill in (an id, a password), and what needs a
registry or git is left out; ``WORDS`` says so. After each procedure mail has to go through. In the
end every block of commands on the page has been run.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from textwrap import dedent
from typing import Final

from scripts.trials import procedures_sqlite
from scripts.trials.deployment import (
    ROOT,
    STAGES,
    Deployment,
    Failed,
    check,
    main,
    say,
    stand_in,
    wait_until,
)

PAGE: Final = (ROOT / "docs" / "operations.md").read_text()
BACKUPS: Final = "/var/backups/pop3-connector"
ALONE: Final = ("pop3-connector ", "(umask 077 && pg_dump ", "pg_restore ")
"""How blocks begin of who has the connector installed without containers."""

ELSEWHERE: Final = (*ALONE, "cat deploy/images.env")
"""How blocks begin that are not followed with containers: those, and what asks a registry."""

WORDS: Final = {
    "git pull\n": "",  # the copy of the tree is no checkout
    " --pull": "",  # base images may be stand-ins of this machine
}
_COPIED: Final = ("deploy", "services", "shared", "docker-compose.yml", "pyproject.toml")
_COPIED_TOO: Final = (
    "README.md",
    ".dockerignore",
    "pop3_connector.py",
    "tests/flow/compose.stand-in.yml",
)


class Procedures:
    """The page, and a place where it is followed.

    Args:
        folder: a copy of the tree; commands run here.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.backups = folder.parent / "backups"
        self.deployment = Deployment(folder=folder)
        self._left = blocks()
        self._sent = 0

    def follow(self, heading: str, typed: str = "", **words: str) -> str:
        """Run the next block of a section; return what the terminal showed.

        Args:
            heading: of the section.
            typed: what is typed while it runs.
            words: what the reader fills in, by the word that stands for it.
        """
        script = self._left[heading].pop(0)
        places = {BACKUPS: str(self.backups)}
        for before, after in {**WORDS, **places, **words}.items():
            script = script.replace(before, after)
        say(f"{heading}: {script.strip().splitlines()[0]} ...")
        return self.at_terminal(script, typed)

    def type(self, command: str) -> None:
        """Run a command that stands within a line of the page."""
        check(f"`{command}`" in " ".join(PAGE.split()), command)
        self.at_terminal(command)

    def at_terminal(self, script: str, typed: str = "") -> str:
        """Run a script at a terminal; return what that showed."""
        (self.folder / ".procedure").write_text(script)
        done = subprocess.run(
            ["script", "-qefc", "bash -euo pipefail .procedure", "/dev/null"],
            cwd=self.folder, input=typed, capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            raise Failed(f"{script}\n{done.stdout[-3000:]}{done.stderr[-1000:]}")
        return done.stdout

    def write(self, heading: str, file: str) -> None:
        """Write the next block of a section into a file."""
        (self.folder / file).write_text(self._left[heading].pop(0))

    def left(self) -> set[str]:
        """Return the sections of which some block has not been run."""
        return {heading for heading, scripts in self._left.items() if scripts}

    def mail_goes_through(self, count: int = 5) -> None:
        """Send some messages, and wait for them."""
        self._sent += 1
        tag = f"p{self._sent}"
        self.deployment.inside("provider", "seed", str(count), tag)
        wait_until(lambda: self.deployment.tagged(tag) == count, f"{count} messages")
        say(f"ok: {count} messages went through")

    def healthy(self) -> None:
        """Wait until every stage is healthy."""
        for stage in STAGES:
            wait_until(partial(self._is_healthy, stage), stage)

    def _is_healthy(self, stage: str) -> bool:
        return set(self.deployment.health(stage)) == {"healthy"}


def blocks() -> dict[str, list[str]]:
    """Return the shell commands of the page, block by block, by section."""
    sections = re.split(r"^## ", PAGE, flags=re.MULTILINE)[1:]
    found = {s.partition("\n")[0]: re.findall(r" *```sh\n(.*?)```", s, re.DOTALL) for s in sections}
    here = {h: [d for d in map(dedent, s) if not d.startswith(ELSEWHERE)] for h, s in found.items()}
    return {heading: scripts for heading, scripts in here.items() if scripts}


def alone(heading: str) -> list[str]:
    """Return the commands of a section for who has no containers, block by block."""
    section = PAGE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    found = map(dedent, re.findall(r" *```sh\n(.*?)```", section, re.DOTALL))
    return [script for script in found if script.startswith(ALONE)]


@contextmanager
def copied() -> Iterator[Path]:
    """Make a copy of the tree, less what is nobody's business, until the block ends."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place, "pop3-connector")
        folder.mkdir()
        for name in (*_COPIED, *_COPIED_TOO):
            source = ROOT / name
            if source.is_dir():
                leave = shutil.ignore_patterns("__pycache__", "secrets")
                shutil.copytree(source, folder / name, ignore=leave)
            else:
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(source, folder / name)
        (folder / "deploy" / "secrets").mkdir()
        yield folder


def story() -> None:
    """The page, from its beginning to its end, and then the move to another machine."""
    os.environ["COMPOSE_PROFILES"] = "demo"
    with copied() as folder:
        here = Procedures(folder)
        first_start(here)
        own_mail(here)
        failed_mail(here)
        scaling(here)
        passwords_of_the_broker(here)
        password_of_the_database(here)
        upgrade(here)
        new_database(here)
        tls(here)
        files, servers = alone("Backup")[:3], alone("Backup")[3:]
        procedures_sqlite.follow(files, here.at_terminal)
        procedures_sqlite.follow_with_postgresql(servers, here.at_terminal)
        backup(here)
        with copied() as elsewhere:
            move(here, elsewhere)
        check(not here.left(), "every block of commands on the page has been run")


def first_start(here: Procedures) -> None:
    """The first command that anybody types ends with Ctrl-C alone; so it is detached."""
    here.follow("First start", **{"--build": "--build --detach"})
    wait_until(lambda: here.deployment.ended("demo"), "the samples")
    here.mail_goes_through()


def own_mail(here: Procedures) -> None:
    """A configuration, and a password that changes."""
    asked = ("run", "--rm", "--entrypoint", "cat", "secrets", "/secrets/provider/demo-password")
    password = here.deployment.compose(*asked)
    demo = (here.folder / "deploy/demo/connector.toml").read_text()
    mine = demo.replace('/run/secrets/demo-password"', '/run/secrets/accounts/sales"', 1)
    (here.folder / "connector.toml").write_text(mine)
    (here.folder / "deploy/secrets/accounts").mkdir()
    secret = here.folder / "deploy/secrets/accounts/sales"
    secret.write_text(password)
    secret.chmod(0o600)
    here.write("Your own mail", ".env")
    here.type("docker compose up --detach --build")
    here.deployment.wait_until_ready(*STAGES)
    here.type("docker compose exec fetcher pop3-connector check-config --connect")
    here.mail_goes_through()
    (here.folder / "connector.toml").write_text(mine.replace('"5s"', '"3s"'))
    here.type("docker compose restart fetcher parser rewriter deliverer")
    here.mail_goes_through()
    for new in ("another", password):
        change = f"s|^sales:{{PLAIN}}[^:]*|sales:{{PLAIN}}{new}|"
        here.deployment.inside("provider", "sed", "-i", change, "/etc/dovecot/users")
        secret.write_text(new)
        here.type("docker compose up --detach secrets")
        here.mail_goes_through()


def failed_mail(here: Procedures) -> None:
    """What is in Failed Mail is shown, exported byte for byte, and tried again."""
    shown = here.follow("Watching")
    here.deployment.log_in()
    check(bool(re.search(r"monitor [\w-]{43}", shown)), "user and password of the management UI")
    (failed,) = json.loads(here.deployment.tool("failed", "list", "--json"))
    here.follow("Failed mail", ID=failed["id"])
    exported = (here.folder / "message.eml").read_bytes()
    check(
        exported.startswith(b"From: old-friend@home.example\r\n") and exported.endswith(b"\r\n"),
        f"the message is exported with its own line ends, {len(exported)} bytes",
    )
    wait_until(lambda: here.deployment.depths()["pickup.failed"] == 1, "the refusal")


def scaling(here: Procedures) -> None:
    """More of each stage."""
    here.follow("Scaling")
    wanted = {"fetcher": 2, "parser": 3, "rewriter": 1, "deliverer": 4}
    found = {stage: len(here.deployment.containers(stage)) for stage in STAGES}
    check(found == wanted, f"{found}")
    here.mail_goes_through(20)


def passwords_of_the_broker(here: Procedures) -> None:
    """An administrator for an occasion, and a new password for one service."""
    here.follow("Users and secrets", typed="occasional\n")
    users = here.deployment.api("users", login="admin:occasional")
    check("admin" in {user["name"] for user in users}, "there is an administrator")
    here.type("docker compose exec rabbitmq rabbitmqctl delete_user admin")
    asked = ("run", "--rm", "--entrypoint", "cat", "secrets", "/secrets/parser/broker-password")
    authenticate = ("rabbitmq", "rabbitmqctl", "--quiet", "authenticate_user", "parser")
    before = here.deployment.compose(*asked)
    here.deployment.inside(*authenticate, before)
    here.follow("Users and secrets")
    wait_until(lambda: here.deployment.health("rabbitmq") == ["healthy"], "RabbitMQ")
    here.deployment.inside(*authenticate, here.deployment.compose(*asked))
    check(refused(here.deployment, *authenticate, before), "RabbitMQ refuses the old password")
    here.mail_goes_through()


def password_of_the_database(here: Procedures) -> None:
    """A new password for PostgreSQL and those who use it."""
    cat = ("run", "--rm", "--entrypoint", "cat", "secrets")
    login = ("postgres", "psql", "-Atc", "select 1")
    asked = {
        f"postgresql://{role}:{{}}@postgres/connector": (*cat, f"/secrets/{file}")
        for role, file in (
            ("connector", "schema/database-password"),
            ("fetcher", "fetcher/state-password"),
            ("deliverer", "deliverer/state-password"),
        )
    }
    before = {url: here.deployment.compose(*ask) for url, ask in asked.items()}
    for url, password in before.items():
        here.deployment.inside(*login, url.format(password))
    here.follow("Users and secrets")
    for url, ask in asked.items():
        here.deployment.inside(*login, url.format(here.deployment.compose(*ask)))
        check(refused(here.deployment, *login, url.format(before[url])), "so does PostgreSQL")
    here.mail_goes_through()


def upgrade(here: Procedures) -> None:
    """A newer version in place of the old one; then another one beside it."""
    release(here, "0.1.1")
    here.follow("Upgrade")
    check(versions(here) == {"0.1.1"}, "the new version runs")
    here.mail_goes_through()
    release(here, "0.1.2")
    here.deployment.compose("build")
    here.follow("Upgrade")
    check(versions(here) == {"0.1.2"}, "the next one runs, after having run beside it")
    here.mail_goes_through()
    here.follow("Upgrade")  # the queues of an earlier version, of which there are none
    here.healthy()
    here.mail_goes_through()
    here.follow("Upgrade")


def new_database(here: Procedures) -> None:
    """PostgreSQL's data as text, and an empty volume."""
    before = here.deployment.recorded()
    here.follow("Upgrade")
    check(here.deployment.recorded() == before, f"the ledger has its {len(before)} deliveries")
    here.mail_goes_through()


def tls(here: Procedures) -> None:
    """TLS from now on, and after a while new certificates by a new authority."""
    files = ("docker-compose.yml", "deploy/compose.tls.yml", *stand_in())
    with (here.folder / ".env").open("a") as file:
        file.write(f"COMPOSE_FILE={':'.join(files)}\n")
    here.follow("TLS", **{"-f deploy": " ".join(f"-f {file}" for file in files[2:]) + " -f deploy"})
    asked = ("exec", "--no-TTY", "fetcher", "cat", "/run/tls/ca.pem")
    before = here.deployment.compose(*asked)
    here.mail_goes_through()
    here.type("docker compose run --rm certificates renew")
    here.type("docker compose restart")
    here.healthy()
    check(here.deployment.compose(*asked) != before, "there is a new authority")
    here.mail_goes_through()


def backup(here: Procedures) -> None:
    """With mail on its way: small messages in the queues, and one in the spool."""
    here.deployment.compose("stop", "mailserver")
    here.deployment.inside("provider", "seed", "8", "saved")
    here.deployment.inside("provider", "seed")  # of these the attachment alone is new
    waiting = ("pickup", "pickup.retry.5s", "pickup.retry.30s", "pickup.retry.5m")
    wait_until(
        lambda: sum(here.deployment.depths()[name] or 0 for name in waiting) == 9,
        "9 messages on their way",
    )
    here.follow("Backup", **{"done\ndocker compose up --detach": "done"})
    archives = list(here.backups.glob("*.tar.gz"))
    modes = {oct(path.stat().st_mode & 0o777) for path in (here.backups, *archives)}
    check(len(archives) > 5 and modes == {"0o700", "0o600"}, f"nobody else reads {len(archives)}")


def move(here: Procedures, elsewhere: Path) -> None:
    """Put the backup back elsewhere, and start there; the old one never starts again."""
    for name in ("connector.toml", ".env"):
        shutil.copy(here.folder / name, elsewhere / name)
    shutil.copytree(
        here.folder / "deploy/secrets", elsewhere / "deploy/secrets", dirs_exist_ok=True
    )
    os.environ["COMPOSE_PROJECT_NAME"] += "-moved"
    moved = Deployment(folder=elsewhere)
    here.folder, here.deployment = elsewhere, moved
    try:
        here.follow("Restore, or move to another machine")
        wait_until(lambda: moved.tagged("saved") == 8, "what was on its way")
        wait_until(lambda: attached(moved) == 2, "what was in the spool")
        here.mail_goes_through()
        ids = moved.delivered()
        check(len(ids) - len(set(ids)) == 1, "nothing is delivered twice")  # the attachments' id
    finally:
        moved.compose("--profile", "tools", "down", "--volumes", "--timeout", "5")


def attached(deployment: Deployment) -> int:
    """Return how many of the large samples have arrived; there are as many as seeds."""
    return deployment.delivered().count("<attachment.sample@example.net>")


def release(here: Procedures, version: str) -> None:
    """Make the tree that of another version."""
    project = here.folder / "pyproject.toml"
    text = project.read_text()
    project.write_text(re.sub(r'^version = ".*"', f'version = "{version}"', text, flags=re.M))


def versions(here: Procedures) -> set[str]:
    """Return the versions that the stages say they are, once all are connected."""
    here.healthy()
    here.deployment.wait_until_ready(*STAGES)
    names = [c["client_properties"]["connection_name"] for c in here.deployment.api("connections")]
    return {name.split()[2] for name in names}


def refused(deployment: Deployment, service: str, *command: str) -> bool:
    """Return whether a command in a container fails."""
    try:
        deployment.inside(service, *command)
    except Failed:
        return True
    return False


if __name__ == "__main__":
    sys.exit(main(story))
