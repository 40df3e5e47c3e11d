"""The SQLite files, queues and ledgers: how they are opened, whether they are there, and whole.

It trusts that nobody uses a file while it is rebuilt.
It imports the standard library, ``shared.disk``, ``shared.errors`` and ``shared.failpoint``.
"""
