"""A private PgBouncer in front of a private PostgreSQL, in transaction mode, with its own defaults.

It may have few connections to the server, so that transactions of several clients share one. It
refuses to run as root, so a test that does starts it as the package's own account.
"""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.servers.postgresql import PASSWORD, QUOTED, USER, PostgresqlServer
from tests.servers.process import accepts, free_port, require, running

_CONFIG = """\
[databases]
* = host=127.0.0.1 port={server}

[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = plain
auth_file = {users}
pool_mode = transaction
default_pool_size = {connections}
"""


class Pgbouncer:
    """A pooler that runs.

    Args:
        port: where it listens.
    """

    def __init__(self, port: int) -> None:
        self.port = port

    def url(self, database: str = "postgres", options: str = "") -> str:
        """Return an SQLAlchemy URL of a database behind it."""
        return f"postgresql+psycopg://{USER}:{QUOTED}@127.0.0.1:{self.port}/{database}{options}"


@contextlib.contextmanager
def pgbouncer(server: PostgresqlServer, connections: int = 2) -> Iterator[Pgbouncer]:
    """Run a pooler until the block ends; skip the test where PgBouncer is not installed."""
    require("pgbouncer")
    folder = Path(tempfile.mkdtemp(prefix="pgbouncer-"))  # not below pytest's: that is root's own
    try:
        port, users, config = free_port(), folder / "users", folder / "pgbouncer.ini"
        users.write_text(f'"{USER}" "{PASSWORD}"\n')
        text = _CONFIG.format(server=server.port, port=port, users=users, connections=connections)
        config.write_text(text)
        as_another = []
        if os.geteuid() == 0:
            as_another = ["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups", "--"]
            for path in (folder, users, config):
                shutil.chown(path, "postgres", "postgres")
        command = [*as_another, shutil.which("pgbouncer", path=_PATH) or "", str(config)]
        with running(command, folder / "log", lambda: accepts(port)):
            yield Pgbouncer(port)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


_PATH = os.environ.get("PATH", "") + ":/usr/sbin"
