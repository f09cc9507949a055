"""Model cards as HTML: the usual marks, and never anybody's own tags."""

from __future__ import annotations

from html.parser import HTMLParser

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from boucle.ops.serve.card import to_html


@pytest.mark.parametrize(
    ("markdown", "html"),
    [
        ("# A\n## B", "<h2>A</h2>\n<h3>B</h3>"),
        ("one\ntwo\n\nthree", "<p>one two</p>\n<p>three</p>"),
        ("- a\n- b\n  more", "<ul><li>a</li><li>b more</li></ul>"),
        ("1. a\n2. b", "<ol><li>a</li><li>b</li></ol>"),
        ("text\n- a", "<p>text</p>\n<ul><li>a</li></ul>"),
        ("```py\n# <x>\n```\nafter", "<pre><code># &lt;x&gt;</code></pre>\n<p>after</p>"),
        ("```\nopen", "<pre><code>open</code></pre>"),
        ("> said\n> so", "<blockquote><p>said so</p></blockquote>"),
        ("---", "<hr>"),
        (
            "**b** and *i* and `a*b*` and 2*3*4",
            "<p><strong>b</strong> and <em>i</em> and <code>a*b*</code> and 2*3*4</p>",
        ),
        ("snake_case_name", "<p>snake_case_name</p>"),
        ("[a](https://x.org/a_b_c?d=1&e)", '<p><a href="https://x.org/a_b_c?d=1&amp;e" rel="noreferrer">a</a></p>'),
        ("[a](javascript:alert(1))", "<p>[a](javascript:alert(1))</p>"),
        ("<script>x</script>", "<p>&lt;script&gt;x&lt;/script&gt;</p>"),
        (
            "| a | b |\n|---|:-:|\n| 1 | 2 |\nafter",
            '<div class="wide"><table><thead><tr><th>a</th><th>b</th></tr></thead>'
            "<tbody><tr><td>1</td><td>2</td></tr></tbody></table></div>\n<p>after</p>",
        ),
        ("", ""),
    ],
)
def test_marks(markdown, html):
    assert to_html(markdown) == html


ALLOWED = {
    *("h2", "h3", "h4", "h5", "h6", "p", "ul", "ol", "li", "pre", "code", "blockquote", "hr", "strong", "em", "a"),
    *("div", "table", "thead", "tbody", "tr", "th", "td"),
}


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag, attrs):
        assert tag in ALLOWED
        for name, value in attrs:
            assert (name, value) in {("class", "wide"), ("rel", "noreferrer")} or (
                name == "href" and value.startswith(("http://", "https://", "mailto:"))
            )
        if tag != "hr":
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


MARKS = st.sampled_from(
    [
        "#",
        "*",
        "**",
        "_",
        "`",
        "```",
        "|",
        "---",
        "- ",
        "1. ",
        "> ",
        "[",
        "](",
        ")",
        "https://a",
        '"',
        "'",
        "<b>",
        "&",
        "\n",
        " ",
    ]
)


@given(st.lists(MARKS | st.text(max_size=3), max_size=40).map("".join))
@example("****#**")
def test_any_text_gives_balanced_allowed_tags(markdown):
    parser = Tags()
    parser.feed(to_html(markdown))
    parser.close()
    assert parser.open == []
