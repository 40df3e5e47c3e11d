"""Into a mailbox elsewhere, over IMAP: the courier's wire, and the protocol beneath it.

``append`` is what a delivery is; ``handshake`` opens a session. ``response``, ``commands``,
``folders`` and ``trace_date`` do no I/O. It imports nothing of the rooms ``smtp`` and ``files``.
"""
