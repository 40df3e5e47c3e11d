"""What can go wrong, named after who is at fault.

An error from a library or from the operating system is translated into one of these once, at the
boundary where it was caught, with ``from``. Whoever catches one of these knows whom to tell.
"""

from __future__ import annotations


class ConfigError(Exception):
    """The configuration is wrong; the user mends it.

    Args:
        where: the file, and the line or the key, e.g. ``connector.toml: account[0].port``.
        what: what is wrong and what is expected instead, as a sentence.
    """

    def __init__(self, where: str, what: str) -> None:
        super().__init__(f"{where}: {what}")
        self.where = where
        self.what = what


class DatabaseDamaged(ConfigError):
    """Tables of the state database are gone, or unreadable: waiting does not help."""


class ServerFault(Exception):
    """A remote mail server refused, or broke its protocol.

    Args:
        server: which one, as ``host:port``.
        said: its reply, or what it did, as text that is safe to show.
    """

    def __init__(self, server: str, said: str) -> None:
        super().__init__(f"{server}: {said}")
        self.server = server
        self.said = said


class LoginRefused(ServerFault):
    """The server does not accept this user name and password."""


class TokenRefused(LoginRefused):
    """The token server gives no access token any more, or none yet: a person has to authorize."""


class MaildropBusy(ServerFault):
    """Another session holds the maildrop (``[IN-USE]``, RFC 2449 section 8.1.1)."""


class TooManyConnections(MaildropBusy):
    """The server refuses this connection because it has too many of ours, or of everybody's."""


class PromiseBroken(ServerFault):
    """The server offered what it then did not keep: once more without, and for a while from now on.

    Args:
        server: which one, as ``host:port``.
        said: its reply, or what it did, as text that is safe to show.
        quirk: what to do without: the name of a field of the fetcher's ``Quirks``.
    """

    def __init__(self, server: str, said: str, quirk: str) -> None:
        super().__init__(server, said)
        self.quirk = quirk


class NoAnswer(ServerFault):
    """In place of an answer the server said what is none."""


class Unreachable(ServerFault):
    """The server cannot be reached, or the connection to it broke or timed out."""


class TokenUnavailable(Unreachable):
    """The token server cannot be reached, or is not up to it just now."""


class Silent(Unreachable):
    """The server was waited for, and said nothing in time."""


class Slow(Silent):
    """The server said something, and too little for the time that it took."""


class Broken(Unreachable):
    """The connection broke; what was underway in it is lost, though the server may have said it."""


class Ungreeted(Unreachable):
    """The server took the connection, and closed it or kept silent in place of a greeting."""


class TooLarge(ServerFault):
    """More has come than is taken: of a message, whatever LIST says of it, or of an answer."""


class Undecodable(Exception):
    """The bytes in a queue are not an envelope that this program wrote."""


class NewerSchema(Exception):
    """The envelope was written by a newer version of this program.

    Args:
        found: the schema version of the envelope.
        known: the newest that this program reads.
    """

    def __init__(self, found: int, known: int) -> None:
        super().__init__(f"the envelope has schema {found}, this version reads up to {known}")
        self.found = found
        self.known = known


class BrokerRefuses(ConfigError):
    """The broker is there and refuses us: the user, or whoever runs the broker, has to fix that.

    Args:
        where: the key that says where the broker is, and who we are to it.
        what: the broker's own words, and which broker.
        login: it accepts neither the user name nor the password, or not yet.
    """

    def __init__(self, where: str, what: str, *, login: bool) -> None:
        super().__init__(where, what)
        self.login = login


class BrokerUnavailable(Exception):
    """The broker cannot be reached or does not answer; whatever was in hand is not settled."""


class BrokerLimit(BrokerUnavailable):
    """The broker has as many connections, channels or queues as it may have just now."""


class QueueSilent(BrokerUnavailable):
    """The broker is there, and a queue of it does not answer: its majority of nodes is away."""


class QueueFileUnavailable(BrokerUnavailable):
    """The file of the embedded broker cannot be used just now: a full disk, or a lock."""


class QueueFileDamaged(QueueFileUnavailable):
    """The embedded broker's file is damaged: waiting does not help, the text says what does."""


class InUse(BrokerUnavailable):
    """Others have the messages of a queue in hand, and do not give them back."""


class DeliveryLost(BrokerUnavailable):
    """The delivery belongs to a channel or lease that is gone; the broker hands it out again."""


class Refused(Exception):
    """The broker did not take a message: its queue is full, unknown, or not allowed to us.

    Args:
        queue: where the message was to go.
        why: what the broker said.
    """

    def __init__(self, queue: str, why: str) -> None:
        super().__init__(f"{queue}: {why}")
        self.queue = queue
        self.why = why


class MigrationRefused(Refused):
    """A queue cannot be given other arguments as things are; the text says what to do first."""


class StateUnavailable(Exception):
    """The state database cannot be reached, is locked, or is full."""


class StateDamaged(StateUnavailable):
    """The file of the ledgers is damaged: waiting does not help, the text says what does."""


class Unstorable(Exception):
    """The state database works, and does not take a value: what it belongs to fails alone."""


class NoRoom(Exception):
    """Too little is free on a disk of ours to fetch more."""


class SpoolUnavailable(Exception):
    """The spool cannot be read or written just now."""


class SpoolMissing(Exception):
    """The spool has no blob of this key.

    Args:
        key: the key that a queue message refers to.
    """

    def __init__(self, key: str) -> None:
        super().__init__(f"the spool has no blob {key!r}")
        self.key = key
