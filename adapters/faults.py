"""The one exception that means: the input is wrong."""

import re

_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


class InputFault(ValueError):
    """The input is wrong; the message says what was got, what was expected, what to do."""

    def __str__(self) -> str:
        return printable(super().__str__())


def printable(text: str) -> str:
    """Return a text that may quote a stranger's with what would steer a terminal written as its code."""
    return _UNPRINTABLE.sub(lambda found: ascii(found[0])[1:-1], text)
