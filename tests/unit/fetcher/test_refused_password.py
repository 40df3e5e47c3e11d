"""What was refused is recognised, and another password or grant is another one."""

from dataclasses import dataclass, replace

from services.fetcher.pop3.login import Login
from services.fetcher.refused_password import fingerprint, unchanged


@dataclass
class Tokens:
    """Another access token each time; the grant stays."""

    given: str = "the grant"
    count: int = 0

    async def current(self) -> str:
        self.count += 1
        return f"access-{self.count}"

    async def renewed(self, refused: str) -> str:
        return await self.current()

    async def grant(self) -> str:
        return self.given


LOGIN = Login("pop.example.net", 995, "implicit", "sales", lambda: "hunter2")


async def test_a_password_is_recognised_and_not_kept() -> None:
    refused = await fingerprint(LOGIN)
    assert "hunter2" not in refused
    assert await unchanged(LOGIN, refused)
    for other in (
        replace(LOGIN, password=lambda: "hunter3"),
        replace(LOGIN, username="info"),
        replace(LOGIN, tokens=Tokens("hunter3")),
    ):
        assert not await unchanged(other, refused)


async def test_where_there_are_access_tokens_it_is_the_grant_that_is_recognised() -> None:
    tokens = Tokens()
    login = replace(LOGIN, tokens=tokens)
    refused = await fingerprint(login)
    await tokens.current()
    assert await unchanged(login, refused)
    tokens.given = "another, by account authorize"
    assert not await unchanged(login, refused)
