"""Tables in 80 columns: nothing runs over the edge, and what is copied stays whole."""

import re
import tracemalloc
from collections.abc import Iterator

import pytest
from rich.cells import cell_len

from services.postmaster import columns, show
from tests.unit.postmaster.conftest import Office
from tests.unit.postmaster.test_accounts import ACCOUNT, polled, tell

ID = "0123456789abcdef0123456789abcdef"
REASON = (
    "550 5.7.26 This mail has been blocked because the sender is unauthenticated; it requires"
    " either SPF or DKIM, see https://support.provider.example/mail/answer/81126?hl=en#authentication"
    " for more 71dfb90a1353d-4b2f1a3c58csi1042"
)
SUBJECT = "Re: [#12345] 請求書 about the invoices of the first three quarters, and some more words"


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")


def lines(office: Office, *command: str, status: int = 0) -> list[str]:
    printed = office(*command)
    assert printed.status == status
    found = printed.out.splitlines()
    assert max(map(cell_len, found)) <= 80, printed.out
    return found


def words(found: list[str]) -> str:
    """Return a text without what breaking it over lines has put into it."""
    return re.sub(r"\s", "", "".join(found))


def right_of(line: str, column: int) -> str:
    """Return what stands from a column of the terminal on; some characters take two."""
    return next((line[n:] for n in range(len(line)) if cell_len(line[:n]) >= column), "")


@pytest.mark.parametrize(
    ("command", "queue"), [("failed", "pickup.failed"), ("quarantine", "quarantine")]
)
def test_messages(office: Office, command: str, queue: str) -> None:
    office.put(
        ID,
        queue=queue,
        account="sales-department-of-the-north@corp.example",
        reason=REASON,
        subject=SUBJECT,
        from_="Somebody With A Long Name <somebody.with.a.long.name@mail.example.net>",
    )
    office.put("f" * 32, queue=queue)
    found = lines(office, command, "list")
    assert found[0].split() == ["id", "account", "reason"]
    assert [line.split()[0] for line in found[:3]] == ["id", "since", "attempts"]
    assert any(line.startswith(f"{ID[: show.ID_LENGTH]} ") for line in found)
    assert any(line.startswith("2023-11-14 22:13Z ") for line in found)
    column = found[0].index("reason")
    assert words([right_of(line, column) for line in found[4:]]).startswith(words([REASON]))
    assert len(found) < 24  # that of two messages fits on a screen


def test_one_message(office: Office) -> None:
    office.put(ID, reason=REASON)
    found = office("failed", "show", ID).out.splitlines()
    assert f"id:             {ID}" in found
    at = next(n for n, line in enumerate(found) if line.startswith("reason:"))
    rest = [line[16:] for line in found[at : at + 5]]
    assert words(rest).startswith(words([REASON]))
    assert all(line.startswith(" " * 16) for line in found[at + 1 : at + 4])


def test_what_fits_stands_on_one_line(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    office.put(ID)
    found = lines_of(office)
    assert len(found) == 3
    assert found[2].split()[0] == ID[: show.ID_LENGTH]


def lines_of(office: Office) -> list[str]:
    return office("failed", "list").out.splitlines()


def test_a_pipe_has_a_line_for_each_row(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS")
    office.put(ID, reason=REASON)
    (row,) = lines_of(office)[2:]
    assert REASON in row


def many(count: int, last: str = "last") -> Iterator[tuple[str, str, str]]:
    yield from ((f"{n:032x}", "x" * 60, "some words " * 4) for n in range(count))
    yield ("f" * 32, last, last)


def test_a_long_table_is_printed_as_its_rows_come_in_columns_that_stay() -> None:
    taken = 0

    def counted() -> Iterator[tuple[str, str, str]]:
        nonlocal taken
        for row in many(3 * columns.MEASURED, "y" * 300):
            taken += 1
            yield row

    table = columns.lines(("id", "one", "other"), counted(), 80, "-", whole=("id",))
    first = next(table)
    assert taken == columns.MEASURED
    found = [first, *table]
    assert max(map(len, found)) <= 80
    places = [first.index(heading) for heading in ("id", "one", "other")]
    rows = [line for line in found[2:] if line and not line.startswith(" ")]
    assert len(rows) == 3 * columns.MEASURED + 1
    assert all(row[at - 1] == " " != row[at] for row in rows for at in places[1:])
    assert words(found).count("y") == 600


def test_a_long_table_through_a_pipe_has_a_line_for_each_row() -> None:
    found = list(columns.lines(("id", "one", "other"), many(200, "y " * 300), None, "-"))
    assert len(found) == 2 + 201


def test_a_long_table_is_not_held_in_memory() -> None:
    tracemalloc.start()
    try:
        for _ in columns.lines(("id", "one", "other"), many(3_000), 80, "-"):
            pass
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 100_000  # all of it is four times that


def test_accounts(office: Office) -> None:
    name = "purchasing-department@subsidiary.corp.example"
    office.config.write_text(office.config.read_text() + ACCOUNT.format(name=name))
    tell(office, 7300, polled("sales", 295))
    tell(office, 60, polled(name, 3700, REASON))
    found = lines(office, "accounts", status=1)
    text = words(found)
    for word in ("failing", "neverpolled"[:5], "2hago"):
        assert word in text
    assert any(re.search(r"\bin 1h\b", line) for line in found)


def test_topology(office: Office) -> None:
    office.config.write_text(office.config.read_text() + '[retry]\ntiers = ["1500ms", "30m"]\n')
    assert office("topology", "declare").status == 0
    found = lines(office, "topology", "show")
    assert any(line.startswith("incoming.retry.1500ms ") for line in found)


def test_spool(office: Office) -> None:
    office.spooled(ID, b"a: b\r\n\r\n" + b"x" * 300_000)
    found = lines(office, "spool", "list")
    assert re.fullmatch(rf"{ID} +293KiB +20\d\d-\d\d-\d\d \d\d:\d\dZ *", found[2])


def test_configuration(office: Office) -> None:
    text = ACCOUNT.format(name="purchasing-department@subsidiary.corp.example")
    text = text.replace("x@corp", "purchasing-department-of-the-north@subsidiary.corp")
    office.config.write_text(
        office.config.read_text().replace("maildir://", "maildir:///srv/a-long-way")
        + text.replace("localhost", "pop3.mail.eu-central-1.provider.example")
    )
    printed = office("check-config").out
    assert f"\n{' ' * 16}{office.data}/queue.db\n" in printed  # a path stays whole
    table = printed[printed.index("\n\n") :].splitlines()
    assert max(map(cell_len, table)) <= 80, printed
    assert any(line.startswith("sales ") for line in table)
    column = table[2].index("mailbox")
    cells = words([line[column:] for line in table])
    assert "purchasing-department-of-the-north@subsidiary.corp.example" in cells
