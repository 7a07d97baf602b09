"""Of which code a result is: what all trials share of the learner, and what is their kinds' own.

So who adds a kind, or edits one, leaves the results of the others comparable.
"""

import ast
import functools
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from pwmray import models, provenance
from pwmray.models import KINDS

if TYPE_CHECKING:
    from pwmray.config import TrialConfig
    from pwmray.registry import Record

# What of this package computes the numbers of trials and pretrainings, beside the models; the rest
# plans, records and shows them. Of models/ all share what these import, which is no kind.
_LEARNER = (
    "algorithm",
    "data",
    "envs",
    "kernels",
    "pretraining",
    "build.py",
    "config.py",
    "devices.py",
    "divergence.py",
    "evaluation.py",
    "fidelity.py",
    "precision.py",
    "runtime.py",
    "seeding.py",
    "tasks.py",
    "trial.py",
)
LEARNER = "the learner"  # the name of the code that all trials share
_MODELS = provenance.PACKAGE / "models"
_NAME = f"{_MODELS.parent.name}.{_MODELS.name}"


def describe(**kinds: str) -> dict[str, str | None]:
    """Return what a trial or pretraining of these kinds is recorded under: versions and code."""
    return {**provenance.code(), **fingerprints(**kinds)}


def kinds_of(config: "TrialConfig") -> dict[str, str]:
    """Return a trial's kinds by the part of it that they are of."""
    return {"world_model": config.world_model.kind, "policy": config.policy.kind}


def fingerprints(**kinds: str) -> dict[str, str | None]:
    """Return 8 hex digits over the code that all kinds share, and over the own of each of `kinds`.

    All are None where one is of a kind in no file, as of a notebook: then only the commit tells.
    """
    found = {"code_fingerprint": _digest_shared()}
    for part, name in kinds.items():
        own = _digest_own(KINDS[part].get(name))
        found[f"{part}_code"] = own and f"{name} {own}"
    return found if all(found.values()) else dict.fromkeys(found)


def name_code(kinds: dict[str, str]) -> dict[str, str]:
    """Return what the columns of `fingerprints` are of, in words."""
    of_kinds = {f"{part}_code": f"{part.replace('_', ' ')} {kinds[part]}" for part in kinds}
    return {"code_fingerprint": LEARNER, **of_kinds}


def find_other_code(record: "Record", kinds: dict[str, str]) -> list[str]:
    """Name the code by other than which a trial was last trained; by the commit if that is all."""
    if record.last("code_fingerprint") is None:
        is_other = record.last("git_commit") not in (None, provenance.code()["git_commit"])
        return [LEARNER] if is_other else []
    names, now = name_code(kinds), fingerprints(**kinds)
    return [names[column] for column in now if record.last(column) != now[column]]


@functools.cache
def _digest_shared() -> str | None:
    return provenance.digest_files(_shared())


@functools.cache
def _digest_own(kind: type | None) -> str | None:
    """Return a hash of a kind: its class, its file, and what that imports and no learner does."""
    file = getattr(sys.modules.get(kind.__module__), "__file__", None) if kind else None
    if kind is None or file is None or not Path(file).is_file():
        return None
    path = Path(file).resolve()
    return provenance.digest_files({path, *(_reach([path]) - _shared())}, kind.__qualname__)


@functools.cache
def _shared() -> set[Path]:
    package = provenance.PACKAGE
    files = [p for p in provenance.package_files() if p.relative_to(package).parts[0] in _LEARNER]
    return {*files, *_reach(files)}


def _reach(files: Iterable[Path]) -> set[Path]:
    """Return the files of models/ that some files import, and those that these import."""
    found, left = set(), list(files)
    while left:
        new = {file for name in _imports(left.pop()) for file in _resolve(name)} - found
        found |= new
        left += new
    return found


def _resolve(name: str) -> set[Path]:
    """Return the files of models/ that a dotted name may be from; of the registries, none."""
    if not f"{name}.".startswith(f"{_NAME}."):
        return set()
    first = name.removeprefix(_NAME).strip(".*").partition(".")[0]
    if not first:
        return set(_MODELS.glob("[!_]*.py"))
    exported = getattr(getattr(models, first, None), "__module__", "")  # a class, or no name of it
    modules = {first, exported.rpartition(".")[2]} - {""}
    found = [path for m in modules for path in (_MODELS / f"{m}.py", *(_MODELS / m).rglob("*.py"))]
    return {path for path in found if path.is_file()}


@functools.cache
def _imports(path: Path) -> set[str]:
    """Return the dotted names that a file imports; of one that does not name models/, none."""
    source = path.read_bytes()
    if b"models" not in source and not path.is_relative_to(_MODELS):
        return set()  # most do not, and a parser is slow
    try:
        nodes = list(ast.walk(ast.parse(source)))
    except (SyntaxError, ValueError):  # cannot be run either, as what an editor leaves
        return set()
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    for node in nodes:
        if isinstance(node, ast.ImportFrom):
            folder = path.parents[node.level - 1].parts if node.level else ()
            above = [*folder[len(provenance.ROOT.parts) :], *filter(None, [node.module])]
            names |= {".".join([*above, alias.name]) for alias in node.names}
    return names
