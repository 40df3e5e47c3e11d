"""The four stages of the pipeline, and the postmaster who looks after them."""

PROGRAM = "pop3-connector"
"""Whose package this is: others have packages of this name, too (see ``pop3_connector``)."""
