"""What tests of a lost state database do to it, and ask of the product."""

import asyncio
import json
import shutil
import urllib.error
import urllib.request
from pathlib import Path

from tests.flow.forked import ForkedConnector
from tests.flow.place import ONCE, Place


def state_file(product: ForkedConnector) -> Path:
    return product.folder / "data" / "state.db"


def lose(file: Path) -> None:
    """Delete an SQLite file with all that lies beside it, as who means to begin anew."""
    for path in file.parent.glob(f"{file.name}*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def standing(place: Place, name: str) -> dict[str, object]:
    done = place.product.cli("accounts", name, "--json")
    (found,) = json.loads(done.stdout)
    return dict(found)


def said(place: Place, what: str, process: str = ONCE) -> list[dict[str, object]]:
    return [e for e in place.product.events(process) if what in str(e.get("event"))]


def ready(port: int) -> str:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=10) as answer:
            return bytes(answer.read()).decode()
    except urllib.error.HTTPError as error:
        return error.read().decode()
    except OSError:
        return ""


async def ended(product: ForkedConnector, *words: str) -> int:
    """Run a command to its end beside this loop; return its exit status."""
    return (await asyncio.to_thread(product.cli, *words)).returncode
