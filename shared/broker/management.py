"""RabbitMQ's management API, for what AMQP does not tell: policies, and what is held back.

Blocking. It trusts what the API answers to be what is in effect. Its password goes to the
configured host alone: no redirection is followed, and no proxy of the environment asked.
(https://www.rabbitmq.com/docs/http-api-reference)
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterable, Mapping
from http.client import NOT_FOUND, HTTPException
from typing import Any, Final
from urllib.error import HTTPError
from urllib.parse import quote, unquote, urlsplit
from urllib.request import (
    HTTPRedirectHandler,
    HTTPSHandler,
    OpenerDirector,
    ProxyHandler,
    Request,
    build_opener,
)

from shared.broker import amqp_url
from shared.broker.policies import (
    OURS,
    POLICIES,
    PRIORITY,
    DescribedQueue,
    Policy,
    dangers,
    withheld,
)
from shared.errors import BrokerUnavailable, ConfigError
from shared.log import printable
from shared.queues import QueueSpec

WHERE: Final = "broker.management_url"
ANSWERING: Final = 3
"""Seconds without an answer after which the API counts as away: each command waits for them."""

TAKING_EFFECT: Final = 20.0
"""Seconds after which a policy that was declared is in effect, and RabbitMQ says so."""

_TURN: Final = 0.5
_LONGEST: Final = 16 * 1024 * 1024
_COLUMNS: Final = "arguments,policy,operator_policy,effective_policy_definition,messages_dlx"


class _NoRedirection(HTTPRedirectHandler):
    def redirect_request(self, *_: object) -> None:
        """Follow no redirection: the answer is then the error that it is."""


class Management:
    """The management API of one virtual host.

    Args:
        url: ``http://user:password@host:15672``, or ``https://``; without a user, that of ``amqp``.
        amqp: the URL of the broker, which names the virtual host.
        ca_file: the authority that TLS trusts; the system's store if None.

    Raises:
        ConfigError: a URL or the file is wrong.
    """

    def __init__(self, url: str, amqp: str, ca_file: str | None = None) -> None:
        broker, parts = amqp_url.parse(amqp), urlsplit(url)
        self.vhost = broker.vhost
        self._user = unquote(parts.username) if parts.username else broker.user
        password = unquote(parts.password or "") if parts.username else broker.password
        login = base64.b64encode(f"{self._user}:{password}".encode()).decode()
        self._headers = {"Authorization": f"Basic {login}", "Content-Type": "application/json"}
        host = parts.netloc.rpartition("@")[2]
        self._place = f"{parts.scheme}://{host}{parts.path.rstrip('/')}"
        self._opener = _opener(parts.scheme, ca_file)

    def queues(self, names: Iterable[str]) -> Mapping[str, DescribedQueue]:
        """Return queues by name, as RabbitMQ describes them; none that does not exist.

        One by one: what it says of all queues at once may be some seconds old, and is much where
        others have thousands.

        Raises:
            ConfigError: this user may not ask.
            BrokerUnavailable: the API does not answer.
        """
        found = {name: self._queue(name) for name in names}
        return {name: seen for name, seen in found.items() if seen is not None}

    def dangers(self, specs: Iterable[QueueSpec]) -> list[str]:
        """Return what policies could do to mail, and what they have done that nobody else sees.

        Returns:
            A sentence each, beginning with the queue.

        Raises:
            ConfigError: this user may not ask.
            BrokerUnavailable: the API does not answer.
        """
        known = {spec.name: spec for spec in specs}
        return [
            f"{name}: {what}"
            for name, seen in self.queues(known).items()
            for check in (dangers, withheld)
            for what in check(known[name], seen)
        ]

    def declare(self) -> list[str]:
        """Make our policies exist; return the names of those that were not as they are now.

        How large an inbox may become stays as it is, where somebody has set that.

        Raises:
            ConfigError: this user may not.
            BrokerUnavailable: the API does not answer.
        """
        known = {str(policy.get("name")): policy for policy in self._policies()}
        return [p.name for p in POLICIES if self._put(p, known.get(p.name, {}))]

    def displaced(self, names: Iterable[str]) -> list[str]:
        """Return the queues for which none of our policies counts, once RabbitMQ has said so.

        It says what counts every few seconds, of each queue.
        """
        left, until = list(names), time.monotonic() + TAKING_EFFECT
        while left:
            left = [n for n, seen in self.queues(left).items() if OURS.isdisjoint(seen.policies)]
            if time.monotonic() > until:
                break
            time.sleep(_TURN)
        return left

    def _queue(self, name: str) -> DescribedQueue | None:
        row = self._call("GET", f"queues/{self._vhost}/{quote(name, safe='')}?columns={_COLUMNS}")
        return _seen(row) if isinstance(row, dict) else None

    def _policies(self) -> list[dict[str, Any]]:
        found = self._call("GET", f"policies/{self._vhost}")
        return [each for each in found if isinstance(each, dict)] if isinstance(found, list) else []

    def _put(self, policy: Policy, known: Mapping[str, Any]) -> bool:
        before = known.get("definition") or {}
        left = {key: before[key] for key in policy.left if key in before}
        wanted = {
            "pattern": policy.pattern,
            "definition": dict(policy.definition) | left,
            "priority": PRIORITY,
            "apply-to": "queues",
        }
        if all(known.get(key) == value for key, value in wanted.items()):
            return False
        self._call("PUT", f"policies/{self._vhost}/{quote(policy.name, safe='')}", wanted)
        return True

    @property
    def _vhost(self) -> str:
        return quote(self.vhost, safe="")

    def _call(self, method: str, path: str, body: object = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = Request(f"{self._place}/api/{path}", data, self._headers, method=method)  # noqa: S310
        try:
            with self._opener.open(request, timeout=ANSWERING) as answer:
                text = answer.read(_LONGEST)
            return json.loads(text) if text else None
        except HTTPError as error:
            with error:
                if error.code == NOT_FOUND and path.startswith("queues/"):
                    return None  # of the queue; what else is asked tells of the virtual host
                raise self._error_of(error) from error
        except (OSError, HTTPException, ValueError) as error:
            raise BrokerUnavailable(f"{WHERE}: {self._place}: {_said(error)}") from error

    def _error_of(self, error: HTTPError) -> Exception:
        """Return what a status means."""
        said = f"{self._place} answers {error.code}"
        advice = {
            401: f"the user {self._user} needs another password, or one of the tags monitoring"
            " (to look) and policymaker (to declare policies)",
            403: f"the user {self._user} needs the tag policymaker to declare policies, monitoring"
            f" to look, and a permission in the virtual host {self.vhost}",
            NOT_FOUND: f"expected the management API there, and the virtual host {self.vhost}",
        }
        if error.code in advice:
            return ConfigError(WHERE, f"{said}: {printable(advice[error.code])}")
        if error.code < 500:
            return ConfigError(WHERE, f"{said}: {printable(error.reason)}")
        return BrokerUnavailable(f"{WHERE}: {said}: {printable(error.reason)}")


def _said(error: Exception) -> str:
    """Return why there is no answer."""
    reason = getattr(error, "reason", None) or error
    if isinstance(reason, TimeoutError):
        return f"no answer for {ANSWERING} seconds"
    return printable(str(reason) or type(error).__name__)


def _seen(row: Mapping[str, Any]) -> DescribedQueue:
    named = (row.get("policy"), row.get("operator_policy"))
    held_back = row.get("messages_dlx")
    kinds = ("policy", "operator policy")
    return DescribedQueue(
        row.get("arguments") or {},
        row.get("effective_policy_definition") or {},
        tuple(f"{kind} {name}" for kind, name in zip(kinds, named, strict=True) if name),
        held_back if isinstance(held_back, int) else None,
    )


def _opener(scheme: str, ca_file: str | None) -> OpenerDirector:
    tls = [HTTPSHandler(context=amqp_url.tls_context(ca_file))] if scheme == "https" else []
    return build_opener(ProxyHandler({}), _NoRedirection(), *tls)
