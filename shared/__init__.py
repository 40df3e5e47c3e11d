"""What the stages share: messages, outcomes, brokers, state, spool, settings, logs."""

PROGRAM = "pop3-connector"
"""Whose package this is: others have packages of this name, too (see ``pop3_connector``)."""
