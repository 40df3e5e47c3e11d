"""Puts the parser together from what a process has open. Wires, and nothing else."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Final

from services.parser.parse import parse
from services.wiring import Assembly, Resources, StageWiring
from shared.message import Fetched
from shared.queues import INCOMING, PARSED
from shared.stage import Stage

CONCURRENCY: Final = 256
"""Deliveries in hand: enough to keep confirms and parsing overlapped."""


@asynccontextmanager
async def assemble(_: Resources) -> AsyncGenerator[Assembly, None]:
    """Put the parser together."""
    yield Assembly(Stage("parser", INCOMING, Fetched, PARSED, parse, CONCURRENCY))


WIRING: Final = StageWiring("parser", assemble)
