"""The report's page as a reader of HTML sees it."""

from html.parser import HTMLParser
from pathlib import Path

from analysis.summarize import main

CELLS = {
    "baseline": (300.0, 310.0, 320.0),
    "flowpolicy": (310.0, 330.0, 320.0),
    "flowwm": (250.0, 260.0, 240.0),
    "fullflow": (500.0, 510.0, 520.0),
}
VOID = {"meta", "link", "br", "hr", "img", "input"}


class Page(HTMLParser):
    """What a page holds; `open_tags` is empty at the end where every tag was closed in order."""

    def __init__(self, text: str):
        super().__init__()
        self.text = text
        self.open_tags: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open_tags.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open_tags.pop() == tag

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def make_page(folder: Path, name: str, *options: str) -> Page:
    out = folder / "out"
    arguments = [name, "--results", str(folder), "--format", "html", "--out", str(out)]
    assert main([*arguments, *options]) == 0
    return Page((out / "summary.html").read_text(encoding="utf-8"))
