"""Errors of the network in words: of real servers where one can be had, else as they are raised."""

import errno
import socket
import ssl

import pytest

from shared.network.dial import NameNotLookedUp
from shared.network.explain import SettingNames, closed, explain, silent

SETTINGS = SettingNames('tls = "starttls"', 'tls = "implicit"', "ca_file")


def told(error: OSError, *, at_once: bool = False) -> str:
    return explain(error, 110, SETTINGS, at_once=at_once)


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ConnectionRefusedError(errno.ECONNREFUSED, "x"), "nothing listens at port 110"),
        (TimeoutError("no answer within 60 seconds"), "no answer at port 110"),
        (OSError(errno.ENETUNREACH, "x"), "is this machine online"),
        (OSError(errno.EHOSTUNREACH, "x"), "there is no way to it"),
        (OSError(errno.EMFILE, "x"), "too many files open"),
        (ConnectionResetError(errno.ECONNRESET, "x"), "broke off the connection"),
        (ConnectionResetError("connection lost"), "closed the connection when TLS began"),
        (ConnectionAbortedError("SSL handshake is taking"), "did not begin TLS in time"),
        (socket.gaierror(socket.EAI_NONAME, "x"), "is the host spelled right"),
        (socket.gaierror(socket.EAI_AGAIN, "x"), "DNS does not answer"),
        (socket.gaierror(-9999, "strange"), "cannot be looked up: strange"),
        (NameNotLookedUp("x"), "DNS does not answer"),
        (OSError(errno.ENOPROTOOPT, "no \x1b[2J option"), r"^no \\x1b\[2J option"),
        (OSError(), "did not answer in time"),
    ],
)
def test_what_the_system_says(error: OSError, text: str) -> None:
    with pytest.raises(AssertionError, match=text):
        raise AssertionError(told(error))


def failed(reason: str) -> ssl.SSLError:
    error = ssl.SSLError(1, f"[SSL: {reason}] it (_ssl.c:1)")
    error.reason = reason
    return error


@pytest.mark.parametrize(
    ("reason", "at_once", "text"),
    [
        ("WRONG_VERSION_NUMBER", True, 'is tls = "starttls" meant'),
        ("RECORD_LAYER_FAILURE", True, 'is tls = "starttls" meant'),
        ("WRONG_VERSION_NUMBER", False, "what it answers is no TLS"),
        ("UNSUPPORTED_PROTOCOL", True, "no TLS of version 1.2 or newer"),
        ("SSLV3_ALERT_HANDSHAKE_FAILURE", True, "no way of encryption in common"),
        ("SOMETHING_NEW", True, "TLS failed: SOMETHING_NEW"),
    ],
)
def test_what_openssl_says(reason: str, at_once: bool, text: str) -> None:
    assert text in told(failed(reason), at_once=at_once)


@pytest.mark.parametrize(
    ("code", "message", "text"),
    [
        (10, "certificate has expired", "has to renew it"),
        (18, "self-signed certificate", "ca_file has to name it"),
        (19, "self-signed certificate in certificate chain", "ca_file has to name it"),
        (20, "unable to get local issuer certificate", "ca_file has to name it"),
        (62, "Hostname mismatch, certificate is not valid for 'a'.", "the provider tells to use"),
        (1, "something \x1b new", r"certificate is refused: something \x1b new"),
    ],
)
def test_why_a_certificate_is_refused(code: int, message: str, text: str) -> None:
    error = ssl.SSLCertVerificationError(1, "x")
    error.verify_code, error.verify_message = code, message
    said = told(error, at_once=True)
    assert said.startswith("its certificate is refused: ")
    assert text in said


def test_a_server_that_does_not_greet_may_wait_for_tls() -> None:
    said = silent(30, 995, SETTINGS, at_once=False)
    assert 'is tls = "implicit" meant at port 995?' in said
    assert "implicit" not in silent(30, 995, SETTINGS, at_once=True)


def test_a_server_that_hangs_up_in_place_of_a_greeting_may_wait_for_tls() -> None:
    said = closed("the connection was closed", 995, SETTINGS, at_once=False)
    assert "it may have too many of them" in said
    assert 'port 995 expects TLS from the first byte on and tls = "implicit" is meant' in said
    assert "implicit" not in closed("reset", 995, SETTINGS, at_once=True)
