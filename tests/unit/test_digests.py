"""The script that pins images, asked against a registry that answers as the specification says."""

import json
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts/renew-digests"
TAGS = {
    "library/python:3.13-slim",
    "library/rabbitmq:4-management",
    "library/postgres:17",
    "prom/prometheus:v3.1.0",
    "grafana/grafana:11.4.0",
}
PINNED = re.compile(r"([\w/]+):(v?\d[\w.-]*)@(sha256:[0-9a-f]{64})")


class Registry:
    """Says what tags stand for, to who has a token.

    Attributes:
        release: changes what every tag stands for.
        lacks: tags that it does not know.
    """

    def __init__(self) -> None:
        self.release = "1"
        self.lacks: set[str] = set()
        self.url = ""

    def digest(self, image: str) -> str:
        return f"sha256:{sha256((self.release + image).encode()).hexdigest()}"

    def answer(self, path: str, authorization: str) -> tuple[int, dict[str, str]]:
        found = re.fullmatch(r"/v2/(.+)/manifests/(.+)", path)
        assert found
        image = f"{found[1]}:{found[2]}"
        scope = f"repository:{found[1]}:pull"
        if authorization != f"Bearer {scope}":
            told = f'Bearer realm="{self.url}/token",service="registry",scope="{scope}"'
            return 401, {"WWW-Authenticate": told}
        if image in self.lacks:
            return 404, {}
        return 200, {"Docker-Content-Digest": self.digest(image)}


@contextmanager
def listening(registry: Registry) -> Iterator[Registry]:
    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            code, headers = registry.answer(self.path, self.headers.get("Authorization", ""))
            self.send_response(code)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()

        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            scope = re.search(r"scope=([^&]+)", self.path)
            assert scope
            token = scope[1].replace("%3A", ":").replace("%2F", "/")
            self.wfile.write(json.dumps({"token": token}).encode())

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    registry.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield registry
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def registry() -> Iterator[Registry]:
    with listening(Registry()) as one:
        yield one


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """The files that name images."""
    shutil.copytree(ROOT / "deploy", tmp_path / "deploy")
    shutil.copy(ROOT / "docker-compose.yml", tmp_path)
    return tmp_path


def renew(tree: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), "--folder", str(tree), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def texts(tree: Path) -> dict[Path, str]:
    files = [tree / "docker-compose.yml", *(tree / "deploy").rglob("*")]
    return {f: f.read_text() for f in files if f.suffix != ".png" and f.is_file()}


def pins(tree: Path) -> set[tuple[str, str]]:
    """Return the images that are pinned anywhere, as a registry calls them, with the digests."""
    found = PINNED.findall("".join(texts(tree).values()))
    return {(f"{'' if '/' in n else 'library/'}{n}:{tag}", digest) for n, tag, digest in found}


def test_every_image_is_pinned_and_pinned_anew(tree: Path, registry: Registry) -> None:
    assert renew(tree, "--check").returncode == 0
    before = texts(tree)
    for release in ("2", "3"):
        registry.release = release
        done = renew(tree, "--registry", registry.url)
        assert done.returncode == 0, done.stderr
        assert pins(tree) == {(image, registry.digest(image)) for image in TAGS}
        assert renew(tree, "--check").returncode == 0
    for path, text in texts(tree).items():
        assert re.sub(r"@sha256:[0-9a-f]{64}", "", text) == re.sub(
            r"@sha256:[0-9a-f]{64}", "", before[path]
        )


def test_what_is_not_pinned_is_named(tree: Path) -> None:
    images = tree / "deploy/images.env"
    images.write_text(re.sub(r"(postgres:17)@sha256:[0-9a-f]{64}", r"\1", images.read_text()))
    done = renew(tree, "--check")
    assert (done.returncode, done.stderr.split()[0]) == (1, "postgres:17")


def test_compose_takes_what_is_pinned(tree: Path) -> None:
    """Each variable has there the same tag that it stands for in the file of the pinned ones."""
    lines = (tree / "deploy/images.env").read_text().splitlines()
    file = dict(line.split("=", 1) for line in lines if not line.startswith("#"))
    used = re.findall(r"\$\{(\w+_IMAGE):-([^}]*)\}", "".join(texts(tree).values()))
    assert {(name, image) for name, image in used if not image.startswith("pop3-connector")} == {
        (name, image.partition("@")[0]) for name, image in file.items()
    }


def test_a_registry_that_cannot_be_asked_changes_nothing(tree: Path, registry: Registry) -> None:
    registry.lacks = {"library/postgres:17"}
    before = texts(tree)
    done = renew(tree, "--registry", registry.url)
    assert done.returncode == 1
    assert "postgres:17" in done.stderr
    assert "nothing was changed" in done.stderr
    assert texts(tree) == before


def test_no_image_is_named_that_the_script_does_not_know(tree: Path) -> None:
    text = "".join(texts(tree).values())
    named = re.findall(r"^(?: *image: |FROM |ARG PYTHON_IMAGE=)(.+)$", text, re.MULTILINE)
    ours = re.compile(r"pop3-connector|^\{\{|^[*&]|^\$\{PYTHON_IMAGE\}")
    known = {image.removeprefix("library/") for image in TAGS}
    for image in named:
        plain = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", image).partition("@")[0].split(" AS ")[0]
        assert ours.search(image) or plain in known, image
    assert len(named) > 10
