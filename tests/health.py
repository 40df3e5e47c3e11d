"""Asks a process how it is, over HTTP."""

import urllib.error
import urllib.request


def get(url: str) -> tuple[int, str]:
    """Return the status of an answer, whichever it is, and its text."""
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
