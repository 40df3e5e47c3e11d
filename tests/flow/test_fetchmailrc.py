"""A fetchmailrc means to us what it means to fetchmail, which can print what it has understood."""

import ast
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from services.postmaster.moving.fetchmail.entries import NO, Entry, User, entries
from tests.servers.process import require

FILES = {
    "a line as in the manual": """
poll pop.provider.net protocol pop3 username "jsmith" password "secret1"
""",
    "noise words and punctuation": """
poll pop.provider.net proto pop3:
    user "jsmith" there, with password "secret1"; is jsmith here and wants keep
    options fetchall
""",
    "several users of a server": """
poll mail.net with proto pop3 port 1995 and timeout 33
  user john there is jsmith here password secret1
  user jones there is "jjones" here, pass 'secret two' ssl
  user "o" with password password keep
poll other.net proto POP3 user ann is ann pass x
""",
    "defaults": """
defaults proto pop3 timeout 99
  user nobody fetchall keep limit 5000 smtphost relay
poll one.net user a pass b
poll two.net timeout 7 proto apop user c is d here pass e nokeep no fetchall smtphost "m/2525" n
skip three.net user f pass g
""",
    "escapes": r"""
poll a.net proto pop3 user "a\tb\\c\"" password "\x41\x7a\065\0605 \q"
  is 'l o\
cal' here
poll b.net proto pop3 user x\x41y password pa\\ss"word is z here
""",
    "keywords as names": """
poll a.net proto pop3 user user pass pass is keep here nokeep
poll b.net proto pop3 user 1234 password 5678 is 90 here
poll c.net proto pop3 auth password user "poll" there pass "#no comment" is skip here # a comment
""",
    "the local name first": """
poll a.net proto pop3
  user jsmith here is "john@a.net" there pass secret1
  user anna is ann here pass secret2
""",
    "multidrop": """
poll a.net proto pop3 localdomains here.net there.net aka b.net, c.net no dns
   user maildrop with pass secret1 to golux 'hurkle'='happy' snark * here
poll d.net proto pop3 no envelope, qvirtual "q-" user m pass s is x=y here
poll e.net proto pop3 envelope 2 Delivered-To user m pass s is a b here
""",
    "global options": """
set logfile = /tmp/log set daemon 300 set no bouncemail
set idfile "/tmp/ids"
set postmaster "root" set no syslog
poll a.net proto pop3 user u pass p
""",
    "where it goes": """
poll a.net proto pop3 user u pass p mda "/usr/bin/procmail -d %T"
poll b.net proto pop3 user u pass p is v here smtphost /run/lmtp.sock lmtp
poll c.net proto pop3 user u pass p smtphost one two/26, three smtpaddress d.net antispam 571 550
poll d.net proto pop3 user u pass p smtpname x@y.net nostripcr pass8bits no rewrite batchlimit 10
  preconnect "ssh -f a sleep 1" sslproto '' fetchlimit 20 expunge 3 warnings 3600 fastuidl 4
""",
    "TLS": """
poll a.net proto pop3 service pop3s user u pass p ssl sslcertck sslproto "TLS1.2+"
   sslcertfile /etc/ca.pem sslfingerprint "00:11" sslcommonname x
poll b.net proto pop3 user u pass p no sslcertck sslcertpath /etc/certs sslkey k sslcert c
""",
}
_TEXTS = (
    ("mda", "mda"),
    ("smtpaddress", "smtpaddress"),
    ("smtpname", "smtpname"),
    ("preconnect", "preconnect"),
    ("sslproto", "sslproto"),
    ("sslfingerprint", "sslfingerprint"),
    ("sslcertpath", "sslcertpath"),
)
_FLAGS = ("keep", "fetchall", "lmtp", "flush", "pass8bits")
_NUMBERS = ("limit", "fetchlimit", "batchlimit", "expunge")


def understood_by_fetchmail(folder: Path, text: str) -> list[dict[str, Any]]:
    """Return its servers, with their users."""
    require("fetchmail")
    rc = folder / "rc"
    rc.write_text(text)
    rc.chmod(0o600)
    command = ["fetchmail", "--configdump", "--fetchmailrc", str(rc)]
    home = {"HOME": str(folder), "USER": "me", "LOGNAME": "me"}
    done = subprocess.run(command, env=home, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    plain = re.sub(r"\bTRUE\b", "True", re.sub(r"\bFALSE\b", "False", done.stdout))
    dump = plain[plain.index("{", plain.index("fetchmailrc = ")) :]
    tree = ast.literal_eval(re.sub(r"(?m)^\s*#.*$", "", dump).partition("# End")[0].strip())
    servers: list[dict[str, Any]] = tree["servers"]
    return servers


def value(entry: Entry, user: User, name: str) -> str | None:
    option = user.options.get(name) or entry.options.get(name)
    return None if option is None else option.value


def is_on(entry: Entry, user: User, name: str) -> bool:
    return value(entry, user, name) not in (None, NO)


def compare(entry: Entry, user: User, server: dict[str, Any], its: dict[str, Any]) -> None:
    """See that an entry of ours is what fetchmail has of it."""
    assert (entry.name, entry.skip) == (server["pollname"], not server["active"])
    assert (value(entry, user, "via") or entry.name) == (server["via"] or server["pollname"])
    assert (value(entry, user, "service") or None) == server["service"]
    assert (value(entry, user, "timeout") or "300") == str(server["timeout"])
    if user.remote:
        assert user.remote == its["remote"]
    assert value(entry, user, "password") == its["password"]
    if user.local:
        assert user.local == _local(its["localnames"])
    for ours, theirs in _TEXTS:
        assert (value(entry, user, ours) or None) == (its[theirs] or None), ours
    for flag in _FLAGS:
        assert is_on(entry, user, flag) == its[flag], flag
    for name in _NUMBERS:
        assert int(value(entry, user, name) or 0) == int(its[name]), name
    hosts = (value(entry, user, "smtphost") or "localhost").split()
    assert hosts == its["smtphunt"]


def _local(names: list[Any]) -> list[str]:
    return [name if isinstance(name, str) else "=".join(name) for name in names]


@pytest.mark.parametrize("name", FILES)
def test_it_means_what_it_means_to_fetchmail(name: str, tmp_path: Path) -> None:
    found, _ = entries(FILES[name], "rc")
    ours = [(entry, user) for entry in found for user in entry.users]
    servers = understood_by_fetchmail(tmp_path, FILES[name])
    theirs = [(server, user) for server in servers for user in server["users"]]
    assert len(ours) == len(theirs)
    for (entry, user), (server, its) in zip(ours, theirs, strict=True):
        compare(entry, user, server, its)
