"""The page of a service: self-contained, escaped, and working in a browser."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pyarrow as pa
import pytest

from boucle.core import predictions
from boucle.core.bundle import pack
from boucle.core.schema import Column, Schema
from boucle.testing.target import double

CHROMIUM = Path("/usr/bin/chromium")
QUIET = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]


class Document(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.inline: dict[str, list[str]] = {"script": [], "style": []}
        self.attributes: set[str] = set()
        self._in = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.attributes |= set(given)
        self.links += [given[name] for name in ("src", "href", "action") if name in given]
        if tag in self.inline and given.get("type") != "application/json":
            self._in = tag

    def handle_data(self, data):
        if self._in:
            self.inline[self._in].append(data)
            self._in = ""


def test_is_one_document_that_its_policy_allows(serve):
    response = serve().ask("GET", "/")
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    document = Document(response.text)
    assert [link for link in document.links if "//" in link] == []
    assert set(document.links) == {"data:,", "openapi.json", "metadata", "metrics", "health/ready"}
    policy = dict(part.strip().split(" ", 1) for part in response.headers["content-security-policy"].split(";"))
    assert policy["default-src"] == "'none'"
    for kind in ("script", "style"):
        (text,) = document.inline[kind]
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert policy[f"{kind}-src"] == f"'sha256-{digest}'"
    assert not any(name.startswith("on") or name == "style" for name in document.attributes)  # it would not be run


def test_shows_the_model(serve):
    text = serve().ask("GET", "/").text
    for said in (
        "churn-eu",
        "@3",
        "ab" * 8,
        "tenure",
        "months as a customer",
        "may be null",
        "Predicts who <em>leaves</em>",
    ):
        assert said in text
    assert "dataset:churn@1" in text
    assert "<b>max</b>" not in text  # a category of the data, escaped


def test_data_cannot_end_its_script(serve, make_bundle):
    evil = "</script><script>alert(1)</script>"
    text = serve(bundle=make_bundle(sample=[{"tenure": 1, "plan": evil}], card=evil)).ask("GET", "/").text
    assert "alert(1)</script>" not in text
    held = re.search(r'<script type="application/json" id="sample">(.*?)</script>', text, re.DOTALL)
    assert json.loads(held[1]) == [{"tenure": 1, "plan": evil}]


@pytest.mark.slow
@pytest.mark.skipif(not CHROMIUM.exists(), reason=f"needs a browser at {CHROMIUM}")
def test_in_a_browser(tmp_path):
    from playwright.sync_api import expect, sync_playwright

    pack(
        tmp_path / "bundle",
        double,
        name="double",
        input=Schema((Column("x", "int64", nullable=False),)),
        sample=pa.table({"x": [4, 5]}),
    )
    service = subprocess.Popen(
        [
            *(sys.executable, "-m", "boucle.ops.serve", tmp_path / "bundle"),
            *("--service", "twice", "--log", tmp_path / "log", "--port", "0"),
        ],
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        url = re.search(r"http://\S+", service.stderr.readline())[0]
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
            page = browser.new_page()
            complaints: list[str] = []
            page.on("pageerror", lambda error: complaints.append(str(error)))
            page.on("console", lambda message: complaints.append(message.text))
            page.goto(url)
            expect(page.locator("#state")).to_have_text("Ready")
            page.click("#send")
            expect(page.locator(".result")).to_have_text("8")
            expect(page.locator("#status")).to_contain_text("200 OK in")
            page.get_by_role("button", name="All 2").click()
            page.locator("#body").press("Control+Enter")
            expect(page.locator(".result")).to_have_text("2 predictions")
            assert complaints == []
            page.fill("#body", '{"x": "many"}')
            page.click("#send")
            expect(page.locator("#summary")).to_contain_text("row 0, column 'x' is \"many\"")
            browser.close()
        assert [row["inputs"]["x"] for row in predictions.scan(tmp_path / "log")] == [4, 4, 5]
    finally:
        service.kill()
        service.communicate()
