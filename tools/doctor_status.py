"""What the checks of `make doctor` share: how they answer, and how they read versions.

This and all of doctor*.py: the standard library alone, and no newer syntax than Python 3.6's.
"""

import re


def ok(text: str) -> tuple:
    """(status, what was seen, what to do) of a check that found nothing wrong."""
    return "ok", text, ""


def warn(text: str, cure: str) -> tuple:
    """The chain runs, but not as it should, or only just."""
    return "warn", text, cure


def fail(text: str, cure: str) -> tuple:
    """The chain cannot run, or must not be trusted."""
    return "fail", text, cure


def numbers(text: str) -> tuple:
    """'GNU Make 4.3' -> (4, 3); () if there is no version in it."""
    found = re.search(r"\d+(\.\d+)+", text)
    return tuple(int(part) for part in found.group().split(".")) if found else ()


def dotted(version: tuple) -> str:
    """(4, 3) -> '4.3'."""
    return ".".join(str(part) for part in version)
