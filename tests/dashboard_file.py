"""What the dashboard for Grafana asks of Prometheus."""

import json
import re
from pathlib import Path
from typing import Any

GRAFANA = Path(__file__).parents[1] / "docs" / "dashboard" / "grafana.json"
_WORD = r"[a-zA-Z_]\w*"


def read_dashboard() -> dict[str, Any]:
    return json.loads(GRAFANA.read_text())


def list_panels() -> list[dict[str, Any]]:
    return read_dashboard()["panels"]


def list_expressions() -> list[str]:
    """Return the PromQL of every panel."""
    return [target["expr"] for panel in list_panels() for target in panel["targets"]]


def names_in(expression: str) -> set[str]:
    """Return the metrics that an expression reads."""
    return set(re.findall(rf"({_WORD})\{{", expression))


def tags_in(expression: str) -> set[str]:
    """Return the labels that an expression selects or groups by."""
    selected = re.findall(rf"({_WORD})\s*(?:=~|!~|!=|=)", expression)
    grouped = re.findall(r"\bby \(([^)]*)\)", expression)
    return {*selected, *(name.strip() for names in grouped for name in names.split(","))}


def list_variables() -> list[dict[str, Any]]:
    return read_dashboard()["templating"]["list"]
