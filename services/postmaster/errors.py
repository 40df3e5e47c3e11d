"""What goes wrong with the operator's commands through nobody's defect."""


class NotFound(Exception):
    """No message, or more than one, goes by the id that was given."""


class Unfit(Exception):
    """What was asked for cannot be done as things are; the text says why, and what to do."""
