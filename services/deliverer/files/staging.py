"""From mail objects to files: what Maildirs and PickUp folders have in common.

All copies of all mail objects are written and synced before any of them is where it belongs, and
what cannot be read or written concerns its own mail object, or its own copy, alone.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from services.deliverer.courier import DeliveryRequest, MailObject, Result, same_for_all
from services.deliverer.files.durable_files import (
    FileStore,
    NewFile,
    await_to_end,
    discard,
    failure_result,
    stored_result,
)


@dataclass(slots=True)
class StagedMail:
    """A mail object as files that are not in their places yet.

    Attributes:
        request: to deliver it.
        results: of recipients for whom there is nothing (more) to do.
        copies: each file, with the recipients whose copy it is.
        error: what kept it from being written.
    """

    request: DeliveryRequest
    results: dict[str, Result] = field(default_factory=dict)
    copies: list[tuple[NewFile, Sequence[str]]] = field(default_factory=list)
    error: Exception | None = None

    def note(self, recipients: Sequence[str], result: Result) -> None:
        """Note what became of it for these recipients."""
        self.results |= same_for_all(recipients, result)

    def discard(self) -> None:
        """Remove the temporary files: there is nothing to be placed."""
        for file, _ in self.copies:
            discard(file)
        self.copies.clear()


async def deliver_files(
    store: FileStore,
    requests: Sequence[DeliveryRequest],
    write: Callable[[MailObject, StagedMail], Awaitable[None]],
) -> None:
    """Deliver mail objects as files and tell what became of each.

    Once the first of them may have appeared, it is not given up any more: where it is cancelled
    then, all files are placed, and all is told, before it ends.

    Args:
        store: puts the files into their places.
        requests: what is to be delivered.
        write: adds the results and staged copies of a mail object.
    """
    staged_mails = [StagedMail(request) for request in requests]
    try:
        for staged in staged_mails:
            await _stage(staged, write)
    except BaseException:
        for staged in staged_mails:
            staged.discard()
        raise
    await await_to_end(_place_and_tell(store, staged_mails))


async def _stage(
    staged: StagedMail, write: Callable[[MailObject, StagedMail], Awaitable[None]]
) -> None:
    mail_object = staged.request.mail_object
    try:
        await write(mail_object, staged)
        mail_object.content.check()
    except Exception as error:  # noqa: BLE001  (that of one mail object; its type says whose fault)
        staged.discard()
        staged.error = error


async def _place_and_tell(store: FileStore, staged_mails: Sequence[StagedMail]) -> None:
    copies = [(staged, *copy) for staged in staged_mails for copy in staged.copies]
    placed = await store.put([file for _, file, _ in copies])
    for (staged, file, recipients), how in zip(copies, placed, strict=True):
        staged.note(recipients, _result(file, how))
    for staged in staged_mails:
        staged.request.tell(staged.results if staged.error is None else staged.error)


def _result(file: NewFile, placed: bool | Exception) -> Result:
    if isinstance(placed, OSError):
        return failure_result(placed)
    if isinstance(placed, Exception):
        raise placed
    return stored_result(file, new=placed)
