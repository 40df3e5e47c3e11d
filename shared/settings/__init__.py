"""The configuration: its model, where it is written, what is wrong or unwise in it.

It trusts no text that it reads, and repeats no value in an error: it might be a secret.
Those who wire import it, and nobody else; nothing is loaded before one of its modules is named,
as pydantic takes its time.
"""
