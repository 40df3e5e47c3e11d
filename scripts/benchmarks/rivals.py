"""What a user would pick instead, set up as its manual says: mpop, getmail6, fetchmail.

Each deletes what it has delivered, as the connector does. Nothing of it is tuned up or down: mpop
pipelines by itself, getmail6 and fetchmail cannot.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeAlias

from scripts.benchmarks.arrivals import Arrivals, Folders, last_arrival
from scripts.benchmarks.measure import Sample, run
from scripts.benchmarks.place import PASSWORD, Load, Place

NOBODY: Final = "nobody"


def mpop(place: Place, load: Load) -> Sample:
    """Run mpop into a Maildir, its accounts one after the other."""
    place.fill(load)
    home = place.fresh("mpop")
    _make_maildir(home / "mail")
    sample = _mpop(home, load, f"maildir {home}/mail")
    return _checked(sample, _new(home / "mail"))


def mpop_lmtp(place: Place, load: Load) -> Sample:
    """Run mpop with msmtp, which its manual names for the purpose, into the mail server by LMTP."""
    place.fill(load)
    server, user = place.lmtp, load.drops[0].user
    msmtp = (
        f"msmtp --file=/dev/null --protocol=lmtp --host={server.host} --port={server.port}"
        f" --tls=off --auth=off --from=%F -- {user}"
    )
    arrivals = server.arrivals()
    return _checked(_mpop(place.fresh("mpop"), load, f'mda "{msmtp}"'), arrivals)


def _mpop(home: Path, load: Load, delivery: str) -> Sample:
    rc = home / "mpoprc"
    rc.write_text(
        "".join(
            f"account {d.user}\nhost {d.host}\nport {d.port}\nuser {d.user}\n"
            f"password {PASSWORD}\ntls off\nauth user\nkeep off\nreceived_header on\n"
            f"uidls_file {home}/uidls-{d.user}\ndelivery {delivery}\n\n"
            for d in load.drops
        )
    )
    rc.chmod(0o600)
    command = ["mpop", "-q", "-C", str(rc), "-a"]
    return run(command, load.messages, home / "log", os.environ)


def getmail_maildir(place: Place, load: Load) -> Sample:
    """Run getmail6 into a Maildir."""
    place.fill(load)
    home = place.fresh("getmail")
    _make_maildir(home / "mail")
    destination = f"type = Maildir\npath = {home}/mail/\n"
    if os.geteuid() == 0:  # it will not write a Maildir as root
        destination += f"user = {NOBODY}\n"
        for path in (home / "mail", *(home / "mail").iterdir()):
            shutil.chown(path, NOBODY)
    return _checked(_getmail(home, load, destination), _new(home / "mail"))


def getmail_lmtp(place: Place, load: Load) -> Sample:
    """Run getmail6 into the mail server by LMTP."""
    place.fill(load)
    server, user = place.lmtp, load.drops[0].user
    to = f"type = MDA_lmtp\nhost = {server.host}\nport = {server.port}\noverride = {user}\n"
    arrivals = server.arrivals()
    return _checked(_getmail(place.fresh("getmail"), load, to), arrivals)


def _getmail(home: Path, load: Load, destination: str) -> Sample:
    command = ["getmail", "--quiet", f"--getmaildir={home}"]
    for d in load.drops:
        (home / f"rc-{d.user}").write_text(
            f"[retriever]\ntype = SimplePOP3Retriever\nserver = {d.host}\nport = {d.port}\n"
            f"username = {d.user}\npassword = {PASSWORD}\n\n[destination]\n{destination}\n"
            "[options]\ndelete = true\n"
        )
        command.append(f"--rcfile=rc-{d.user}")
    return run(command, load.messages, home / "log", os.environ)


def fetchmail_lmtp(place: Place, load: Load) -> Sample:
    """Run fetchmail into the mail server by LMTP, its accounts one after the other."""
    place.fill(load)
    home = place.fresh("fetchmail")
    rc = home / "fetchmailrc"
    rc.write_text(
        "".join(
            f"poll p{i} via {d.host} with proto POP3 service {d.port}\n"
            f'  user "{d.user}" there with password "{PASSWORD}" is "{d.user}" here\n'
            f"  options no keep fetchall sslproto ''\n"
            f'  smtphost "{place.lmtp.host}/{place.lmtp.port}" lmtp\n'
            for i, d in enumerate(load.drops)
        )
    )
    rc.chmod(0o600)
    command = ["fetchmail", "--silent", "--fetchmailrc", str(rc), "--nosyslog"]
    environment = {**os.environ, "HOME": str(home), "FETCHMAILHOME": str(home)}
    arrivals = place.lmtp.arrivals()
    return _checked(run(command, load.messages, home / "log", env=environment), arrivals)


def _make_maildir(path: Path) -> None:
    for name in ("tmp", "new", "cur"):
        (path / name).mkdir(parents=True)


def _new(maildir: Path) -> Arrivals:
    return Folders(maildir, ("new",))


def _checked(sample: Sample, arrivals: Arrivals) -> Sample:
    last_arrival(arrivals, sample.messages, 10)
    return sample


Rival: TypeAlias = Callable[[Place, Load], Sample]
"""Runs a contender, which lets the mail come in when it is ready for it."""

PROGRAMS: Final[dict[Rival, str]] = {
    mpop: "mpop",
    mpop_lmtp: "msmtp",
    getmail_maildir: "getmail",
    getmail_lmtp: "getmail",
    fetchmail_lmtp: "fetchmail",
}


def installed(rival: Rival) -> bool:
    """Return whether a contender can be run here."""
    return shutil.which(PROGRAMS[rival]) is not None
