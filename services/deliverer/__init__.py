"""Hands messages to the local mail server: ``pickup`` to SMTP, LMTP, Maildir or a PickUp folder."""
