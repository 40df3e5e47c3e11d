from pathlib import Path

import pytest

from services.deliverer.destinations import courier_for
from services.deliverer.files.maildir import MaildirCourier
from services.deliverer.files.pickup import PickupCourier
from services.deliverer.servers.courier import ServerCourier
from shared.errors import ConfigError


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        ("smtp://mail.corp.example:25", ServerCourier),
        ("smtp://mail.corp.example?tls=none&helo=gate.corp.example", ServerCourier),
        ("smtp://[2001:db8::1]:2525/", ServerCourier),
        ("smtps://user:secret@mail.corp.example", ServerCourier),
        ("lmtp://mail.corp.example:24", ServerCourier),
        ("lmtp+unix:///run/dovecot/lmtp", ServerCourier),
        (
            "imap://anna:secret@mail.corp.example/Old/{local}?flags=seen,$x&labels=a,b",
            ServerCourier,
        ),
        ("imap://anna:secret@localhost?tls=none&auth=plain", ServerCourier),
        ("imaps://anna%40x:secret@mail.corp.example:9993/", ServerCourier),
        ("maildir:///var/mail/{mailbox}", MaildirCourier),
        ("maildir:///srv/%C3%A4/{domain}/{local}", MaildirCourier),
        ("pickup:///srv/PickUp", PickupCourier),
        ("pickup:///srv/PickUp?staging=/srv/new", PickupCourier),
        ("replay:///srv/Replay", PickupCourier),
        ("lmtp+unix:///run/dovecot/lmtp?delivered_to=keep", ServerCourier),
        ("smtp://mail.corp.example?delivered_to=rename", ServerCourier),
    ],
)
async def test_the_scheme_chooses_the_courier(url: str, kind: type) -> None:
    courier = courier_for("local", url)
    assert isinstance(courier, kind)
    await courier.close()


@pytest.mark.parametrize(
    ("url", "what"),
    [
        ("http://mail.corp.example", "expected one of smtp://"),
        ("smtp://", "expected smtp://host:25"),
        ("smtp://mail.corp.example/inbox", "no path"),
        ("smtp://mail.corp.example:port", "cannot be read"),
        ("smtp://mail.corp.example:99999", "cannot be read"),
        ("smtp://[::1", "cannot be read"),
        ("smtp://mail?tls=maybe", "expected one of none, opportunistic, required"),
        ("smtp://mail?tsl=none", "did you mean tls?"),
        ("smtp://mail?x=y", "expected one of tls, ca_file, auth, helo, pipelining"),
        ("lmtp://mail?pipelining=some", "expected one of none, commands, full"),
        ("smtp://mail?tls", "cannot be read"),
        ("smtp://mail?helo=a%0d%0ab", "expected a host name"),
        ("smtp://mail?ca_file=/nowhere.pem", "cannot be used: No such file"),
        ("smtp://mail?tls=opportunistic&ca_file=/x.pem", "tls=required alone"),
        ("smtp://user:secret@mail?tls=none", "tls=required alone"),
        ("smtp://user@mail", "both a user name and a password"),
        ("imap://mail/Old", "expected imap://user@host/Folder, and a password"),
        ("imaps://user@mail", "both a user name and a password"),
        ("imap://", "expected imap://host:143"),
        ("imap://user:secret@mail?tls=none", "in clear"),
        ("imap://user:secret@mail?tls=opportunistic", "expected required or none"),
        ("imaps://user:secret@mail?tls=none", "unknown option 'tls'"),
        ("imaps://user:secret@mail/a//b", "is no folder"),
        ("imaps://user:secret@mail/a%0d%0ab", "is no folder"),
        ("imaps://user:secret@mail/%ff", "is no folder"),
        ("imaps://user:a%0d%0asecret@mail", "a line break or NUL in user name or password"),
        ("smtps://us%00er:secret@mail", "a line break or NUL in user name or password"),
        ("imaps://user:secret@mail/{user}", "unknown placeholder {user}"),
        ("imaps://user:secret@mail?flags=%5CSeen", "expected unseen, seen, flagged"),
        ("imaps://user:secret@mail?labels=a%0ab", "expected names, with commas"),
        ("imaps://user:secret@mail?auth=apop", "expected one of auto"),
        ("imaps://user:secret@mail?label=a", "did you mean labels?"),
        ("smtps://mail?tls=none", "unknown option 'tls'"),
        ("maildir://relative/path", "expected an absolute path"),
        ("maildir:///var/mail/{user}", "unknown placeholder {user}"),
        ("maildir:///var/mail/{mailbox", "unknown placeholder {mailbox; expected one of"),
        ("maildir:///var/mail/{domain}/local}", "unknown placeholder }; expected one of"),
        ("maildir:///var/mail/{user name}", "unknown placeholder {user name}"),
        ("maildir:///var/mail/{}/", "unknown placeholder {}"),
        ("smtp://{domain}:25", "not in a host"),
        ("maildir:///var/mail/{mailbox}?x=y", "there are none"),
        ("lmtp+unix://host/path", "expected an absolute path"),
        ("pickup:", "expected an absolute path"),
        ("replay:///srv/Replay/?staging=/srv/Replay", "expected another folder"),
        ("pickup:///srv/PickUp?staging=new", "staging='new': expected an absolute path"),
        ("replay:///srv/Replay?tls=none", "expected one of staging"),
        ("smtp://mail?auth=plain", "auth goes with a user name and a password"),
        ("smtp://u:p@mail?auth=apop", "auth='apop': expected one of auto, scram-sha-256"),
        ("smtp://mail?delivered_to=drop", "delivered_to='drop': expected rename or keep"),
    ],
)
def test_what_is_wrong_is_said_and_what_is_expected(url: str, what: str) -> None:
    with pytest.raises(ConfigError) as caught:
        courier_for("archive", url)
    assert what in str(caught.value)
    assert "'archive'" in caught.value.where
    assert "secret" not in str(caught.value)


def test_a_password_is_in_no_repr() -> None:
    courier = courier_for("local", "smtp://user:secret@mail.corp.example")
    target = courier._pool._protocol.target  # type: ignore[attr-defined]
    assert "secret" not in repr(target)


async def test_a_url_may_hold_percent_encoded_bytes(tmp_path: Path) -> None:
    courier = courier_for("local", f"maildir://{tmp_path}/a%20b")
    place = courier._maildir_of("anna@corp.example")  # type: ignore[attr-defined]
    assert place == f"{tmp_path}/a b"
    await courier.close()
