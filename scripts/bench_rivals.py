"""What a user would pick instead, set up as its manual says: mpop, getmail6, fetchmail.

Each deletes what it has delivered, as the connector does. Nothing of it is tuned up or down: mpop
pipelines by itself, getmail6 and fetchmail cannot.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

from bench_measure import Sample, count_files, run
from bench_place import PASSWORD, Place

NOBODY: Final = "nobody"


@dataclass(frozen=True, slots=True)
class Drop:
    """A maildrop to be emptied: where it is, and whose."""

    host: str
    port: int
    user: str


def mpop(place: Place, drops: Sequence[Drop], messages: int) -> Sample:
    """Run mpop into a Maildir, its accounts one after the other."""
    home = place.fresh("mpop")
    _make_maildir(home / "mail")
    rc = home / "mpoprc"
    rc.write_text(
        "".join(
            f"account {d.user}\nhost {d.host}\nport {d.port}\nuser {d.user}\n"
            f"password {PASSWORD}\ntls off\nauth user\nkeep off\nreceived_header on\n"
            f"uidls_file {home}/uidls-{d.user}\ndelivery maildir {home}/mail\n\n"
            for d in drops
        )
    )
    rc.chmod(0o600)
    command = ["mpop", "-q", "-C", str(rc), "-a"]
    return _checked(run(command, messages, home / "log", os.environ), home / "mail", messages)


def getmail_maildir(place: Place, drops: Sequence[Drop], messages: int) -> Sample:
    """Run getmail6 into a Maildir."""
    home = place.fresh("getmail")
    _make_maildir(home / "mail")
    destination = f"type = Maildir\npath = {home}/mail/\n"
    if os.geteuid() == 0:  # it will not write a Maildir as root
        destination += f"user = {NOBODY}\n"
        for path in (home / "mail", *(home / "mail").iterdir()):
            shutil.chown(path, NOBODY)
    sample = _getmail(home, drops, destination, messages)
    return _checked(sample, home / "mail", messages)


def getmail_lmtp(place: Place, drops: Sequence[Drop], messages: int) -> Sample:
    """Run getmail6 into the local mail server by LMTP."""
    home = place.fresh("getmail")
    local = place.local
    to = f"type = MDA_lmtp\nhost = {local.host}\nport = {local.lmtp}\noverride = {drops[0].user}\n"
    return _getmail(home, drops, to, messages)


def _getmail(home: Path, drops: Sequence[Drop], destination: str, messages: int) -> Sample:
    command = ["getmail", "--quiet", f"--getmaildir={home}"]
    for d in drops:
        (home / f"rc-{d.user}").write_text(
            f"[retriever]\ntype = SimplePOP3Retriever\nserver = {d.host}\nport = {d.port}\n"
            f"username = {d.user}\npassword = {PASSWORD}\n\n[destination]\n{destination}\n"
            "[options]\ndelete = true\n"
        )
        command.append(f"--rcfile=rc-{d.user}")
    return run(command, messages, home / "log", os.environ)


def fetchmail_lmtp(place: Place, drops: Sequence[Drop], messages: int) -> Sample:
    """Run fetchmail into the local mail server by LMTP, its accounts one after the other."""
    home = place.fresh("fetchmail")
    rc = home / "fetchmailrc"
    rc.write_text(
        "".join(
            f"poll p{i} via {d.host} with proto POP3 service {d.port}\n"
            f'  user "{d.user}" there with password "{PASSWORD}" is "{d.user}" here\n'
            f"  options no keep fetchall sslproto ''\n"
            f'  smtphost "{place.local.host}/{place.local.lmtp}" lmtp\n'
            for i, d in enumerate(drops)
        )
    )
    rc.chmod(0o600)
    command = ["fetchmail", "--silent", "--fetchmailrc", str(rc), "--nosyslog"]
    environment = {**os.environ, "HOME": str(home), "FETCHMAILHOME": str(home)}
    return run(command, messages, home / "log", env=environment)


def _make_maildir(path: Path) -> None:
    for name in ("tmp", "new", "cur"):
        (path / name).mkdir(parents=True)


def _checked(sample: Sample, maildir: Path, messages: int) -> Sample:
    found = count_files(maildir / "new")
    if found != messages:
        raise RuntimeError(f"{found} messages arrived in {maildir}, not {messages}")
    return sample


Rival: TypeAlias = Callable[[Place, Sequence[Drop], int], Sample]

PROGRAMS: Final[dict[Rival, str]] = {
    mpop: "mpop",
    getmail_maildir: "getmail",
    getmail_lmtp: "getmail",
    fetchmail_lmtp: "fetchmail",
}


def installed(rival: Rival) -> bool:
    """Return whether a contender can be run here."""
    return shutil.which(PROGRAMS[rival]) is not None
