"""vae_jax/report/page.py: a complete document that loads nothing."""

import re
from html.parser import HTMLParser

from vae_jax.report.page import page


class Balanced(HTMLParser):
    """Fails unless every element ends; collects addresses."""

    def __init__(self, text):
        super().__init__()
        self.open, self.addresses = [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.addresses += [value for name, value in attrs if name in ("src", "href", "srcset", "action")]
        if tag not in ("img", "meta", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_a_page_is_complete_and_loads_nothing():
    text = page("a <b>", "c & d", ["<p>content</p>"])
    assert text.startswith("<!DOCTYPE html>")
    assert Balanced(text).addresses == []
    assert "<title>a &lt;b&gt;</title>" in text
    assert "c &amp; d" in text
    assert "default-src &#x27;none&#x27;; img-src data:; style-src &#x27;unsafe-inline&#x27;" in text
    assert not re.search(r"https?:|url\(|@import|<script", text)
    assert "prefers-color-scheme: dark" in text
    assert "width=device-width" in text
