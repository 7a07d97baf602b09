"""Shorten long levels to labels for ticks, legends and the cells of tables."""

import math
import re
from collections.abc import Mapping, Sequence
from string import ascii_uppercase
from typing import Any, NamedTuple

from analysis.arms import Arm, is_numeric
from analysis.load import Trial, format_value

# Whatever prints one of these must explain it (see ShortNames.legend).
SHORT_NAMES = {
    "policy_finetuning": "frozen",
    "policy_and_wm_finetuning": "fine-tuned",
    "joint_from_scratch": "scratch",
}
SHOWN_DIGITS = 8  # of a fingerprint: its beginning names a trial to every command
MOST_NAMED = 5  # factors by which a note names a trial
QUANTIFIERS = ("none", "all")
LONGEST = 24  # characters of a label; what is longer even when shortened becomes a letter
LONGEST_NUMBER = 8  # of a number that is not a whole one
UNSHORTENED = ("task", "variant", "sweep")  # names that readers know
SETTING = re.compile(r"([\w.\[\]]+)=([^,]*)(?:, |$)")  # of a level that sets several keys
PIECE = re.compile(r"[^_/.\- ]*[_/.\- ]|[^_/.\- ]+")  # up to where a label may be broken


class ShortNames(NamedTuple):
    """The labels of every factor's levels in one sweep, and their explanations."""

    labels: Mapping[tuple[str, Any], str]  # by factor and level
    legend: Mapping[str, str]  # a line for each factor that has a shortened level
    varied: frozenset[str]  # factors with several levels: one level needs no word
    called: Mapping[str, str]  # a factor's name beside a number

    def label(self, factor: str, level: Any) -> str:
        """Return the level as a table prints it."""
        return self.labels.get((factor, level), format_value(level))

    def named(self, factor: str, level: Any) -> str:
        """Return the level as it can stand alone: with the name of its factor if it needs that."""
        label = self.label(factor, level)
        return f"{self.called.get(factor, factor)} {label}" if needs_factor(level) else label

    def list_apart(self, factors: Mapping[str, Any]) -> list[str]:
        """Return what tells a group of trials apart in a sentence: its task and what varies."""
        return [
            self.named(name, level)
            for name, level in factors.items()
            if name == "task" or name in self.varied
        ]

    def name_trial(self, trial: Trial) -> str:
        """Return a trial as notes name it, e.g. "reacher-easy baseline epochs 100 seed 42".

        Of many settings by its fingerprint: they would take lines.
        """
        if len(self.varied) > MOST_NAMED:
            return f"{trial.factors['task']} {trial.record['trial'][:SHOWN_DIGITS]}"
        return f"{' '.join(self.list_apart(trial.factors))} seed {trial.seed}"

    def explain(self, *factors: str) -> str:
        """Say what the short labels of some factors stand for; empty where they have none."""
        return "".join(f" {self.legend[name]}." for name in factors if name in self.legend)

    def tick(self, factor: str, level: Any) -> str:
        """Return the level as a figure prints it: numbers in few characters too."""
        if is_numeric([level]) and math.isfinite(level) and not _is_long(level):
            return shorten_number(level)
        return self.label(factor, level)


def needs_factor(level: Any) -> bool:
    """Tell whether a level says too little without its factor: "none wins" reads as nobody."""
    return not isinstance(level, str) or level in QUANTIFIERS


def shorten_levels(arms: Sequence[Arm]) -> ShortNames:
    """Return short labels that distinguish a factor's levels, with their legend."""
    labels, legend, varied = {}, {}, []
    for factor in arms[0].factors if arms else ():
        levels = list(dict.fromkeys(arm.factors[factor] for arm in arms))
        chosen = dict(zip(levels, _choose_labels(factor, levels), strict=True))
        labels |= {(factor, level): label for level, label in chosen.items()}
        legend[factor] = _explain(factor, chosen)
        varied += [factor] if len(levels) > 1 else []
    explained = {factor: line for factor, line in legend.items() if line}
    return ShortNames(labels, explained, frozenset(varied), _call_factors(tuple(legend)))


def shorten_level(level: Any) -> str:
    """Return one level in few characters, whatever the others are.

    Settings are reduced to their values, a path to its last part, a methodology to one word.
    """
    if not isinstance(level, str):
        return format_value(level)
    settings = SETTING.findall(level)
    if settings and SETTING.sub("", level) == "":
        return "/".join(shorten_level(value) for _, value in settings)
    return SHORT_NAMES.get(level, level.rpartition("/")[2] or level)


def shorten_number(value: float) -> str:
    """Return a number in few characters: 15k for 15,000."""
    return f"{value / 1000:g}k" if value >= 1000 else f"{value:g}"


def fold(label: str, longest: int) -> str:
    """Return a label in lines of at most `longest` characters, broken after separators."""
    lines = [""]
    for piece in PIECE.findall(label):
        if lines[-1] and len(lines[-1]) + len(piece.rstrip()) > longest:
            lines.append("")
        lines[-1] += piece
    return "\n".join(line.rstrip() for line in lines)


def _call_factors(factors: Sequence[str]) -> dict[str, str]:
    """Return the last part of each config key, or all of it where another one ends alike.

    A "seed" is the training seed, whatever else has one.
    """
    lasts = [factor.rpartition(".")[2] for factor in factors]
    return {
        factor: factor if [*lasts, "seed"].count(last) > 1 else last
        for factor, last in zip(factors, lasts, strict=True)
    }


def _choose_labels(factor: str, levels: Sequence[Any]) -> list[str]:
    """Return a label for each level: shortened, or a letter if that is too long or ambiguous."""
    if factor in UNSHORTENED:
        return [format_value(level) for level in levels]
    if is_numeric([level for level in levels if level is not None]):
        return _round_apart(levels)
    labels = [shorten_level(level) for level in levels]
    if len(levels) > len(ascii_uppercase):
        return labels
    letters = list(ascii_uppercase[: len(levels)])
    pairs = zip(labels, letters, strict=True)
    short = [label if len(label) <= LONGEST else letter for label, letter in pairs]
    is_told_apart = len({*labels}) == len({*short}) == len(levels)
    return short if is_told_apart else letters


def _round_apart(levels: Sequence[Any]) -> list[str]:
    """Return numbers in as few digits as distinguish them."""
    for digits in range(3, 17):
        labels = [_round(level, digits) for level in levels]
        if len({*labels}) == len(levels):
            return labels
    return [format_value(level) for level in levels]


def _round(level: float | None, digits: int) -> str:
    return f"{level:.{digits}g}" if _is_long(level) else format_value(level)


def _is_long(level: Any) -> bool:
    return isinstance(level, float) and len(str(level)) > LONGEST_NUMBER


def _explain(factor: str, labels: Mapping[Any, str]) -> str:
    """Return the legend's line of one factor: the keys once, or every shortened level.

    Rounded numbers need no explanation.
    """
    changed = {
        level: label
        for level, label in labels.items()
        if label != format_value(level) and not is_numeric([level])
    }
    if not changed:
        return ""
    keys = {tuple(key for key, _ in SETTING.findall(str(level))) for level in changed}
    values = all(label == shorten_level(level) for level, label in changed.items())
    if values and len(keys) == 1 and keys != {()}:
        return f"{factor}: {' / '.join(keys.pop())}"
    return f"{factor}: {'; '.join(f'{label} = {level}' for level, label in changed.items())}"
