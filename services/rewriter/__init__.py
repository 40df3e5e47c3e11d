"""Directs messages to local mailboxes: ``parsed`` to ``pickup``."""
