"""What the tests of the spool put into it, and how."""

import hashlib

from shared.spool import CHUNK, Spool

KEY = hashlib.sha256(b"a message").hexdigest()
OTHER = hashlib.sha256(b"another").hexdigest()
HOUR = 3600.0


async def put(spool: Spool, key: str, data: bytes, step: int = 100_000) -> None:
    blob = await spool.create()
    for start in range(0, len(data), step):
        await blob.write(data[start : start + step])
    await blob.commit(key)


async def get(spool: Spool, key: str, size: int = CHUNK) -> bytes:
    return b"".join([chunk async for chunk in spool.chunks(key, size)])
