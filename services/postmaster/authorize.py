"""The command ``account authorize``: a person lets us log in for them, once.

By the code flow the browser comes back to a listener on this machine; where it runs elsewhere, its
address is pasted. By the device flow the person types a code on another device. What they get is
stored encrypted, and the account is due at once. The database is opened first, so that nobody
authorizes us in vain.
"""

from __future__ import annotations

import asyncio
import io
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import click

from services.postmaster import show
from services.postmaster.invocation import Invocation, pass_invocation
from services.postmaster.opening import open_state
from shared.clock import SystemClock
from shared.errors import TokenRefused, TokenUnavailable
from shared.log import printable

if TYPE_CHECKING:
    from shared.oauth.client import OAuthClient
    from shared.oauth.code_flow import Authorization
    from shared.oauth.token_answer import TokenAnswer
    from shared.oauth.token_server import TokenServer
    from shared.settings.model import Settings

PATIENCE: Final = 900.0
"""Seconds that a person has for it in a browser."""

SOON: Final = 30 * 86_400.0
"""Seconds to the end of an authorization below which it is said."""

_FLOWS: Final = ("code", "device")
_URLS: Final = {"code": "authorize_url", "device": "device_url"}
_BLOCKED: Final = (
    "Many tenants block the device flow, and Google gives it no mail: the code flow is"
    " for them (--flow code), from this machine or by pasting the address"
)
_NO_REFRESH: Final = (
    "it gave no refresh token, so this would end within the hour: Microsoft wants offline_access"
    ' in the scope, Google authorize_options = {access_type = "offline", prompt = "consent"}'
)


@click.command("authorize")
@click.argument("name")
@click.option("--destination", is_flag=True, help="NAME is a destination, not an account.")
@click.option("--flow", type=click.Choice(_FLOWS), help="In place of the one configured.")
@click.option(
    "--port",
    type=click.IntRange(1, 65535),
    help="Where the browser comes back to; else one that is free.",
)
@pass_invocation
def authorize(
    invocation: Invocation, name: str, destination: bool, flow: str | None, port: int | None
) -> None:
    """Let the connector log in to an account with access tokens (OAuth), once.

    It prints an address to open in a browser. Where that runs on another machine, it cannot come
    back: paste the address that it shows then. With the device flow it prints a code to type in.
    """
    settings = invocation.settings()
    key, client = _client_of(settings, name, destination=destination)
    chosen = flow or client.flow
    if chosen not in _FLOWS:
        raise click.ClickException(
            f'{client.whose}: flow = "{client.flow}" needs nobody to authorize it;'
            " check-config --connect tries it"
        )
    if getattr(client, _URLS[chosen]) is None:
        raise click.ClickException(
            f"{client.whose}: there is no {_URLS[chosen]} in its oauth table"
        )
    if port is not None:
        client = replace(client, redirect_url=_with_port(client.redirect_url, port))
    account = None if destination else name
    try:
        asyncio.run(_authorize(settings, key, client, chosen, account))
    except TokenRefused as error:
        more = f". {_BLOCKED}" if chosen == "device" else ""
        raise click.ClickException(printable(f"{client.whose}: {error}{more}", 2000)) from error
    except TokenUnavailable as error:
        raise click.ClickException(printable(f"{client.whose}: {error}", 1000)) from error


def _client_of(settings: Settings, name: str, *, destination: bool) -> tuple[str, OAuthClient]:
    """Return what the tokens are stored under, and as what they are had."""
    # Not at the top, here and below: what it takes is loaded where it is used.
    from shared.settings import access_tokens

    what = "destination" if destination else "account"
    accounts = {table.name: table for table in settings.accounts}
    tables = settings.every_destination if destination else accounts
    if name not in tables:
        raise click.ClickException(f"there is no {what} {printable(name)}")
    if tables[name].oauth is None:
        raise click.ClickException(
            f"{what} {printable(name)} has no oauth table: it has a password"
        )
    if destination:
        table = settings.every_destination[name]
        return access_tokens.destination_key(name), access_tokens.client_of_destination(name, table)
    return access_tokens.account_key(name), access_tokens.client_of_account(accounts[name])


def _with_port(url: str, port: int) -> str:
    parts = urlsplit(url)
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    return parts._replace(netloc=f"{host}:{port}").geturl()


