"""HTML as text: elements, tables and numbers, with every text escaped."""

import html
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

_VOID = ("img", "meta", "br", "line", "path", "circle", "rect", "polyline")  # elements without a content


def escape(text: Any) -> str:
    """Return a text as HTML that shows it as it is."""
    return html.escape(str(text).encode(errors="backslashreplace").decode())


def element(name: str, /, *content: str, **attributes: Any) -> str:
    """Return an element.

    Args:
      name: its name.
      *content: what it contains, which is HTML already.
      **attributes: its attributes, as text. `_` in a name is `-`, except at its end, where it is removed: `class_`. An
        attribute of None is absent.
    """
    given = ((key.rstrip("_").replace("_", "-"), value) for key, value in attributes.items() if value is not None)
    start = " ".join([name, *(f'{key}="{escape(value)}"' for key, value in given)])
    return (
        f"<{start}>"
        if name in _VOID[:3]
        else f"<{start}/>"
        if name in _VOID
        else f"<{start}>{''.join(content)}</{name}>"
    )


def table(header: Sequence[str], rows: Iterable[Sequence[str]], **attributes: Any) -> str:
    """Return a table that scrolls sideways where it is too wide.

    Args:
      header: the titles of the columns, as HTML; () for none.
      rows: the cells of each row, as HTML; the first cell of a row is its title.
      **attributes: of the element `table`.
    """
    head = element("thead", element("tr", *(element("th", cell, scope="col") for cell in header))) if header else ""
    body = [
        element("tr", element("th", first, scope="row"), *(element("td", c) for c in rest)) for first, *rest in rows
    ]
    return element("div", element("table", head, element("tbody", *body), **attributes), class_="scroll")


def definitions(items: Mapping[str, Any]) -> str:
    """Return a table of two columns, names and values as text."""
    return table((), [(escape(name), escape(value)) for name, value in items.items()], class_="pairs")


def number(value: Any, digits: int = 2) -> str:
    """Return a number with a fixed number of digits after the point, and a minus sign as in print; a text as it is."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return escape(value)
    text = f"{value:,}" if isinstance(value, int) else f"{value:,.{digits}f}"
    return text.replace("-", "\N{MINUS SIGN}")


def with_error(value: float, error: float | None, digits: int = 2) -> str:
    """Return "value ± standard error"; without an error the value alone."""
    return number(value, digits) + ("" if error is None else f" ± {number(error, digits)}")


def section(title: str, *content: str) -> str:
    """Return a section with a heading; "" without content."""
    inner = "".join(content)
    return element("section", element("h2", escape(title)), inner) if inner else ""


def note(text: str, kind: str = "") -> str:
    """Return a paragraph that stands out; the kind "warning" has another colour."""
    return element("p", escape(text), class_=f"note {kind}".strip())
