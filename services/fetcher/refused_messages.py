"""Messages that a server would not hand over (-ERR to RETR) in one session, and whose fault it is.

One that is refused is a trouble with that message. Where a server refuses more than some, and hands
over nothing any more, not even what it has handed over before, that is its own trouble. There may
be a refusal for each of a million messages: of the first ones the words are kept, of the others
whose turn it is not in this poll any more, and how many there are.
"""

from __future__ import annotations

from typing import Final

from services.fetcher.interfaces import MailEvents
from services.fetcher.troubles import Troubles
from services.fetcher.worklist import ListedMessage
from shared.errors import NoRoom, ServerFault, SpoolUnavailable
from shared.log import printable

REFUSED: Final = 5
"""Messages that a server may refuse in one session for the first time, before that is a trouble of
its own and none of theirs, if it then hands over nothing any more."""

REPLY_LIMIT: Final = 500
"""Characters of a refusal that are kept."""

REPLIES_KEPT: Final = 200
"""Refusals of a session whose words are kept: as many as there are troubles that are remembered. Of
messages that there was trouble with before, it is known besides whether it is temporary."""

TEMPORARY: Final = "[SYS/TEMP]"


class RefusedMessages:
    """What is refused in one session.

    Args:
        account: the name of the account.
        server: its server, as ``host:port``.
        troubles: told of the messages in the end.
        journal: likewise.

    Attributes:
        last: the message that was refused last.
        all: whether the server refuses whatever it is asked for, as far as is known.
    """

    def __init__(self, account: str, server: str, troubles: Troubles, journal: MailEvents) -> None:
        self._account = account
        self._server = server
        self._troubles = troubles
        self._journal = journal
        self._kept: list[tuple[ListedMessage, str]] = []
        self._others: set[str] = set()  # their UIDLs
        self._unnamed = 0
        self._fresh = 0
        self.last: ListedMessage | None = None
        self.all = True

    @property
    def many(self) -> bool:
        """Whether there are so many that it is the server's fault, if it refuses all."""
        return self._fresh > REFUSED

    def add(self, message: ListedMessage, reply: str) -> None:
        """Note a refusal, with what the server said."""
        self.last = message
        known = self._troubles.get(message.key) is not None
        self._fresh += not known
        if len(self._kept) < REPLIES_KEPT:
            self._kept.append((message, reply[:REPLY_LIMIT]))
        elif known:
            self._kept.append((message, TEMPORARY if _is_temporary(reply) else ""))
        elif message.uidl is None:
            self._unnamed += 1
        else:
            self._others.add(message.uidl)

    def judge(
        self, failure: ServerFault | SpoolUnavailable | NoRoom | None, found: int = 0
    ) -> ServerFault | SpoolUnavailable | NoRoom | None:
        """Tell the journal, and the troubles if it is the fault of the messages.

        Args:
            failure: why others were left where they are.
            found: how many messages there are, if none was handed over; else 0.

        Returns:
            The same; where it is the fault of the server, that.
        """
        for message, reply in self._kept:
            said = f"RETR is refused: {printable(reply)}" if reply else "RETR is refused"
            self._journal.trouble(
                "message refused",
                account=self._account,
                number=message.number,
                uidl=message.uidl or "",
                reply=reply,
            )
            if self.many and self.all:
                if not reply and failure is not None:
                    continue  # there is one that says why
                words = f"message {message.number} is refused: {printable(reply)}"
                failure = ServerFault(self._server, words)
            else:
                # RFC 3206 section 4: what is temporary by its own word is tried at each poll.
                lasting = not _is_temporary(reply)
                self._troubles.add(message.key, message.number, said, counts=lasting)
        if self._kept and found:
            self._troubles.note_all_refused([message.key for message, _ in self._kept], found)
        if (count := len(self._others) + self._unnamed) > 0:
            what = "more messages are refused"
            self._journal.trouble(what, account=self._account, messages=count)
            if not (self.many and self.all):
                self._troubles.add_very_many(self._others, self._unnamed)
        return failure


def _is_temporary(reply: str) -> bool:
    return reply[: len(TEMPORARY)].upper() == TEMPORARY
