"""Formats of files, `<what>-<version>`, and what to say of a file whose format is not ours."""

import re


class OtherCodeError(ValueError):
    """A file is whole, but of other code: what begins anew in its place would replace it."""


def explain_format(found: str, ours: str, remedy: str = "") -> str:
    """Say what a file is and what to do: `remedy`, or to update where a newer pwmray wrote it."""
    fault = f"its format is {found[:40]!r}, not {ours!r}"
    if is_same_kind(found, ours) and _version(found) > _version(ours):
        remedy = "a newer pwmray wrote it, update this one"
    return f"{fault}; {remedy}" if remedy else fault


def is_same_kind(found: str, ours: str) -> bool:
    """Tell whether two formats differ in their versions at most."""
    return found.rpartition("-")[0] == ours.rpartition("-")[0]


def _version(format: str) -> int:
    digits = re.search(r"-(\d{1,9})$", format)
    return int(digits[1]) if digits else 0
