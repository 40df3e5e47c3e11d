"""The SQLite files of both brokers' side and ledgers: whether they are there, whole, and their own.

It trusts that nobody uses a file while it is rebuilt.
It imports the standard library, ``shared.disk``, ``shared.errors`` and ``shared.failpoint``.
"""
