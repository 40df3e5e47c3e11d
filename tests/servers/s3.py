"""An S3 server (moto's) in a process of its own, which keeps its objects over a restart.

Moto holds them in memory alone. So what a request has changed is written to files before it is
answered, and a server that is started again reads them; it takes one request at a time. It is real
HTTP, but nobody checks who signs: what is refused for want of a permission is not to be seen here.
"""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from tests.servers.process import accepts, free_port, running

BUCKET = "mail"
KEY_ID = "connector"
SECRET_KEY = "not-a-secret"


@dataclass
class S3Server:
    """A running instance with one bucket.

    Attributes:
        folder: for its log and its memory, and for files of credentials.
        port: where it listens, also after a restart.
    """

    folder: Path
    port: int = field(default_factory=free_port)
    _running: contextlib.ExitStack | None = None
    _process: subprocess.Popen[bytes] | None = None

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def credentials(self) -> Path:
        """A file as AWS_SHARED_CREDENTIALS_FILE names it."""
        path = self.folder / "credentials"
        path.write_text(
            f"[default]\naws_access_key_id = {KEY_ID}\naws_secret_access_key = {SECRET_KEY}\n"
        )
        path.chmod(0o600)
        return path

    @property
    def options(self) -> Mapping[str, str]:
        """The ``spool.options`` that lead here."""
        return {"endpoint_url": self.endpoint, "key": KEY_ID, "secret": SECRET_KEY}

    def start(self) -> None:
        """Start it; return when it listens, with all that it had."""
        stack = contextlib.ExitStack()
        command = [sys.executable, "-m", __name__, str(self.port), str(self.folder / "objects")]
        environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
        self._process = stack.enter_context(
            running(command, self.folder / "s3.log", lambda: accepts(self.port), environment)
        )
        self._running = stack

    def stop(self) -> None:
        """End it."""
        if self._running is not None:
            self._running.close()
            self._running = None

    def kill(self) -> None:
        """SIGKILL it."""
        self.signal(signal.SIGKILL)
        self.stop()

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        assert self._process is not None
        self._process.send_signal(number)

    def client(self) -> Any:
        """Return another program's view of the bucket: a client of boto3's."""
        import boto3

        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            region_name="us-east-1",
            aws_access_key_id=KEY_ID,
            aws_secret_access_key=SECRET_KEY,
        )

    def keys(self) -> list[str]:
        """Return the names of all objects in the bucket."""
        listed = self.client().list_objects_v2(Bucket=BUCKET)
        return sorted(each["Key"] for each in listed.get("Contents", ()))


@contextlib.contextmanager
def s3(folder: Path) -> Iterator[S3Server]:
    """Run a server with an empty bucket until the block ends."""
    server = S3Server(folder)
    server.start()
    try:
        yield server
    finally:
        server.stop()


class Kept:
    """The bucket of this process, and its objects as files: NAME, with a slash as ``%2F``."""

    def __init__(self, folder: Path) -> None:
        from moto.s3.models import s3_backends

        self._folder = folder
        self._folder.mkdir(exist_ok=True)
        self._backend = s3_backends["123456789012"]["aws"]
        self._backend.create_bucket(BUCKET, "us-east-1")
        for path in folder.glob("[!.]*"):
            self._backend.put_object(BUCKET, unquote(path.name), path.read_bytes())
        self._written = self._etags()

    def write(self) -> None:
        """Make the files those of the bucket."""
        now = self._etags()
        for name in self._written.keys() - now.keys():
            self._path(name).unlink()
        for name, etag in now.items():
            if self._written.get(name) != etag:
                key = self._backend.get_object(BUCKET, name)
                assert key is not None
                new = self._folder / ".new"
                new.write_bytes(key.value)
                new.rename(self._path(name))
        self._written = now

    def _etags(self) -> dict[str, str]:
        return {name: key.etag for name, key in self._backend.get_bucket(BUCKET).keys.items()}

    def _path(self, name: str) -> Path:
        return self._folder / quote(name, safe="")


def serve(port: int, folder: Path) -> None:
    """Be the server, with what was there before."""
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    kept = Kept(folder)
    moto = DomainDispatcherApplication(create_backend_app)

    def application(environ: dict[str, Any], start_response: Any) -> Any:
        answer = moto(environ, start_response)
        if environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
            kept.write()
        return answer

    make_server("127.0.0.1", port, application).serve_forever()


if __name__ == "__main__":
    serve(int(sys.argv[1]), Path(sys.argv[2]))
