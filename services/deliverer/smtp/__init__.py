"""The courier for mail servers, over SMTP and LMTP: handshake, transaction, replies, pool, pace.

It trusts no server: replies are bounded, and what they mean is one table (``reply_meaning``).
It imports the core of ``shared``, its network and its redaction; of the deliverer the courier
interface, addresses and line ends.
"""
