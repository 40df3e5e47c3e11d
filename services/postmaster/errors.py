"""Errors of the operator's commands that are no defect of this program."""


class NotFound(Exception):
    """No message, or more than one, goes by the id that was given."""


class Unfit(Exception):
    """What was asked for cannot be done as things are; the text says why, and what to do."""
