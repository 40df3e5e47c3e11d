"""The rewriter as a process: ``python -m services.rewriter``. Wires, and nothing else."""

from __future__ import annotations

import sys

if __name__ == "__main__":  # before anything is loaded
    from pop3_connector import main

    sys.exit(main("rewriter"))

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Final

from services.host import serve as host
from services.parts import Assembly, Part, Resources
from services.rewriter.rewrite import Rewriter, Route
from shared.log import Lines
from shared.message import Parsed
from shared.queues import PARSED, PICKUP
from shared.settings import Settings
from shared.stage import Stage

CONCURRENCY: Final = 256
"""Deliveries in hand: enough to keep confirms and rewriting overlapped."""


@asynccontextmanager
async def assemble(r: Resources) -> AsyncGenerator[Assembly, None]:
    """Put the rewriter together: every account has its route, also one that is not polled."""
    routes = {t.name: Route((t.mailbox,), t.destination) for t in r.settings.accounts}
    rewriter = Rewriter(routes, r.hostname, r.version)
    yield Assembly(Stage("rewriter", PARSED, Parsed, PICKUP, rewriter.handle, CONCURRENCY))


PART: Final = Part("rewriter", assemble)


def serve(configuration: Settings, lines: Lines) -> int:
    """Run until SIGTERM; return the exit status."""
    return host(configuration, lines, PART)
