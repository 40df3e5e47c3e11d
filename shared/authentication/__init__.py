"""Logging in to a server: every mechanism as challenges and answers, whatever carries them.

POP3, SMTP, LMTP and IMAP share them. It trusts no server: what one offers is a hint, its challenges
are bounded and read strictly, and a password is sent in clear where the line hides it, or by the
user's own choice. It imports the standard library, ``shared.errors`` and, where they are used,
scramp and pyspnego.
"""
