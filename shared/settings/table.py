"""What tables of the configuration have in common: frozen, no unknown keys, passwords, URLs."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, model_validator

from shared.settings.fields import Password, Username
from shared.settings.secret import Secret, sources
from shared.settings.values import Url


class Table(BaseModel):
    """A table of the configuration."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", hide_input_in_errors=True, arbitrary_types_allowed=True
    )


def given_secret(table: Table, key: str) -> Secret | None:
    """Return the secret that a table holds, whichever way it was given.

    Args:
        table: has a field for each of the four keys.
        key: the one whose value is the secret itself.

    Raises:
        ValueError: it was given more than once.
    """
    names = sources(key)
    given = [name for name in names if getattr(table, name) is not None]
    if len(given) > 1:
        what = key.replace("_", " ")
        raise ValueError(f"the {what} is given {len(given)} times: {', '.join(given)}")
    secret: Secret | None = getattr(table, given[0]) if given else None
    return secret


class LoginTable(Table):
    """A table that may hold a password, given in one of four ways."""

    password: Password | None = None
    password_file: Password | None = None
    password_env: Password | None = None
    password_command: Password | None = None

    @model_validator(mode="after")
    def _one_password(self) -> LoginTable:
        given_secret(self, "password")
        return self

    @property
    def secret(self) -> Secret | None:
        """The password, whichever way it was given."""
        return given_secret(self, "password")


class RemoteTable(LoginTable):
    """A table with a URL, whose user name and password may stand beside it."""

    url: Url | None = None
    username: Username | None = None

    @model_validator(mode="after")
    def _password_belongs_to_somebody(self) -> RemoteTable:
        if self.secret is None:
            return self
        if not self.every_url:
            raise ValueError("there is a password, but no url")
        if any(url.has_password for url in self.every_url):
            raise ValueError(f"the password is given twice: in the url and as {self.secret.source}")
        if not self.username and not all(url.username for url in self.every_url):
            raise ValueError("there is a password, but no username here or in the url")
        return self

    @property
    def every_url(self) -> tuple[Url, ...]:
        """The URL, if there is one; of several each is as good as the others."""
        return () if self.url is None else (self.url,)

    def address(self) -> str | None:
        """Return the URL with its password in it, None where no URL is set.

        Raises:
            ConfigError: the password cannot be had.
        """
        return next(iter(self.addresses()), None)

    def addresses(self) -> tuple[str, ...]:
        """Return every URL with its password in it.

        Raises:
            ConfigError: the password cannot be had.
        """
        if self.secret is None or not self.every_url:
            return tuple(url.reveal() for url in self.every_url)
        name, password = self.username, self.secret.reveal()
        return tuple(url.with_credentials(name, password).reveal() for url in self.every_url)
