"""An S3 server (moto's) in a process of its own, which keeps its objects over a restart.

Moto holds them in memory and writes each request to a file (its recorder); a server that is
started again plays that file to itself before it listens. It takes one request at a time, for the
recorder does not stand two. It is real HTTP, but nobody checks who signs: what is refused for want
of a permission is not to be seen here.
"""

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

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
        command = [sys.executable, "-m", __name__, str(self.port)]
        environment = os.environ | {
            "MOTO_RECORDER_FILEPATH": str(self.folder / "requests"),
            "PYTHONPATH": str(Path(__file__).parents[2]),
        }
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
        server.client().create_bucket(Bucket=BUCKET)
        yield server
    finally:
        server.stop()


def serve(port: int) -> None:
    """Be the server: remember what was there before, then listen."""
    from moto.moto_api import recorder
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    application = DomainDispatcherApplication(create_backend_app)
    if Path(os.environ["MOTO_RECORDER_FILEPATH"]).exists():
        before = make_server("127.0.0.1", 0, application)
        threading.Thread(target=before.serve_forever, daemon=True).start()
        recorder.replay_recording(f"http://127.0.0.1:{before.port}")
        before.shutdown()
    recorder.start_recording()
    make_server("127.0.0.1", port, application).serve_forever()


if __name__ == "__main__":
    serve(int(sys.argv[1]))
