"""Connecting to a server: its addresses, what an error means, and the dialogue for ``--debug``.

It trusts no resolver to answer and no server to be there.
It imports the standard library, ``shared.log.printable`` and ``shared.redaction``.
"""
