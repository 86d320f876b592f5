"""Checks of written HTML pages."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

VOID = {"meta", "img", "br", "input"}


class Checker(HTMLParser):
    """Balanced elements, and no reference to anything outside the page."""

    def __init__(self):
        super().__init__()
        self.open: list[str] = []
        self.texts: list[str] = []

    def handle_starttag(self, tag, attrs):
        assert tag not in ("script", "link", "iframe", "object"), tag
        for name, value in attrs:
            if name in ("src", "href", "xlink:href"):
                assert value and value.startswith(("data:image/png", "#")), value
            assert not name.startswith("on"), name
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


def parse(path: Path) -> str:
    """Checks a page; returns its text."""
    content = path.read_text(encoding="utf-8")
    checker = Checker()
    checker.feed(content)
    assert not checker.open
    assert "@import" not in content
    assert not re.search(r"url\((?!#)", content)
    return " ".join(checker.texts)
