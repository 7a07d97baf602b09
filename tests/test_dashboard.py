"""Who may look at a sweep's Ray, and the dashboard file for Grafana: without starting either."""

import stat
from types import SimpleNamespace

import pytest

from pwmray import gauges
from pwmray.driver import dashboard
from pwmray.gauges import GAUGES, TAGS
from tests.dashboard_file import (
    list_expressions,
    list_panels,
    list_variables,
    names_in,
    read_dashboard,
    tags_in,
)

URL = "127.0.0.1:8265"


@pytest.fixture
def own_token(monkeypatch):
    """Give the test an environment that says nothing of tokens, and a process that has none yet."""
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", "")  # so that it is put back afterwards
    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH")
    dashboard._own_token.cache_clear()
    yield
    dashboard._own_token.cache_clear()


def test_the_token_is_long_of_this_run_and_read_by_nobody_else(own_token):
    path = dashboard.close_to_others()
    assert path is not None
    assert len(path.read_text()) == 64
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert dashboard.close_to_others() == path


@pytest.mark.parametrize("name", ["RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"])
def test_what_the_environment_says_of_tokens_is_left_alone(own_token, monkeypatch, name):
    monkeypatch.setenv(name, "as you like")
    assert dashboard.close_to_others() is None


def test_the_token_is_shown_on_a_terminal_and_nowhere_else(own_token):
    path = dashboard.close_to_others()
    assert path is not None
    on_terminal = dashboard.describe(URL, path, is_terminal=True)
    in_a_file = dashboard.describe(URL, path, is_terminal=False)
    assert f"Ray dashboard: http://{URL}" in on_terminal
    assert path.read_text() in on_terminal
    assert path.read_text() not in in_a_file
    assert str(path) in in_a_file
    assert dashboard.describe(URL, None, is_terminal=True) == f"Ray dashboard: http://{URL}"


def test_speed_of_a_resumed_trial_is_that_since_it_was_taken_up(monkeypatch):
    shown = {}
    monkeypatch.setattr(gauges, "_export_seconds", lambda: 0.0)
    monkeypatch.setattr(
        gauges,
        "_gauge",
        lambda name: SimpleNamespace(set=lambda value, tags: shown.update({name: value})),
    )
    trial = gauges.TrialGauges({}, 15_000, False, begun=(14_000, 28_000.0))
    trial.show({"epoch": 14_100, "seconds": 28_020.0, "return_mean": 1.0})
    assert shown[gauges.SPEED] == 5.0


def test_grafana_gets_every_gauge_and_nothing_else():
    asked = set().union(*(names_in(expression) for expression in list_expressions()))
    assert asked == {f"ray_{name}" for name in GAUGES}


def test_grafana_selects_by_tags_that_the_gauges_have():
    tags = {*TAGS, "SessionName"}  # Ray adds the session
    assert all(tags_in(expression) <= tags for expression in list_expressions())
    queries = [v for v in list_variables() if v["type"] == "query"]
    assert {v["name"] for v in queries} == tags - {"trial"}
    assert all(v["definition"] == f"label_values(ray_pwmray_epoch, {v['name']})" for v in queries)


def test_grafana_can_import_the_file():
    assert read_dashboard()["uid"] == "pwmray"
    assert len({panel["id"] for panel in list_panels()}) == len(list_panels())
    assert (
        list_variables()[0] | {"type": "datasource", "query": "prometheus"} == list_variables()[0]
    )
    for panel in list_panels():
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        assert panel["fieldConfig"]["defaults"]["unit"]
        assert panel["targets"][0]["legendFormat"] in ("{{trial}}", "{{variant}}")


def test_no_panel_lies_on_another():
    cells = [
        (x, y)
        for box in (panel["gridPos"] for panel in list_panels())
        for x in range(box["x"], box["x"] + box["w"])
        for y in range(box["y"], box["y"] + box["h"])
    ]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) < 24
