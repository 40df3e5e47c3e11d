"""Parts jobs into portions, each of which is one transaction.

What a transaction writes is in the log first, and takes room there until it is copied back. So no
portion is much larger than the log; and on a full disk each is as small as can be. Where the file
does not take one message of a portion, it is parted until that one is alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Sequence

from shared.broker.embedded.jobs import Job, JobResults, Transfer
from shared.errors import BrokerUnavailable, Refused


def portions(jobs: Sequence[Job], limit: int) -> Iterator[list[Job]]:
    """Yield jobs in their order, as many together as fit; a transfer may go by its parts.

    Args:
        jobs: what is to be done.
        limit: bytes of messages in a portion; one message may be larger.
    """
    if not jobs or sum(map(_size, jobs)) <= limit:
        yield list(jobs)
        return
    portion: list[Job] = []
    room = limit
    for job in _small(jobs, limit):
        size = _size(job)
        if portion and size >= room:
            yield portion
            portion, room = [], limit
        portion.append(job)
        room -= size
    if portion:
        yield portion


def halves(jobs: Sequence[Job]) -> list[list[Job]]:
    """Return jobs in two portions, in their order; in one where they cannot be parted."""
    if len(jobs) == 1 and isinstance(job := jobs[0], Transfer) and len(job.parts) > 1:
        middle = len(job.parts) // 2
        return [[Transfer(p, job.done)] for p in (job.parts[:middle], job.parts[middle:])]
    middle = len(jobs) // 2
    return [list(part) for part in (jobs[:middle], jobs[middle:]) if part]


def merge(results: Iterable[JobResults]) -> JobResults:
    """Return all the results as one; the parts of a transfer are answered for together."""
    whole = JobResults()
    answers: dict[asyncio.Future[list[Exception | None]], list[Exception | None]] = {}
    for each in results:
        whole.leased += each.leased
        for future, answer in each.answers:
            if future in answers and isinstance(answer, list):
                answers[future] += answer
                continue
            if isinstance(answer, list):
                answers[future] = answer
            whole.answers.append((future, answer))
    return whole


def refuse_all(jobs: Sequence[Job], error: BrokerUnavailable | Refused) -> JobResults:
    """Return the results of jobs that could not be done."""
    results = JobResults()
    for job in jobs:
        if isinstance(job, Transfer):
            results.answers.append((job.done, [error] * len(job.parts)))
        elif (done := getattr(job, "done", None)) is not None:
            results.answers.append((done, error))
    return results


def brings_more(job: Job) -> bool:
    """Return whether a job puts messages in without taking any out."""
    return isinstance(job, Transfer) and any(p.rows and p.lease is None for p in job.parts)


def _small(jobs: Iterable[Job], limit: int) -> Iterator[Job]:
    for job in jobs:
        if isinstance(job, Transfer) and len(job.parts) > 1 and _size(job) > limit:
            yield from (Transfer([part], job.done) for part in job.parts)
        else:
            yield job


def _size(job: Job) -> int:
    if not isinstance(job, Transfer):
        return 0
    return sum([len(row[-1]) for part in job.parts for row in part.rows])
