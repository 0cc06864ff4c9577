"""vae_jax/report/markup.py: every text is escaped, and numbers are as in print."""

from vae_jax.report import markup


def test_text_and_attributes_are_escaped():
    text = '<b>"&'
    assert markup.escape(text) == "&lt;b&gt;&quot;&amp;"
    made = markup.element("p", markup.escape(text), title=text, class_="a", aria_label=None)
    assert made == '<p title="&lt;b&gt;&quot;&amp;" class="a">&lt;b&gt;&quot;&amp;</p>'
    assert markup.escape("\udcff") == "\\udcff"  # a name of a file that is no UTF-8


def test_elements_without_a_content_have_no_end():
    assert markup.element("img", alt="a") == '<img alt="a">'
    assert markup.element("line", x1=1) == '<line x1="1"/>'
    assert markup.element("div") == "<div></div>"


def test_numbers():
    assert markup.number(-1234.567) == "\N{MINUS SIGN}1,234.57"
    assert markup.number(5000) == "5,000"
    assert markup.number("<") == "&lt;"
    assert markup.number(True) == "True"
    assert markup.with_error(1.5, 0.25, 1) == "1.5 ± 0.2"
    assert markup.with_error(1.5, None) == "1.50"


def test_tables_and_sections():
    made = markup.table(("a", "b"), [("x", "1")], class_="c")
    assert '<th scope="col">a</th>' in made
    assert '<tr><th scope="row">x</th><td>1</td></tr>' in made
    assert "<thead>" not in markup.table((), [("x", "1")])
    assert "<td>&lt;</td>" in markup.definitions({"n": "<"})
    assert markup.section("Title") == ""
    assert markup.section("A & B", "x") == "<section><h2>A &amp; B</h2>x</section>"
    assert markup.note("a<b", "warning") == '<p class="note warning">a&lt;b</p>'
