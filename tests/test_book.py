"""The book: what its own pages say, how they link, and the whole book once, built and opened."""

import re
import shutil
import subprocess

import nbformat
import pandas as pd
import pytest

from routercompanion import core
from routercompanion.reproduce import book, graph, pages, store

ROOT = core.project_root()
ROWS = pd.DataFrame(
    [
        dict(id=f"p_{stem}", paper="p", item=item, title=title, status=status, notebook="papers/p")
        for stem, item, title, status in (
            ("table1", "Table 1", "Ability | of <b>routers</b>", "analogue"),
            ("table10", "Table 10", "Costs", "reproduced"),
            ("figure1", "Figure 1", "A curve", "analogue"),
        )
    ]
).assign(note="small models")
TABLE = "**Ability**\n\n| row | AUROC |\n| --- | --- |\n| Random | 0.50 |\n"


def shelf(folder, profile="smoke", **texts):
    "A shelf with one Markdown table for each stem."
    folder.mkdir(parents=True, exist_ok=True)
    items = {}
    for stem, text in texts.items():
        (folder / f"{stem}.md").write_text(text)
        files = {f"{stem}.md": "0", f"{stem}.csv": "0"}
        items[stem] = {"notebook": "nbs/papers/p/results.ipynb", "inputs": {}, "files": files}
    return pages.Shelf(profile, folder, items)


def test_a_papers_page_has_its_items_in_the_papers_order(tmp_path):
    own = shelf(tmp_path / "a", p_table1=TABLE, p_table1_seeds="seeds", p_table10="ten")
    bench = shelf(tmp_path / "b", "bench", p_table1="theirs")
    cells = [nbformat.v4.new_markdown_cell("## Table 1: can it tell?")]
    places = {"papers/p": ("papers/p/results", pages.sections_of(cells))}
    text = pages.paper_page(ROWS, [own, bench], places, title="P", url="https://example.org")
    heads = re.findall(r"(?m)^## (.+)$", text)
    assert [h.partition(".")[0] for h in heads] == ["Table 1", "Table 10", "Figure 1"]
    one = text[text.index("## Table 1.") : text.index("## Table 10.")]
    assert "results.html#table-1-can-it-tell" in one and "### Bench profile" in one
    assert "| Random | 0.50 |" in one and "theirs" in one and "seeds\n" not in one
    assert "p_table1_seeds.csv" in one and "figures/bench/p_table1.csv" in one
    assert "<b>" not in text and "2 analogue, 1 reproduced" in text
    ten = text[text.index("## Table 10.") : text.index("## Figure 1.")]
    assert 'results.html">' in ten, "no section of its own: the notebook"


def test_the_index_of_results_leads_to_the_items(tmp_path):
    own = shelf(tmp_path, p_table1=TABLE, other="left over")
    text = pages.results_page(own, ROWS, {"p": "papers/p/index"})
    for row in ROWS.itertuples():
        anchor = pages.heading_slug(f"{row.item}. {row.title}")
        assert f'href="papers/p/index.html#{anchor}">' in text
    assert "## other" in text and "## p_table1" not in text
    assert "## p_table1" in pages.results_page(own, ROWS), "no page of its paper: here"


@pytest.mark.parametrize(
    "text, kept",
    [
        ("# `Curve`", True),
        ("see [the `Curve`](x.md)", True),
        ("[`Curve`](x.md)", True),
        ("```python\n`Curve`\n```", True),
        ("| `Curve` |", True),
        ("`nothing_of_ours`", True),
        ("`Curve`", False),
        ("a list [1] and `Curve`", False),
    ],
)
def test_names_in_prose_are_links(text, kept):
    places = {"Curve": "api/metrics.html#metrics.curve.Curve"}
    assert (pages.link_names(text, places, "../") == text) == kept


def test_a_name_of_two_things_is_no_link(tmp_path):
    for module in "ab":
        path = tmp_path / "routercompanion" / f"{module}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(
            "__all__ = ['f', 'only_%s']\ndef f(): 'F'\ndef only_%s(): 'O'\n" % (module, module)
        )
    places = pages.name_places(tmp_path)
    assert "f" not in places and places["a.f"] == "api/base.html#a.f"
    assert places["only_b"] == places["routercompanion.b.only_b"]


def test_every_public_name_has_a_place_in_the_book():
    texts, places = pages.api_pages(ROOT), pages.name_places(ROOT)
    for address in set(places.values()):
        page, _, anchor = address.partition("#")
        assert f'id="{anchor}"' in texts[page.removesuffix(".html")], address
    assert "DirichletProbe" in places and "deferral_curve" in places


