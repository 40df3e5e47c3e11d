"""Configurations for the tests of settings: one that says all, one that says little."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from shared.errors import ConfigError
from shared.settings.load import load
from shared.settings.model import Settings

CONTRACT = """
data_dir = "/var/lib/pop3-connector"

[broker]
url = "amqp://user:hunter2@host:5672/vhost"

[state]
url = "postgresql+psycopg://user@host/db"

[spool]
url = "file:///srv/spool"
inline_limit = "64KiB"

[delivery]
url = "smtp://mail.corp.example:25"
[destinations.archive]
url = "maildir:///srv/archive/{mailbox}"

[retry]
tiers = ["30s", "5 M", "500ms"]
give_up_after = "2d"

[[account]]
name = "sales"
host = "pop.example.net"
port = 1995
tls = "implicit"
username = "sales@example.net"
password_file = "/run/secrets/sales"
poll_every = "1.5h"
keep = "delete"
mailbox = "sales@corp.example"
"""

MINIMAL = """
[delivery]
url = "maildir:///srv/mail/{mailbox}"
[[account]]
name = "sales"
host = "pop.example.net"
username = "sales"
password = "hunter2"
mailbox = "sales@corp.example"
"""


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "connector.toml"
    path.write_text(text)
    path.chmod(0o600)
    return path


def loaded(tmp_path: Path, text: str, environ: Mapping[str, str] | None = None) -> Settings:
    return load(written(tmp_path, text), environ or {})


def refusal(tmp_path: Path, text: str, environ: Mapping[str, str] | None = None) -> list[str]:
    """Return what is said about a wrong configuration, a line each, without the directory."""
    with pytest.raises(ConfigError) as caught:
        loaded(tmp_path, text, environ)
    return str(caught.value).replace(f"{tmp_path}/", "").splitlines()
