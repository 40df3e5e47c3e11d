"""A ``data_dir`` of any name, and one that another configuration uses already."""

import contextlib
from pathlib import Path

import pytest

from tests.corpus.messages import sample_messages
from tests.flow.connector import Connector, connector
from tests.flow.plant import Plant
from tests.servers.dovecot import Dovecot

NAME = "sales"

OPENING = (
    "run --once",
    "run",
    "deliverer",
    "check-config",
    "accounts",
    "failed list",
    "failed requeue --all",
    "quarantine drop --all --yes",
    "spool list",
    "spool sweep",
    "state check",
    "state migrate",
    "state rebuild",
    "topology declare",
    "topology show",
    "backup x.backup",
    "restore x.backup",
)
"""Commands that open what is in ``data_dir``: every one but ``--help``."""


@pytest.mark.parametrize("name", ["what? a=b&c", "50%25", "a#b", "Büro für Post", "100%", "a;b'c"])
def test_everything_lies_where_it_was_said_to(tmp_path: Path, provider: Dovecot, name: str) -> None:
    folder = tmp_path / name
    folder.mkdir()
    with contextlib.closing(Connector(folder)) as product:
        plant = Plant(product, provider, tmp_path / "mail", None)
        product.configure(
            [plant.account(NAME, keep="forever")],
            f"maildir://{plant.mail}/{{local}}",
            spool={"inline_limit": "1KiB"},
        )
        plant.hand_in(NAME, sample_messages(5, 1, max_size=3_000))
        assert product.once()[0] == 0
        status, again = product.once()
        assert (status, again["fetched"]) == (0, 0)  # the ledger was found again
        assert [row["account"] for row in product.json("accounts")] == [NAME]
    assert plant.tally() == plant.right()
    assert {path.name for path in plant.data.iterdir()} == {
        "configuration",
        "queue.db",
        "queue.db.made",
        "queue.db.mark",
        "queue.db.owners",
        "spool",
        "state.db",
        "state.db.made",
        "unrecorded",
    }


def test_a_second_configuration_that_means_something_else_is_refused(tmp_path: Path) -> None:
    account = {"name": NAME, "host": "127.0.0.1", "port": 1, "tls": "none", "username": "a"}
    account |= {"password": "secret", "mailbox": "a@corp.example"}
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    with connector(tmp_path / "one") as one, connector(tmp_path / "two") as two:
        one.configure([account], f"maildir://{tmp_path}/mail/{{local}}")
        one.once()
        two.configure([account | {"username": "b"}], f"maildir://{tmp_path}/mail/{{local}}")
        theirs = two.config.read_text().replace(f"{two.folder}/data", f"{one.folder}/data")
        two.config.write_text(theirs)
        for command in OPENING:
            refused = two.cli(*command.split())
            assert refused.returncode == 2, command
            assert f"another configuration, {one.config}: account sales is b at" in refused.stderr
            assert "Traceback" not in refused.stderr
        one.config.unlink()
        assert two.cli("check-config").returncode == 0
