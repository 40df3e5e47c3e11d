"""The parser as a process: ``python -m services.parser``. Wires, and nothing else."""

from __future__ import annotations

import sys

if __name__ == "__main__":  # before anything is loaded
    from pop3_connector import main

    sys.exit(main("parser"))

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Final

from services.host import serve as host
from services.parser.parse import parse
from services.parts import Assembly, Part, Resources
from shared.log import Lines
from shared.message import Fetched
from shared.queues import INCOMING, PARSED
from shared.settings import Settings
from shared.stage import Stage

CONCURRENCY: Final = 256
"""Deliveries in hand: enough to keep confirms and parsing overlapped."""


@asynccontextmanager
async def assemble(_: Resources) -> AsyncGenerator[Assembly, None]:
    """Put the parser together."""
    yield Assembly(Stage("parser", INCOMING, Fetched, PARSED, parse, CONCURRENCY))


PART: Final = Part("parser", assemble)


def serve(configuration: Settings, lines: Lines) -> int:
    """Run until SIGTERM; return the exit status."""
    return host(configuration, lines, PART)