@pytest.mark.parametrize(
    "source, tags",
    [
        ("#| export\ndef f(): pass", ["hide-input"]),
        ("#| exporti\nx = 1", ["hide-input"]),
        ("#| hide\nimport os\nx = 1", ["hide-input"]),
        ("import os\nfrom a import b", ["hide-input"]),
        ("#| default_exp a.b", ["remove-cell"]),
        ("import os\nprint(1)", None),
        ("%matplotlib inline", None),
        ("", None),
    ],
)
def test_examples_stay_open_and_plumbing_is_folded(source, tags):
    cell = pages.for_readers(nbformat.v4.new_code_cell(source))
    assert cell.metadata.get("tags") == tags and "#|" not in cell.source


def test_the_citation_names_every_paper():
    text = pages.citation_page(ROOT)
    assert text.count("\n- ") == 1 + len(pages.read_references(ROOT)) >= 6


# ---------- the whole book, from the committed outputs ----------


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    "The HTML of the project's book, made of the committed notebooks and figures."
    folder = tmp_path_factory.mktemp("book")
    ws = store.Workspace(ROOT, "embedded")
    ws.state = folder / "state"
    steps = graph.project_steps(ROOT, "embedded")
    steps += [s for s in graph.read_steps(ROOT) if s not in steps]
    items = store.list_items(ROOT, "embedded")
    book.write_book_sources(ws, steps, folder / "source", items)
    return book.run_jupyter_book(folder / "source", ws)


def html_pages(folder):
    return {p.relative_to(folder).as_posix(): p for p in sorted(folder.rglob("*.html"))}


def test_the_built_book_needs_no_network_and_leads_nowhere_dead(built):
    assert book.external_requests(built) == []
    assert book.dead_links(built) == []


def test_no_page_is_heavy_and_every_picture_has_words(built):
    heavy = {n: p.stat().st_size for n, p in html_pages(built).items() if p.stat().st_size > 2e6}
    assert heavy == {}
    silent = [
        (name, tag[:80])
        for name, page in html_pages(built).items()
        for tag in re.findall(r"<img\b[^>]*>", page.read_text(encoding="utf-8"))
        if not re.search(r'alt="[^"]+"', tag)
    ]
    assert silent == []


def test_formulas_are_shown_and_centred(built):
    texts = [p.read_text(encoding="utf-8") for p in html_pages(built).values()]
    assert sum(t.count("<math ") for t in texts) > 300
    assert not any('<code class="math-source">' in t for t in texts)


def test_the_contents_follow_the_reader(built):
    text = (built / "index.html").read_text(encoding="utf-8")
    parts = re.findall(r'caption-text">([^<]+)<', text)
    known = ["Start", "Course", "Papers", "How to", "Reference", "Names"]
    assert parts == [p for p in known if p in parts] and len(parts) >= 5
    assert "papers/xbench/index.html" in text


def browser():
    return next(
        filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
    )


WIDTH = """<script>addEventListener('load', () => {
  const page = document.documentElement, wide = [];
  for (const one of document.querySelectorAll('.bd-article *'))
    if (one.getBoundingClientRect().right > innerWidth + 1 && !one.closest(
        'pre, table, div.math, div.api, .cell_output, math, svg')) wide.push(one.tagName);
  document.title = 'measured ' + page.scrollWidth + ' ' + innerWidth + ' ' + wide.slice(0, 5);
});</script>"""


@pytest.mark.skipif(browser() is None, reason="no Chromium on this machine")
@pytest.mark.parametrize(
    "name", ["index", "results", "papers/xbench/index", "library/1_metrics/curve"]
)
def test_a_page_fits_a_telephone(built, name, tmp_path):
    "The page is as wide as the window of 390 pixels: only tables, code and formulas scroll."
    page = built / f"{name}.html"
    probe = page.with_name(f"probe_{page.name}")
    probe.write_text(page.read_text(encoding="utf-8").replace("</body>", WIDTH + "</body>"))
    call = [browser(), "--headless", "--no-sandbox", "--disable-gpu", "--window-size=390,844"]
    call += [f"--user-data-dir={tmp_path}", "--virtual-time-budget=8000", "--dump-dom"]
    done = subprocess.run([*call, probe.as_uri()], capture_output=True, text=True, timeout=180)
    probe.unlink()
    told = re.search(r"<title>measured (\d+) (\d+) ([^<]*)</title>", done.stdout)
    assert told, done.stderr[-500:]
    assert int(told[1]) <= int(told[2]) + 1, f"{told[1]} wide in a window of {told[2]}: {told[3]}"
