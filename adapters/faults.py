"""The one exception that means: the input is wrong."""


class InputFault(ValueError):
    """The input is wrong; the message says what was got, what was expected, what to do."""
