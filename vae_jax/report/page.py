"""The page: style and frame of a report. It loads nothing, and its policy forbids browsers to load anything."""

from collections.abc import Sequence

from vae_jax.report.markup import element, escape

# No script, no file and no address: what the page shows is in the page.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"

STYLE = """
:root { color-scheme: light dark; --page: #f6f7f9; --card: #ffffff; --ink: #1a2230; --soft: #5b6677; --rule: #dfe3ea;
  --accent: #3445c4; --mark: #e6e9fb; --warn: #8a4b00; --warn-card: #fff4e0;
  --c0: #3b5bdb; --c1: #e8590c; --c2: #2b8a3e; --c3: #9c36b5; --c4: #0c8599; --c5: #c2255c; }
@media (prefers-color-scheme: dark) { :root { --page: #12151b; --card: #1b2028; --ink: #e6eaf1; --soft: #9aa6b8;
  --rule: #2d3542; --accent: #9db0ff; --mark: #2b3560; --warn: #ffc46b; --warn-card: #33270f;
  --c0: #7c9cff; --c1: #ff9a52; --c2: #69db7c; --c3: #da8cf0; --c4: #56cfe1; --c5: #ff85ac; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 15px/1.5 system-ui, -apple-system, "Segoe UI",
  "DejaVu Sans", sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 28px 20px 60px; }
h1 { font-size: 26px; line-height: 1.2; margin: 0 0 4px; overflow-wrap: anywhere; }
h2 { font-size: 18px; margin: 40px 0 12px; padding-bottom: 6px; border-bottom: 1px solid var(--rule); }
h3 { font-size: 14px; margin: 0 0 6px; }
.subtitle, .hint, .unit, .protocol, .label, figcaption { color: var(--soft); }
.subtitle { margin: 0 0 22px; overflow-wrap: anywhere; }
.hint { font-size: 13px; margin: 0 0 10px; }
.hero { display: grid; grid-template-columns: repeat(auto-fit, minmax(300px, 1fr)); gap: 14px; }
.big, .card, .chart, .picture, .group { background: var(--card); border: 1px solid var(--rule); border-radius: 10px; }
.big { padding: 18px 22px; border-left: 5px solid var(--accent); }
.big .label { font-size: 14px; }
.big .value { font-size: clamp(34px, 6vw, 46px); font-weight: 650; line-height: 1.2; letter-spacing: -0.01em; }
.error { color: var(--soft); font-weight: 500; }
.big .error { font-size: 0.62em; }
.big .unit { font-size: 13px; }
.big .protocol { margin-top: 6px; font-weight: 600; color: var(--ink); }
.value { font-variant-numeric: tabular-nums; }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(190px, 45%), 1fr)); gap: 10px;
  margin-top: 14px; }
.card { padding: 10px 14px; }
.card .label, .card .unit { font-size: 12px; line-height: 1.35; }
.card .value { font-size: 20px; font-weight: 600; white-space: nowrap; }
.card .error { font-size: 15px; }
.note { background: var(--card); border: 1px solid var(--rule); border-left: 4px solid var(--soft); border-radius: 8px;
  padding: 10px 14px; margin: 12px 0 0; overflow-wrap: anywhere; }
.note.warning { background: var(--warn-card); border-color: var(--warn); color: var(--warn); }
figure { margin: 0; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 420px), 1fr)); gap: 14px; }
.chart { padding: 12px 14px; }
.chart figcaption { display: flex; justify-content: space-between; gap: 10px; font-size: 13px; }
figcaption b { color: var(--ink); }
svg { display: block; width: 100%; height: auto; }
svg text { fill: var(--soft); font-size: 11px; font-variant-numeric: tabular-nums; }
.grid { stroke: var(--rule); stroke-width: 1; }
.curve { fill: none; stroke-width: 1.8; stroke-linejoin: round; }
.line-0 { --line: var(--c0); } .line-1 { --line: var(--c1); } .line-2 { --line: var(--c2); }
.line-3 { --line: var(--c3); } .line-4 { --line: var(--c4); } .line-5 { --line: var(--c5); }
.curve { stroke: var(--line); } .dot { fill: var(--line); } .swatch { background: var(--line); }
.legend { display: flex; flex-wrap: wrap; gap: 4px 18px; font-size: 12.5px; color: var(--soft); }
.legend b { color: var(--ink); margin-left: 6px; font-variant-numeric: tabular-nums; }
.swatch { display: inline-block; width: 14px; height: 3px; border-radius: 2px; margin-right: 6px; vertical-align: 3px; }
.pictures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 420px), 1fr)); gap: 14px;
  align-items: start; grid-auto-flow: dense; }
.picture { padding: 12px 14px; } .picture.wide { grid-column: 1 / -1; }
.picture figcaption { font-size: 13px; margin-bottom: 8px; }
.picture img { display: block; max-width: 100%; height: auto; margin: 0 auto; border-radius: 6px; background: #fff; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { text-align: left; vertical-align: top; padding: 5px 14px 5px 0; border-bottom: 1px solid var(--rule);
  font-weight: 400; }
thead th { color: var(--soft); font-size: 12.5px; white-space: nowrap; vertical-align: bottom; }
table.pairs { width: 100%; } .pairs th { color: var(--soft); white-space: nowrap; width: 1%; }
.pairs td { overflow-wrap: anywhere; }
.results td { white-space: nowrap; } .results th[scope=row] { font-weight: 600; min-width: 150px; }
.scroll + .hint { margin-top: 10px; }
.results .best { font-weight: 700; color: var(--accent); }
.groups { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 300px), 1fr)); gap: 12px; }
.group { padding: 10px 14px; font-size: 13px; } .group th, .group td { padding: 2px 10px 2px 0; border: 0; }
mark { background: var(--mark); color: inherit; border-radius: 4px; padding: 0 5px; font-weight: 600; }
pre { background: var(--card); border: 1px solid var(--rule); border-radius: 8px; padding: 12px 14px; margin: 0 0 8px;
  white-space: pre-wrap; overflow-wrap: anywhere; }
code { font: 13px/1.5 ui-monospace, "DejaVu Sans Mono", monospace; }
@media print { body { background: #fff; } .big, .card, .chart, .picture, .group { break-inside: avoid; } }
"""


def page(title: str, subtitle: str, sections: Sequence[str]) -> str:
    """Return a complete HTML document.

    Args:
      title: its title, as text.
      subtitle: the line below the title, as text.
      sections: its content, as HTML.
    """
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=POLICY),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("title", escape(title)),
        element("style", STYLE),
    )
    header = element("header", element("h1", escape(title)), element("p", escape(subtitle), class_="subtitle"))
    return "<!DOCTYPE html>\n" + element("html", head, element("body", element("main", header, *sections)), lang="en")
