"""The POP3 client: protocol without I/O, connection, client, login, session, survey.

It trusts nothing that a server says but the order of its answers, and keeps no message whole.
It imports the core of ``shared``, its network and its redaction; of the fetcher only itself,
what identifies a message, and no ledger.
"""
