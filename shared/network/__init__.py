"""Connecting to a server: its addresses, TLS, what an error means, and the dialogue.

It trusts no resolver to answer and no server to be there. The dialogue is what ``--debug`` shows.
It imports the standard library, ``shared.daemon_thread``, ``shared.log.printable`` and
``shared.redaction``.
"""