async def _authorize(
    settings: Settings, key: str, client: OAuthClient, flow: str, account: str | None
) -> None:
    from shared.settings.access_tokens import sealing
    from shared.settings.written_secrets import secrets_in

    seals = sealing(settings)
    from shared.oauth.renewal import first_grant
    from shared.oauth.token_server import TokenServer

    clock = SystemClock()
    async with open_state(settings.state_address()) as state:
        seals.require_key()
        server = TokenServer(client, secrets_in(settings))
        answer = await (_by_code(client, server) if flow == "code" else _by_device(server, clock))
        if answer.refresh_token is None:
            raise TokenRefused(server.server, _NO_REFRESH)
        await state.tokens.keep(first_grant(key, answer, seals, clock.now()), instead_of=None)
        if account is not None:
            await state.fetch_now([account])
    _tell(client, answer, clock.now(), account)


async def _by_device(server: TokenServer, clock: SystemClock) -> TokenAnswer:
    from shared.oauth.device_flow import wait_for_person

    code = await server.begin_device()
    click.echo(f"Open {printable(code.address, 2000)} on any device, and type in this code:\n")
    click.echo(f"    {printable(code.user_code)}\n")
    if code.direct_address:
        click.echo(f"Or open this address:\n\n    {printable(code.direct_address, 2000)}\n")
    click.echo(f"It counts for {show.roughly(code.lasts)}. Waiting...", err=True)
    return await wait_for_person(server, code, clock)


async def _by_code(client: OAuthClient, server: TokenServer) -> TokenAnswer:
    from shared.oauth.code_flow import NoCode, NotOurs, begin
    from shared.oauth.loopback import listening

    returned: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    tries: list[Authorization] = []

    def take(address: str) -> bool | None:
        """Take the address that the browser was led back to."""
        try:
            code = tries[0].code_in(address)
        except NotOurs:
            return None
        except NoCode as error:
            _settle(returned, TokenRefused(server.server, str(error)))
            return False
        _settle(returned, code)
        return True

    async with listening(client.redirect_url, take) as loopback:
        tries.append(begin(client, loopback.redirect))
        _explain(client, tries[0])
        read_pasted(take, returned)
        try:
            async with asyncio.timeout(PATIENCE):
                code = await returned
        except TimeoutError:
            said = f"nobody came back within {show.roughly(PATIENCE)}"
            raise TokenUnavailable(server.server, said) from None
        return await server.redeem(code, tries[0].verifier, loopback.redirect)


def _explain(client: OAuthClient, authorization: Authorization) -> None:
    whom = f", and log in as {printable(client.login_hint)}" if client.login_hint else ""
    click.echo(f"Open this address in a browser{whom}:\n\n    {authorization.address}\n")
    click.echo(
        f"Waiting for it to come back to {authorization.redirect}. Where the browser runs on"
        " another machine, it cannot show that page: copy its address, paste it here, and press"
        " Enter.",
        err=True,
    )


def read_pasted(take: Callable[[str], bool | None], returned: asyncio.Future[str]) -> None:
    """Take what is pasted, in a thread that nobody has to wait for."""
    loop = asyncio.get_running_loop()

    def try_line(line: str) -> None:
        if not returned.done() and take(line) is None:
            click.echo("That is not the answer to the address above. Paste it whole.", err=True)

    def read() -> None:
        with suppress(OSError, ValueError, RuntimeError):  # no input, or all is over by now
            if isinstance(sys.stdin, io.TextIOWrapper):  # bytes that are no text end nothing
                sys.stdin.reconfigure(errors="replace")
            while line := sys.stdin.readline():
                if line.strip():
                    loop.call_soon_threadsafe(try_line, line)

    threading.Thread(target=read, name="pasted address", daemon=True).start()


def _settle(returned: asyncio.Future[str], found: str | Exception) -> None:
    if returned.done():
        return
    if isinstance(found, str):
        returned.set_result(found)
    else:
        returned.set_exception(found)


def _tell(client: OAuthClient, answer: TokenAnswer, now: float, account: str | None) -> None:
    what = "is polled at once, if it is enabled" if account else "is used from now on"
    click.echo(f"{client.whose} is authorized, and {what}.")
    if answer.refresh_lasts is not None and answer.refresh_lasts < SOON:
        from services.postmaster.authorizations import ending

        warning = ending(client.whose, now + answer.refresh_lasts, now)
        click.echo(f"warning: {warning}", err=True)
