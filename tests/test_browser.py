"""The tests' browser itself: what it says where it is missing, what it notices, what it leaves."""

import os
import warnings
from pathlib import Path

import pytest

from tests.browser import REQUIRE, open_browser


@pytest.fixture
def no_programs(monkeypatch, tmp_path):
    """Give the test a machine without any program, where nothing must be there."""
    monkeypatch.setenv("PATH", str(tmp_path))
    for name in REQUIRE:
        monkeypatch.delenv(name, raising=False)


def test_without_a_browser_a_test_is_skipped_with_a_warning(no_programs):
    with pytest.warns(UserWarning, match="no chromium"), pytest.raises(pytest.skip.Exception):
        open_browser().__enter__()


@pytest.mark.parametrize("name", REQUIRE)
def test_without_a_browser_that_must_be_there_a_test_fails(no_programs, monkeypatch, name):
    monkeypatch.setenv(name, "1")
    with warnings.catch_warnings(action="error"), pytest.raises(pytest.fail.Exception, match="no "):
        open_browser().__enter__()


@pytest.mark.slow
@pytest.mark.browser
def test_errors_and_requests_are_noticed(tmp_path):
    page = tmp_path / "page.html"
    page.write_text('<img src="http://example.org/a.png"><script>missing()</script>')
    with open_browser() as browser:
        browser.open(page.as_uri())
        errors, requests = browser.errors(), browser.requests()
        browser.open("about:blank")
        assert (browser.errors(), browser.requests()) == ([], [])
    assert any("missing is not defined" in error for error in errors)
    assert [request.url for request in requests] == ["http://example.org/a.png"]
    assert requests[0].failure


@pytest.mark.slow
@pytest.mark.browser
def test_a_closed_browser_leaves_no_process_and_no_file():
    with open_browser() as browser:
        home = Path(browser.driver.capabilities["chrome"]["userDataDir"]).parent
        assert len(processes_with(home)) > 2
    assert processes_with(home) == []
    assert not home.exists()


def processes_with(folder: Path) -> list[str]:
    """Return the processes that have a folder in what they were started with."""
    lines = [path / "cmdline" for path in Path("/proc").glob("[0-9]*")]
    return [str(line) for line in lines if line.exists() and os.fsencode(folder) in read(line)]


def read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:  # it just ended
        return b""
