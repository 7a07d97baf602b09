"""A table of text cells before it is drawn, and the formatting of its cells."""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from analysis.short_names import ShortNames
from pwmray.durations import format_duration

# Columns of words, though a cell may begin with a digit, or none with a letter; of levels that are
# no numbers the cells tell.
TEXT_COLUMNS = (
    "task",
    "variant",
    "methodology",
    "fidelity",
    "against",
    "verdict",
    "evidence",
    "trial",
    "status",
    "signs",
    "origin",
    "config_name",
    "floor",
    "direction",
    "sweep",
    "what",
    "value",
    "reason",
    "device",
    "budgets",
    "epochs needed",
    "with",
    "effect",
    "differs in",
)


class Grid(NamedTuple):
    """A table of text cells, whatever draws it."""

    title: str
    headers: tuple[str, ...]
    rows: list[tuple[str, ...]]
    notes: tuple[str, ...]

    @property
    def are_words(self) -> list[bool]:
        """Tell of each column whether it holds words, which stand left, rather than numbers."""
        columns = zip(*self.rows, strict=True) if self.rows else [()] * len(self.headers)
        return [
            header in TEXT_COLUMNS or any(cell[:1].isalpha() for cell in cells)
            for header, cells in zip(self.headers, columns, strict=True)
        ]


class SortedCell(str):
    """A cell that a page sorts by a given number instead of the one it begins with."""

    number: float

    def __new__(cls, text: str, number: float) -> "SortedCell":
        """Return `text` as a cell sorted by `number`."""
        cell = super().__new__(cls, text)
        cell.number = number
        return cell


def break_key(name: str) -> str:
    """Return a column's name, with a long config key broken over several lines."""
    return re.sub(r"([._])", r"\1\n", name) if "." in name else name


def name_levels(factors: Mapping[str, Any], names: ShortNames) -> list[str]:
    """Return the cells of some factors' levels."""
    return [names.label(factor, level) for factor, level in factors.items()]


def format_p(p: float | None) -> str:
    """Return p in three digits; one just below .05 as .049, since .050 would read as above."""
    if p is None:
        return "-"
    if p < 0.05 <= round(p, 3):
        p = 0.049
    return "<.001" if p < 0.001 else f"{p:.3f}".lstrip("0")


def format_range(low: float | None, high: float | None, digits: int = 0) -> str:
    """Return an interval's limits in brackets, "-" without them."""
    if low is None or high is None:
        return "-"
    return f"[{low:z.{digits}f}, {high:z.{digits}f}]"


def format_number(value: float | None, spec: str) -> str:
    """Return a number formatted by `spec`, "-" for None."""
    return "-" if value is None else format(value, spec)


def format_return(mean: float | None, sd: float | None) -> str:
    """Return a mean return with its sample sd, if there is one."""
    if mean is None:
        return "-"
    return f"{mean:z.1f}" if sd is None else f"{mean:z.1f} +- {sd:.1f}"


def format_rate(per_hour: float | None) -> str:
    """Return points per hour in the three digits that a few seeds support."""
    return "-" if per_hour is None else f"{float(f'{per_hour:.3g}'):z,.0f}"


def format_time(seconds: float | None) -> str:
    """Return a time as a cell sorted by its seconds, since units differ from row to row."""
    return "-" if seconds is None else SortedCell(format_duration(seconds), seconds)


def format_floor(floor: float, kind: str) -> str:
    """Return a task's floor as a cell; `kind` says which behaviour returns it."""
    return SortedCell(f"{floor:.1f} ({kind})", floor)
