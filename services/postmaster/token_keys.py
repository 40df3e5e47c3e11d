"""The commands ``account deauthorize`` and ``account rotate-key``, for tokens that are stored.

A new key is put before the others, and all that is stored is encrypted with it. The others stay:
processes may be writing with them at this moment, and a backup of the database needs them. They are
taken out by ``--drop-old``, once all is encrypted with the first.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import click

from services.postmaster.invocation import Invocation, pass_invocation
from services.postmaster.opening import open_state
from shared.log import printable

if TYPE_CHECKING:
    from shared.oauth.sealing import Sealing
    from shared.settings.model import Settings


@click.command("deauthorize")
@click.argument("name")
@click.option("--destination", is_flag=True, help="NAME is a destination, not an account.")
@pass_invocation
def deauthorize(invocation: Invocation, name: str, destination: bool) -> None:
    """Forget the tokens of an account, also of one that is not configured any more.

    At the provider they count until they end, or until they are revoked there.
    """
    from shared.settings.access_tokens import account_key, destination_key

    settings = invocation.settings()
    key = destination_key(name) if destination else account_key(name)
    if not asyncio.run(_forget(settings, key)):
        what = "destination" if destination else "account"
        raise click.ClickException(f"there are no tokens of {what} {printable(name)}")
    click.echo(f"{printable(name)}: its tokens are forgotten")


@click.command("rotate-key")
@click.option("--drop-old", is_flag=True, help="Make no new key; take out all but the first.")
@pass_invocation
def rotate_key(invocation: Invocation, drop_old: bool) -> None:
    """Encrypt all tokens with a new key, which is put before those that there are.

    With oauth.key_env nothing is made: put the new key in front there, for every process, and this
    command encrypts all tokens with it.
    """
    from shared.oauth.sealing import KeyFile, Sealing, new_key
    from shared.settings.access_tokens import key_source

    settings = invocation.settings()
    source = key_source(settings)
    seals = Sealing(source)
    seals.require_key()
    if isinstance(source, KeyFile) and not drop_old:
        source.put_first(new_key())
    count, unreadable = asyncio.run(_reseal(settings, seals))
    if unreadable:
        names = printable(", ".join(unreadable), 1000)
        raise click.ClickException(f"encrypted with no key that is in {source.where}: {names}")
    click.echo(f"{count} encrypted with the first key in {source.where}")
    if drop_old and isinstance(source, KeyFile):
        click.echo(f"{source.keep_first()} older ones taken out")


async def _forget(settings: Settings, key: str) -> bool:
    async with open_state(settings.state_address()) as state:
        return await state.tokens.forget(key)


async def _reseal(settings: Settings, seals: Sealing) -> tuple[int, list[str]]:
    """Encrypt all with the first key; return how many, and of which nobody has the key."""
    from shared.oauth.sealing import OtherKey

    unreadable: list[str] = []
    async with open_state(settings.state_address()) as state:
        records = await state.tokens.read_all()
        for record in records:
            try:
                again = seals.seal(seals.open(record.sealed))
            except OtherKey:
                unreadable.append(record.name)
                continue
            # One that was renewed meanwhile is left: it has a key that is still read.
            await state.tokens.reseal(record.name, record.sealed, again)
    return len(records) - len(unreadable), unreadable
