"""What LMTP has of its own: one reply for each recipient, and local sockets."""

from pathlib import Path

from tests.servers.smtp import DROP, smtp_server
from tests.unit.deliverer.content import ANNA, BERT, CARL, SENDER, content, courier


async def test_lmtp_answers_for_each_recipient_after_the_message() -> None:
    async with smtp_server(lmtp=True) as server, courier(server.url) as lmtp:
        server.answer(f"RCPT {CARL}", "550 5.1.1 no such user")
        server.answer(f"END {BERT}", "552 5.2.2 mailbox full")
        results = await lmtp.deliver(content(), SENDER, [ANNA, BERT, CARL])
        again = await lmtp.deliver(content(), SENDER, [BERT])
    assert {r: x.verdict for r, x in results.items()} == {
        ANNA: "delivered",
        BERT: "temporary",
        CARL: "permanent",
    }
    assert again[BERT].verdict == "delivered"
    assert server.commands[0] == "LHLO [127.0.0.1]"
    assert server.connections == 1


async def test_lmtp_lost_between_two_replies_keeps_the_first() -> None:
    async with smtp_server(lmtp=True) as server, courier(server.url) as lmtp:
        server.answer(f"END {BERT}", DROP)
        results = await lmtp.deliver(content(), SENDER, [ANNA, BERT])
    assert results[ANNA].verdict == "delivered"
    assert (results[BERT].verdict, results[BERT].lost) == ("temporary", True)


async def test_lmtp_over_a_local_socket(tmp_path: Path) -> None:
    path = str(tmp_path / "lmtp")
    async with (
        smtp_server(lmtp=True, path=path) as server,
        courier(f"lmtp+unix://{path}") as lmtp,
    ):
        results = await lmtp.deliver(content(), SENDER, [ANNA])
    assert results[ANNA].reply == f"250 2.0.0 taken (said by {path} to the end of DATA)"
    assert server.commands[0] == "LHLO localhost"
