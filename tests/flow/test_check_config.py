"""``check-config --connect`` against a real Dovecot and Postfix: all ways in, and no trace left."""

import json
from pathlib import Path

from tests.flow.connector import Connector
from tests.servers.dovecot import Dovecot
from tests.servers.postfix import postfix

ACCOUNT = """
[[account]]
name = "{name}"
host = "{server.host}"
port = {port}
tls = "{tls}"
ca_file = "{server.ca_file}"
username = "sales"
password = "{password}"
mailbox = "{name}@corp.example"
keep = "delete"
"""


def test_logins_and_destinations_are_tried_and_left_as_they_were(
    provider: Dovecot, product: Connector, tmp_path: Path
) -> None:
    mail = [b"Subject: x\r\n\r\nx\r\n", b"Subject: y\r\n\r\ny\r\n"]
    provider.put("sales", *mail)
    ways = {"none": provider.pop3, "starttls": provider.pop3, "implicit": provider.pop3s}
    accounts = [
        ACCOUNT.format(name=tls, server=provider, port=port, tls=tls, password="secret")
        for tls, port in ways.items()
    ]
    wrong = ACCOUNT.format(
        name="wrong", server=provider, port=provider.pop3, tls="starttls", password="hunter2"
    )
    with postfix() as server:
        ca = server.certificates.ca
        urls = {
            "plain": f"{server.url}?tls=none",
            "verified": f"{server.url}?tls=required&ca_file={ca}",
            "smtps": f"smtps://127.0.0.1:{server.smtps_port}?ca_file={ca}",
            "unknown": f"smtps://127.0.0.1:{server.smtps_port}",
        }
        text = f'data_dir = "{product.folder}/data"\n[delivery]\nurl = "maildir://{tmp_path}/x"\n'
        text += "".join(f'[destinations.{n}]\nurl = "{url}"\n' for n, url in urls.items())
        product.config.write_text(text + "".join(accounts) + wrong)
        done = product.cli("check-config", "--connect", "--json")
        log = server.log()
    tried = {f"{t['what']} {t['name']}": t for t in json.loads(done.stdout)["tried"]}
    failed = {name: one["said"] for name, one in tried.items() if not one["ok"]}
    assert (done.returncode, len(tried)) == (1, 12)
    assert set(failed) == {"account wrong", "destination unknown"}, failed
    assert "login refused" in failed["account wrong"]
    assert "certificate" in failed["destination unknown"]
    assert "messages there: 2" in tried["account implicit"]["said"]
    assert "hunter2" not in done.stdout + done.stderr
    assert sorted(provider.messages("sales")) == mail
    assert not any("S" in path.name.rpartition(":2,")[2] for path in provider.files("sales"))
    assert "status=sent" not in log
    assert not (tmp_path / "x").exists()
    assert not (product.folder / "data").exists()
