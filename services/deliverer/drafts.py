"""From letters to files: what Maildirs and PickUp folders have in common.

All copies of all letters are written and synced before any of them is where it belongs, and what
cannot be read or written concerns its own letter, or its own copy, alone.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from services.deliverer.courier import Post, Result, Tell, same_for_all
from services.deliverer.store import FileStore, NewFile, discard, failure, stored, to_its_end


@dataclass(slots=True)
class Draft:
    """A letter as files that are not in their places yet.

    Attributes:
        results: of recipients for whom there is nothing (more) to do.
        copies: each file, with the recipients whose copy it is.
    """

    results: dict[str, Result] = field(default_factory=dict)
    copies: list[tuple[NewFile, Sequence[str]]] = field(default_factory=list)

    def discard(self) -> None:
        """Remove the temporary files: there is nothing to be placed."""
        for file, _ in self.copies:
            discard(file)
        self.copies.clear()


async def deliver(
    store: FileStore,
    posts: Sequence[Post],
    write: Callable[[Post, Draft], Awaitable[None]],
    tell: Tell,
) -> None:
    """Deliver letters as files and tell what became of each.

    From when the first of them may appear, this is not given up any more: where it is cancelled
    then, all of it is placed, and told of, before it ends.

    Args:
        store: puts the files into their places.
        posts: the letters.
        write: adds results and staged copies of a letter to its draft.
        tell: as of ``Courier.deliver``.
    """
    drafts = [Draft() for _ in posts]
    try:
        errors = [
            await _drafted(post, draft, write) for post, draft in zip(posts, drafts, strict=True)
        ]
    except BaseException:
        for draft in drafts:
            draft.discard()
        raise
    await to_its_end(_place_and_tell(store, drafts, errors, tell))


async def _place_and_tell(
    store: FileStore, drafts: Sequence[Draft], errors: Sequence[Exception | None], tell: Tell
) -> None:
    await _place(store, drafts)
    for place, (draft, error) in enumerate(zip(drafts, errors, strict=True)):
        tell(place, draft.results if error is None else error)


async def _drafted(
    post: Post, draft: Draft, write: Callable[[Post, Draft], Awaitable[None]]
) -> Exception | None:
    try:
        await write(post, draft)
        post.letter.check()
    except Exception as error:  # noqa: BLE001  (that of one letter; whose fault, its type says)
        draft.discard()
        return error
    return None


async def _place(store: FileStore, drafts: Sequence[Draft]) -> None:
    copies = [(draft, *copy) for draft in drafts for copy in draft.copies]
    placed = await store.put([file for _, file, _ in copies])
    for (draft, file, recipients), how in zip(copies, placed, strict=True):
        draft.results |= same_for_all(recipients, _result(file, how))


def _result(file: NewFile, placed: bool | Exception) -> Result:
    if isinstance(placed, OSError):
        return failure(placed)
    if isinstance(placed, Exception):
        raise placed
    return stored(file, new=placed)
