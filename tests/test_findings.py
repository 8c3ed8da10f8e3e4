"What a figure says and whether it is true; published beside ours; both in the book and in verify."

import itertools
import json
import shutil
from decimal import ROUND_HALF_UP, Decimal
from types import SimpleNamespace

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from routercompanion.core import CompanionError, UnknownNameError, project_root, write_json
from routercompanion.reading import FileError
from routercompanion.report import figures, styling, tables
from routercompanion.report.styling import FULL, HALF, FigureError, FindingError, save_figure
from routercompanion.reproduce import book, checks, store

TITLE = "Inside a task the probe beats the logits; on new tasks the logits beat the probe"
SAY = {
    "title": TITLE,
    "subtitle": "Within-task AUROC (%), 4,200 queries, 95% intervals over queries",
    "caption": "Look at the third row. Invented numbers.",
    "alt": "Dots with whiskers: “probe” right of “logits” in the first panel, left in the second.",
}


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def line_figure(width=HALF, height=1.8, **legend):
    with styling.style():
        fig, ax = plt.subplots(figsize=(width, height))
        ax.plot([0, 1], [0, 1], label="a line")
        ax.set(title="a panel", xlabel="x", ylabel="y")
        if legend:
            fig.legend(**legend)
    return fig


# ---------------------------------------------------------------- the finding


def test_a_title_that_no_longer_holds_writes_nothing(tmp_path):
    with pytest.raises(FindingError) as said:
        save_figure(line_figure(), "xbench_table1", tmp_path, **SAY, holds=np.bool_(False))
    for part in ("xbench_table1", TITLE, "no longer holds", "write the title anew"):
        assert part in str(said.value)
    assert isinstance(said.value, CompanionError) and not list(tmp_path.iterdir())


def test_on_made_up_queries_the_subtitle_stands_in_its_place(tmp_path):
    fig = line_figure()
    *_, path = save_figure(fig, "f", tmp_path, **SAY, holds=False, strict=False)
    head = [t for t in fig.texts if str(t.get_gid()).startswith("finding")]
    assert [t.get_text().replace("\n", " ") for t in head if t.get_text()] == [SAY["subtitle"]]
    said = json.loads(path.read_text())
    assert said == {**SAY, "title": SAY["subtitle"], "subtitle": "", "holds": False}


@pytest.mark.parametrize("holds", [None, 1, "yes", pd.Series([True]), np.array([True, True])])
def test_holds_is_one_truth_value(holds, tmp_path):
    with pytest.raises(FigureError, match="compute True or False from its table"):
        save_figure(line_figure(), "f", tmp_path, **SAY, holds=holds)


@pytest.mark.parametrize("name", SAY)
@pytest.mark.parametrize("text", ["", "  \n", None, 3])
def test_every_text_is_needed(name, text, tmp_path):
    with pytest.raises(FigureError, match=f"'f' has no {name}"):
        save_figure(line_figure(), "f", tmp_path, **SAY | {name: text})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", SAY)
def test_no_text_may_be_forgotten(name, tmp_path):
    with pytest.raises(TypeError, match=name):
        save_figure(line_figure(), "f", tmp_path, **{k: v for k, v in SAY.items() if k != name})
    with pytest.raises(TypeError):
        save_figure(line_figure(), "f", tmp_path)


def test_a_text_of_control_characters_is_refused(tmp_path):
    with pytest.raises(FigureError, match="alt of 'f' holds a character"):
        save_figure(line_figure(), "f", tmp_path, **SAY | {"alt": "a \x00 b"})


@pytest.mark.parametrize("width", [3.4, 7.2, 9.6, 5.4])
def test_two_widths_only(width, tmp_path):
    with pytest.raises(
        FigureError, match=rf"'f' is {width:g} inches wide.*HALF \(3.5\) or FULL \(7.0\)"
    ):
        save_figure(line_figure(width), "f", tmp_path, **SAY)
    assert styling.WIDTHS == (3.5, 7.0) and styling.SMALLEST_TEXT == 7


def test_small_text_is_named_wherever_it_is(tmp_path):
    def label(fig, where):
        ax = fig.axes[0]
        return {
            "tick": lambda: ax.tick_params(labelsize=6),
            "legend": lambda: fig.legend(fontsize=5),
            "note": lambda: ax.text(0, 0, "tiny", fontsize=6.9),
            "inset": lambda: ax.inset_axes([0, 0, 0.3, 0.3]).set_xlabel("inner", fontsize=4),
        }[where]()

    for where, text in (
        ("tick", "0.2"),
        ("legend", "a line"),
        ("note", "tiny"),
        ("inset", "inner"),
    ):
        fig = line_figure()
        label(fig, where)
        with pytest.raises(FigureError, match=f"{text}.* of 'f' has .* points. Give it at least 7"):
            save_figure(fig, "f", tmp_path, **SAY)


def test_hidden_and_empty_text_may_be_small(tmp_path):
    fig = line_figure()
    fig.axes[0].text(0, 0, "hidden", fontsize=3).set_visible(False)
    fig.axes[0].text(0, 0, " ", fontsize=3)
    fig.axes[0].text(0, 0, "seven", fontsize=7)
    assert len(save_figure(fig, "f", tmp_path, **SAY)) == 3


def test_a_figure_has_one_title(tmp_path):
    fig = line_figure()
    fig.suptitle("mine")
    with pytest.raises(FigureError, match="title of its own \\('mine'\\)"):
        save_figure(fig, "f", tmp_path, **SAY)


# ---------------------------------------------------------------- where it stands

LEGENDS = {
    "no legend": {},
    **{
        place: {"loc": f"outside {place}"}
        for place in ("upper right", "upper left", "right upper", "lower center", "left center")
    },
}


def overlap(a, b):
    wide, high = min(a.x1, b.x1) - max(a.x0, b.x0), min(a.y1, b.y1) - max(a.y0, b.y0)
    return wide > 1 and high > 1


@pytest.mark.parametrize("width", [HALF, FULL])
@pytest.mark.parametrize("legend", LEGENDS)
def test_title_and_subtitle_lie_on_nothing_and_leave_nothing(width, legend, tmp_path):
    fig = line_figure(width, **LEGENDS[legend])
    save_figure(fig, "f", tmp_path, **SAY)
    fig.canvas.draw()
    head = {str(t.get_gid()): t.get_window_extent() for t in fig.texts}
    title, subtitle = head["finding-title"], head["finding-subtitle"]
    ax = fig.axes[0]
    parts = [ax.get_tightbbox(), ax.title.get_window_extent(), ax.xaxis.label.get_window_extent()]
    parts += [one.get_window_extent() for one in fig.legends]
    edges = fig.bbox
    for box in (title, subtitle, *parts):
        assert (
            edges.x0 <= box.x0
            and box.x1 <= edges.x1 + 1
            and edges.y0 - 1 <= box.y0
            and box.y1 <= edges.y1
        )
    for a, b in itertools.combinations((title, subtitle, *parts[1:]), 2):
        assert not overlap(a, b)
    assert title.x0 == pytest.approx(subtitle.x0, abs=2) and title.y0 > subtitle.y1 - 1
    assert ax.get_position().width > 0.4 and ax.get_position().height * fig.get_figheight() > 0.4
    assert fig.get_figwidth() == width


def test_the_title_is_wrapped_bold_and_left_and_the_subtitle_grey(tmp_path):
    fig = line_figure(HALF)
    save_figure(fig, "f", tmp_path, **SAY)
    title, subtitle = (
        [t for t in fig.texts if t.get_gid() == f"finding-{n}"][0] for n in ("title", "subtitle")
    )
    assert title.get_text().split() == TITLE.split() and "\n" in title.get_text()
    assert 9 <= title.get_fontsize() <= 10 and 7 <= subtitle.get_fontsize() <= 8
    assert title.get_fontweight() == "bold" and title.get_ha() == "left"
    red, green, blue = mpl.colors.to_rgb(subtitle.get_color())
    assert red == green == blue and 0.2 < red < 0.5


def test_saving_twice_gives_the_same_bytes_and_size(tmp_path):
    fig = line_figure(loc="outside upper right")
    first = [p.read_bytes() for p in save_figure(fig, "f", tmp_path, **SAY)]
    size = fig.get_size_inches().tolist()
    assert [p.read_bytes() for p in save_figure(fig, "f", tmp_path, **SAY)] == first
    save_figure(fig, "g", tmp_path, **SAY | {"title": "Short"})
    assert fig.get_figheight() < size[1]
    assert [p.read_bytes() for p in save_figure(fig, "f", tmp_path, **SAY)] == first
    assert len([t for t in fig.texts if str(t.get_gid()).startswith("finding")]) == 2


def test_axes_that_were_placed_by_hand_stay_below_the_title(tmp_path):
    with styling.style():
        fig = plt.figure(figsize=(HALF, 2), layout="none")
    ax = fig.add_axes([0.2, 0.2, 0.7, 0.7])
    ax.set_title("by hand", fontsize=8)
    fig.text(0.5, 0.98, "a note", va="top", fontsize=8)
    before = ax.get_position().height * 2
    save_figure(fig, "f", tmp_path, **SAY)
    assert ax.get_position().height * fig.get_figheight() == pytest.approx(before)
    head = min(
        t.get_window_extent().y0 for t in fig.texts if str(t.get_gid()).startswith("finding")
    )
    assert ax.get_tightbbox().y1 < head
    assert [t.get_window_extent().y1 < head for t in fig.texts if t.get_text() == "a note"] == [
        True
    ]


def test_something_that_reaches_into_the_title_is_refused(tmp_path):
    fig = line_figure()
    fig.axes[0].text(0.5, 3, "far above", fontsize=8)
    with pytest.raises(FigureError, match="reaches into its title"):
        fig.axes[0].texts[0].set_in_layout(False)
        fig.axes[0].set_position([0.1, 0.1, 0.8, 1.2])
        save_figure(fig, "f", tmp_path, **SAY)


# ---------------------------------------------------------------- what is stored


def test_alt_text_is_in_both_pictures_and_beside_them(tmp_path):
    png, svg, path = save_figure(line_figure(), "f", tmp_path, **SAY)
    assert [p.name for p in (png, svg, path)] == ["f.png", "f.svg", "f.caption.json"]
    with Image.open(png) as picture:
        assert picture.info["Description"] == SAY["alt"] and picture.width == 700
    assert f"<title>{SAY['alt']}</title>" in svg.read_text(encoding="utf-8")
    text = path.read_text(encoding="utf-8")
    assert json.loads(text) == {**SAY, "holds": True} == styling.load_caption(path)
    assert list(json.loads(text)) == sorted(json.loads(text)) and text.endswith("}\n")


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "{",
        '{"alt": "a"}',
        json.dumps({**SAY, "holds": 1}),
        json.dumps({**SAY, "holds": True, "more": 1}),
    ],
)
def test_a_damaged_caption_is_named(text, tmp_path):
    path = tmp_path / "f.caption.json"
    path.write_text(text)
    with pytest.raises(FileError, match="f.caption.json"):
        styling.load_caption(path)


def test_a_caption_belongs_to_the_item_of_its_picture():
    files = dict.fromkeys(("a.b.csv", "a.b.png", "a.b.caption.json"), "0" * 64)
    entry = {"notebook": "n.ipynb", "key": "0" * 64, "files": files, "inputs": {}}
    made = json.loads(store.build_manifest({"step": entry}, "smoke"))["items"]
    assert {name: set(item["files"]) for name, item in made.items()} == {"a.b": set(files)}


class OneItem:
    "The least of a workspace that the page of results reads."

    profile = "smoke"

    def __init__(self, folder):
        self.figures = folder

    def manifest(self):
        files = {p.name: "0" for p in sorted(self.figures.iterdir())}
        return {"items": {"f": {"notebook": "n.ipynb", "inputs": {}, "files": files}}}


def test_the_book_shows_alt_text_and_caption(tmp_path):
    said = {**SAY, "caption": "Look <b>left</b>", "alt": 'a "line" & more'}
    save_figure(line_figure(), "f", tmp_path, **said)
    page = book.results_page(book.shelf_of(OneItem(tmp_path)))
    picture = page.index('alt="a &quot;line&quot; &amp; more"')
    assert page.index("Look &lt;b&gt;left&lt;/b&gt;") > picture and "<b>" not in page
    assert ">f.caption.json</a>" in page
    (tmp_path / "f.caption.json").unlink()
    assert 'alt="f"' in book.results_page(book.shelf_of(OneItem(tmp_path))), (
        "older pictures keep their name"
    )


def test_the_readme_shows_them_too(tmp_path):
    import nbformat

    save_figure(line_figure(), "f", tmp_path / "figures", **SAY)
    cells = [
        "# T",
        "Words.\n\n![by hand](figures/f.png)\n\nAfter.",
        "```\n![by hand](figures/f.png)\n```",
    ]
    nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(c) for c in cells])
    (tmp_path / "nbs").mkdir()
    nbformat.write(nb, tmp_path / "nbs/index.ipynb")
    text = book.make_readme(tmp_path)
    assert f"![{SAY['alt']}](figures/f.png)\n\n*{SAY['caption']}*\n\nAfter." in text
    assert text.count("by hand") == 1, "code stays as it is"
    assert (
        book.with_captions("![x](https://example.org/f.png)", tmp_path)
        == "![x](https://example.org/f.png)"
    )


CHANGES = {
    "identical": {},
    "overlap": {"caption": "Look at the 3rd row: 1.3 [0.2, 2.4]"},
    "changed": {"caption": "Look at the 3rd column: 1.2 [0.3, 2.1]"},
}


@pytest.mark.parametrize("verdict", CHANGES)
def test_verify_compares_what_figures_say(verdict, tmp_path):
    said = {**SAY, "caption": "Look at the 3rd row: 1.2 [0.3, 2.1]", "holds": True}
    write_json(tmp_path / "old/f.caption.json", said)
    write_json(tmp_path / "new/f.caption.json", said | CHANGES[verdict])
    found = checks.compare_figures(tmp_path / "old", tmp_path / "new")
    assert found.table.tolist() == ["f.caption.json"] and found.verdict.tolist() == [verdict]
    assert ("caption:" in found.finding[0]) == (verdict == "changed")


def test_verify_sees_a_finding_that_fell(tmp_path):
    write_json(tmp_path / "old/f.caption.json", {**SAY, "holds": True})
    write_json(tmp_path / "new/f.caption.json", {**SAY, "holds": False})
    found = checks.compare_figures(tmp_path / "old", tmp_path / "new").iloc[0]
    assert found.verdict == "changed" and found.finding == "holds: False instead of True"
    (tmp_path / "new/f.caption.json").write_text("{")
    assert checks.compare_figures(tmp_path / "old", tmp_path / "new").verdict[0] == "unreadable"
    shutil.rmtree(tmp_path / "new")
    assert checks.compare_figures(tmp_path / "old", tmp_path / "new").verdict[0] == "missing"


# ---------------------------------------------------------------- highlight, labels, axes


def curve(top, axis="budget", n=50):
    cost = np.linspace(0, 1, n) if axis == "call_rate" else np.linspace(1, 70, n)
    return SimpleNamespace(
        cost=cost, quality=0.3 + (top - 0.3) * np.linspace(0, 1, n) ** 0.3, axis=axis
    )


def bent(height, n=51):
    "A curve that ends where all others end."
    x = np.linspace(0, 1, n)
    return SimpleNamespace(
        cost=1 + 69 * x, quality=0.3 + 0.3 * x + height * x * (1 - x), axis="budget"
    )


NAMES = ("K-NN", "MLP", "CSCR")


def drawn(how, highlight):
    frame = pd.DataFrame(
        [
            dict(row=r, column="c", metric="AUROC", value=v, low=v - 1, high=v + 1)
            for r, v in zip((*NAMES, "Random"), (60, 61, 62, 50))
        ]
    )
    frames = {"Random": curve(0.4), "Oracle": curve(0.9)}
    evaluation = SimpleNamespace(
        costs=np.array([1, 7]), curves={n: curve(0.6) for n in NAMES} | frames, bands={}
    )
    bins = {"predicted": [0.2, 0.8], "observed": [0.3, 0.7], "count": [9, 9]}
    rates = {n: curve(0.6, "call_rate") for n in NAMES}
    best = curve(0.9, "call_rate")
    return {
        "deferral": lambda: figures.plot_deferral_curves(evaluation.curves, highlight=highlight),
        "call rate": lambda: figures.plot_call_rate_curves(rates, oracle=best, highlight=highlight),
        "rates": lambda: figures.plot_routing_rates(rates, oracle=best, highlight=highlight),
        "pool": lambda: figures.plot_pool_evaluation(evaluation, highlight=highlight),
        "lines": lambda: figures.plot_lines(
            {n: ([1, 2], [3, i]) for i, n in enumerate(NAMES)},
            references={"Random": 1.0},
            highlight=highlight,
        ),
        "reliability": lambda: figures.plot_reliability(
            dict.fromkeys(NAMES, bins), highlight=highlight
        ),
        "intervals": lambda: figures.plot_intervals(frame, highlight=highlight).axes[0],
    }[how]()


HOWS = ("deferral", "call rate", "rates", "pool", "lines", "reliability", "intervals")


def colours(ax):
    return {mpl.colors.to_hex(line.get_color()).upper() for line in ax.lines}


@pytest.mark.parametrize("how", HOWS)
def test_highlighted_lines_keep_their_colour_and_the_rest_is_grey_with_its_label(how):
    own = {n: styling.looks([n])[n]["color"] for n in NAMES}
    assert set(own.values()) <= colours(drawn(how, None)), "no highlight: all in their colours"
    ax = drawn(how, "CSCR")
    assert own["CSCR"] in colours(ax) and styling.BEHIND in colours(ax)
    assert not {own["K-NN"], own["MLP"]} & colours(ax)
    ax.figure.canvas.draw()
    said = {t.get_text() for t in (*ax.texts, *ax.get_yticklabels())}
    assert set(NAMES) <= said, "grey lines have labels too"
    both = colours(drawn(how, ["CSCR", "MLP"]))
    assert {own["CSCR"], own["MLP"]} <= both and own["K-NN"] not in both
    with pytest.raises(UnknownNameError, match="CSRC"):
        drawn(how, "CSRC")


@pytest.mark.parametrize("how", ["deferral", "call rate", "rates", "pool"])
def test_random_is_dotted_grey_and_the_oracle_dashed_black(how):
    ax = drawn(how, "CSCR")
    styles = {
        (mpl.colors.to_hex(x.get_color()).upper(), x._dash_pattern != (0, None)) for x in ax.lines
    }
    assert {("#767676", True), ("#000000", True)} <= styles
    assert styling.looks(["Random"])["Random"]["linestyle"] == styling.DOTS
    for oracle in ("Oracle", "GainOracle"):
        assert styling.looks([oracle])[oracle] == {"color": "#000000", "linestyle": styling.DASH}
    assert {"Random"} <= {t.get_text() for t in ax.texts}


def leaders(ax):
    "Thin strokes that join a label to the end of its line."
    return [
        a
        for a in ax.texts
        if getattr(a, "arrow_patch", None) is not None and a.arrow_patch.get_linewidth() < 0.5
    ]


def test_no_fan_of_leaders_where_all_lines_end_in_one_point():
    heights = {"K-NN": 0.9, "MLP": 0.7, "CSCR": 0.5, "MF": 0.3, "Random": 0.0, "Oracle": 1.2}
    ax = figures.plot_deferral_curves({n: bent(h) for n, h in heights.items()})
    assert not leaders(ax)
    places = {t.get_text(): t.get_position()[1] for t in ax.texts if t.get_text()}
    assert sorted(places, key=places.get) == sorted(heights, key=heights.get), (
        "in the order of mean heights"
    )
    apart = {
        n: curve(0.4 + 0.1 * i) for i, n in enumerate(("Random", "K-NN", "MLP", "CSCR", "Oracle"))
    }
    assert len(leaders(figures.plot_deferral_curves(apart))) == 5, (
        "lines that end apart keep their leaders"
    )


def test_curves_of_two_axes_do_not_share_a_picture():
    frames = {"Random": curve(0.4), "Oracle": curve(0.9)}
    mixed = {"K-NN": curve(0.6), "MLP": curve(0.5, "realised"), **frames}
    with pytest.raises(FigureError, match="'MLP' has the axis realised, not budget"):
        figures.plot_deferral_curves(mixed)
    with pytest.raises(FigureError, match="'K-NN' has the axis budget, not call_rate"):
        figures.plot_call_rate_curves({"K-NN": curve(0.6)}, oracle=curve(0.9, "call_rate"))


def test_rows_that_are_no_routers_have_one_colour():
    rows = [f"width {w}" for w in (16, 64, 256)] + ["K-NN"]
    frame = pd.DataFrame(
        [dict(row=r, column="c", metric="AUROC", value=60, low=59, high=61) for r in rows]
    )
    ax = figures.plot_intervals(frame).axes[0]
    dots = [line.get_color() for line in ax.lines if line.get_marker() == "o"]
    assert len(set(dots[:3])) == 1 and dots[3] == styling.looks(["K-NN"])["K-NN"]["color"]


@pytest.mark.parametrize("how", HOWS)
def test_default_figures_can_be_saved(how, tmp_path):
    assert len(save_figure(drawn(how, "CSCR").figure, "f", tmp_path, **SAY)) == 3


# ---------------------------------------------------------------- the verdict

SAME, INSIDE, SIGN = "equal to the digits printed", "inside the interval", "sign"
numbers = st.floats(-200, 200, allow_nan=False)


@given(value=numbers, digits=st.integers(0, 4), shift=st.integers(-2, 2))
@settings(max_examples=200, deadline=None)
def test_reproduced_means_that_it_rounds_to_what_is_printed(value, digits, shift):
    unit = Decimal(1).scaleb(-digits)
    exact = Decimal(value)
    printed = (exact / unit).to_integral_value(ROUND_HALF_UP) * unit + shift * unit
    if abs(abs(exact - printed) - unit / 2) < Decimal("1e-6") * unit:
        return  # on the fence
    said = tables.verdict(str(printed), value, np.nan, np.nan, SAME)
    assert said == ("reproduced" if shift == 0 else "disagrees")


@given(published=numbers, value=numbers, half=st.floats(0, 50), other=st.floats(0, 50))
@settings(max_examples=200, deadline=None)
def test_inside_and_sign_by_brute_force(published, value, half, other):
    low, high = value - half, value + other
    grid = np.r_[np.linspace(low, high, 7), [low, high]]
    inside = min(grid) <= published <= max(grid)
    assert tables.verdict(published, value, low, high, INSIDE) == (
        "agrees" if inside else "disagrees"
    )
    if all(x > 0 for x in grid):
        expected = "agrees" if published > 0 else "disagrees" if published < 0 else "cannot tell"
    elif all(x < 0 for x in grid):
        expected = "agrees" if published < 0 else "disagrees" if published > 0 else "cannot tell"
    else:
        expected = "cannot tell"
    assert tables.verdict(published, value, low, high, SIGN) == expected


@pytest.mark.parametrize("rule", tables.RULES)
def test_what_is_missing_is_not_judged(rule):
    nan = np.nan
    assert tables.verdict(nan, 1.0, 0.0, 2.0, rule) == ""
    assert tables.verdict(1.0, nan, nan, nan, rule) == ("" if rule == "none" else "not tested")
    if rule in (INSIDE, SIGN):
        assert tables.verdict(1.0, 1.0, nan, nan, rule) == "cannot tell"
        with pytest.raises(CompanionError, match="upside down"):
            tables.verdict(1.0, 1.0, 2.0, 0.0, rule)
    with pytest.raises(UnknownNameError, match="Known: equal"):
        tables.verdict(1.0, 1.0, 0.0, 2.0, rule + " or so")
    assert set(tables.RULES.values()) <= set(tables.STATUSES)


@pytest.mark.parametrize(
    "value, digits", [(53.91, 2), ("0.500", 3), (53.0, 0), ("53", 0), (1e-05, 5), (2.87, 2)]
)
def test_printed_digits(value, digits):
    assert tables.printed_digits(value) == digits


# ---------------------------------------------------------------- one row per method

PUBLISHED = pd.DataFrame(
    [
        dict(row=r, column=c, metric="AUROC", value=v, unit="percent")
        for r, values in {
            "Dirichlet": (72.02, 68.7),
            "Final": (61.97, 53.91),
            "GPT judge": (80.0, 81.5),
        }.items()
        for c, v in zip(("In", "Out"), values)
    ]
)
OURS = pd.DataFrame(
    [
        dict(row=r, column=c, metric=m, value=v, low=v - 0.02, high=v + 0.02, n=1000)
        for r, v in {"DirichletProbe": 0.7, "FinalLayerProbe": 0.52, "Random": 0.5}.items()
        for c in ("own", "other")
        for m in ("AUROC", "APGR")
    ]
)
HEADS = dict(
    models_published="Llama-3-8B and GPT-5", models_ours="SmolLM2-135M and Qwen2.5-Coder-0.5B"
)
ROWS = {"Dirichlet": "DirichletProbe", "Final": "FinalLayerProbe"}
COLUMNS = {("In", "AUROC"): "own", ("Out", "AUROC"): "other"}


def made(ours=OURS, published=PUBLISHED, **options):
    given = dict(rows=ROWS, columns=COLUMNS, rule="none", unit="percent", **HEADS)
    return tables.beside(ours, published, **given | options)


def test_one_row_per_method_and_every_number_where_it_belongs():
    table = made(rule=INSIDE)
    assert (
        table["row"].tolist() == ["Dirichlet", "Final", "GPT judge", "Random"]
        and table["row"].is_unique
    )
    for label, column in (("In", "own"), ("Out", "other")):
        for line in table.to_dict("records"):
            theirs = PUBLISHED[
                (PUBLISHED.row == line["row"]) & (PUBLISHED.column == label)
            ].value.tolist()
            own = ROWS.get(line["row"], line["row"])
            mine = OURS[(OURS.row == own) & (OURS.column == column) & (OURS.metric == "AUROC")]
            assert [line[f"{label}_published"]] == (theirs or [pytest.approx(np.nan, nan_ok=True)])
            got = [line[f"{label}_{part}"] for part in ("ours", "ours_low", "ours_high")]
            want = (
                mine[["value", "low", "high"]].to_numpy().ravel() * 100
                if len(mine)
                else [np.nan] * 3
            )
            assert got == pytest.approx(list(want), nan_ok=True)
    assert table["In_verdict"].tolist() == ["disagrees", "disagrees", "not tested", ""]
    assert table["Out_verdict"].tolist() == ["agrees", "agrees", "not tested", ""]
    assert table["status"].tolist() == ["same data", "same data", "not possible here", "same data"]
    assert table["In_n"].tolist()[:2] == [1000, 1000] and set(table["claim"]) == {""}


def test_status_and_claims_are_given_by_row():
    table = made(status={"GPT judge": "analogue"}, claims={"Final": "xbench-3"})
    assert dict(zip(table.row, table.status)) == dict.fromkeys(table.row, "analogue")
    assert table.claim.tolist() == ["", "xbench-3", "", ""]
    assert made(status="same data").status.tolist()[0] == "same data"
    for wrong in (
        dict(status={"nobody": "analogue"}),
        dict(claims={"nobody": "x"}),
        dict(status="similar"),
        dict(status={"Final": "similar"}),
    ):
        with pytest.raises(UnknownNameError, match="Known"):
            made(**wrong)


def test_a_column_may_have_another_metric_a_rule_of_its_own_or_nothing_of_ours():
    columns = {("In", "AUROC"): ("own", "APGR"), ("Out", "AUROC"): None}
    table = made(columns=columns, rule={("In", "AUROC"): SAME, ("Out", "AUROC"): INSIDE})
    assert (
        table["In_ours"].tolist()[0] == pytest.approx(70) and table["In_verdict"][0] == "disagrees"
    )
    assert table["Out_ours"].isna().all() and table["Out_verdict"].tolist() == [
        "not tested"
    ] * 3 + [""]
    assert "Out_n" not in table


def test_digits_printed_are_those_of_the_column_and_units_are_turned():
    printed = PUBLISHED.assign(value=[0.5, 0.55, 0.515, 0.5, 0.4, 0.4], unit="fraction")
    mine = OURS.assign(value=OURS.value.map({0.7: 0.5004, 0.52: 0.5154, 0.5: 0.5}))
    mine = mine.assign(low=mine.value - 0.01, high=mine.value + 0.01)
    table = made(mine, printed, rule=SAME)
    assert table["In_published"].tolist()[:2] == [50.0, 51.5], "percent, without 51.49999"
    assert table["In_verdict"].tolist()[:2] == ["reproduced", "reproduced"]
    worse = made(mine.assign(value=mine.value + 0.001), printed, rule=SAME)
    assert worse["In_verdict"][0] == "disagrees", "0.5014 is not 0.500, although it is 0.5"
    same = made(mine, printed, rule=SAME, unit="fraction")
    assert (
        same["In_published"].tolist()[:2] == [0.5, 0.515] and same["In_verdict"][0] == "reproduced"
    )


def wrong(message, error=CompanionError, **options):
    with pytest.raises(error, match=message):
        made(**options)


def test_what_beside_refuses():
    wrong("Dirichlett", UnknownNameError, rows={"Dirichlett": "DirichletProbe"})
    wrong("row of ours", UnknownNameError, rows={"Dirichlet": "Probe"})
    wrong(
        "column and metric of the published values",
        UnknownNameError,
        columns={("Inn", "AUROC"): "own"},
    )
    wrong("column and metric of ours", UnknownNameError, columns={("In", "AUROC"): "mine"})
    wrong("close", UnknownNameError, rule="close")
    wrong("is in usd, the table in percent", ours=OURS.assign(unit="usd"))
    wrong("is in usd, the table in percent", published=PUBLISHED.assign(unit="usd"))
    wrong("two values for row 'Dirichlet", published=pd.concat([PUBLISHED, PUBLISHED[:1]]))
    wrong("low, high", ours=OURS.drop(columns=["low", "high"]))
    wrong("needs columns", columns={})
    ours = OURS.assign(row=OURS.row.replace("Random", "GPT judge"))
    wrong("'GPT judge' is published and ours", ours=ours)
    assert made(ours, rows={**ROWS, "GPT judge": "GPT judge"})["row"].tolist() == [
        "Dirichlet",
        "Final",
        "GPT judge",
    ]


def test_the_files_name_models_and_mapping(tmp_path):
    table = made(rule=INSIDE, claims={"Final": "xbench-3"})
    paths = [
        tables.write_beside(table, "t", tmp_path / run, caption="Probes | mine") for run in "ab"
    ]
    assert [p.read_bytes() for p in paths[0]] == [p.read_bytes() for p in paths[1]]
    csv, md = paths[0]
    back = pd.read_csv(csv, float_precision="round_trip")
    assert back["In_ours"].tolist()[:2] == table["In_ours"].tolist()[:2]
    assert set(back["models_published"]) == {HEADS["models_published"]} and set(
        back["models_ours"]
    ) == {HEADS["models_ours"]}
    text = md.read_text()
    assert (
        text.splitlines()[2]
        == "published: Llama-3-8B and GPT-5 | ours: SmolLM2-135M and Qwen2.5-Coder-0.5B"
    )
    for part in (
        "| In: published | In: ours [95%] (n = 1,000) | In: verdict |",
        "| Dirichlet | 72.02 | 70.00 [68.00, 72.00] | disagrees |",
        "| GPT judge | 80.00 | – | not tested |",
        "| Random | – | 50.00 [48.00, 52.00] |",
        "In = own; Out = other",
        "Dirichlet = DirichletProbe; Final = FinalLayerProbe",
        "by the rule: inside the interval",
        "| xbench-3 |",
        "AUROC ↑ (percent)",
    ):
        assert part in text, part
    none = tables.write_beside(made(), "n", tmp_path, caption="c")[1].read_text()
    assert "verdict |" not in none and "claim" not in none and "not to be subtracted" in none
    assert checks.interval_columns(back)[0] == ("In_ours", "In_ours_low", "In_ours_high"), (
        "verify knows the intervals"
    )


def test_files_that_cannot_be_written(tmp_path):
    bare = pd.DataFrame(made().to_dict("list"))
    for name in ("models_ours", "models_published", "mapping"):
        given = {k: "x" for k in ("models_ours", "models_published", "mapping") if k != name}
        with pytest.raises(CompanionError, match=f"does not say its {name}"):
            tables.write_beside(bare, "t", tmp_path, caption="c", **given)
    with pytest.raises(CompanionError, match="no rows"):
        tables.write_beside(made().head(0), "t", tmp_path, caption="c")
    with pytest.raises(CompanionError, match="no table of `beside`"):
        tables.write_beside(OURS, "t", tmp_path, caption="c", **HEADS, mapping="m")
    with pytest.raises(CompanionError, match="lacks In_verdict"):
        tables.beside_columns(made().drop(columns="In_verdict"))
    assert not list(tmp_path.iterdir())


def test_committed_tables_of_a_paper_stand_beside_its_published_ones():
    ours = pd.read_csv(project_root() / "figures/embedded/xbench_table3_intervals.csv")
    column = ours[ours.metric == "within-task AUROC"]["column"].iloc[0]
    table = tables.beside(
        ours,
        tables.load_published("xbench", "Table 3"),
        rows={"Final Layer": "ProbeFinal", "Mean Pool": "ProbeMean", "Dirichlet": "ProbeDirichlet"},
        columns={("Average", "AUROC"): (column, "within-task AUROC")},
        rule="none",
        unit="percent",
        **HEADS,
    )
    assert table["Average_published"].tolist()[:3] == [53.91, 68.04, 68.7]
    assert table["row"].tolist()[3] == "Random" and set(table["status"]) == {"analogue"}


# ---------------------------------------------------------------- the picture of it


def test_published_values_are_hollow_and_on_a_scale_of_their_own(tmp_path):
    fig = figures.plot_beside(made(), highlight="Dirichlet", random=50)
    assert len(fig.axes) == 4 and fig.get_figwidth() == FULL
    left, right = fig.axes[:2]
    hollow = {line.get_ydata()[0]: line for line in left.lines if line.get_marker() == "D"}
    assert [hollow[y].get_xdata()[0] for y in range(3)] == [72.02, 61.97, 80.0]
    assert {line.get_markerfacecolor() for line in hollow.values()} == {"white"}
    dots = {line.get_ydata()[0]: line for line in right.lines if line.get_marker() == "o"}
    assert dots[0].get_xdata()[0] == pytest.approx(70) and dots[0].get_markerfacecolor() != "white"
    spans = [x.get_xdata() for x in right.lines if list(x.get_ydata()) == [1, 1]]
    assert np.allclose(spans[0], [50, 54])
    for ax in fig.axes:
        assert 50 in [x.get_xdata()[0] for x in ax.lines if list(x.get_ydata()) == [0, 1]], (
            "Random in each panel"
        )
    assert (
        fig.axes[1].get_xlim() == fig.axes[3].get_xlim()
        and fig.axes[0].get_xlim() == fig.axes[2].get_xlim()
    )
    said = {t.get_text() for t in fig.legends[0].get_texts()}
    assert {
        f"published: {HEADS['models_published']}",
        f"ours: {HEADS['models_ours']} [95%]",
        "Random",
    } == said
    fig.canvas.draw()
    assert [t.get_text() for t in left.get_yticklabels()] == made()["row"].tolist()
    assert len(save_figure(fig, "f", tmp_path, **SAY)) == 3


def test_one_column_is_half_a_page_and_may_share_its_panel(tmp_path):
    fig = figures.plot_beside(made(), columns=["Out"], apart=False)
    assert len(fig.axes) == 1 and fig.get_figwidth() == HALF
    markers = [line.get_marker() for line in fig.axes[0].lines]
    assert markers.count("D") == 4 and markers.count("o") == 3
    save_figure(fig, "f", tmp_path, **SAY)
    save_figure(figures.plot_beside(made(), columns=["Out"]), "g", tmp_path, **SAY)


def test_what_plot_beside_refuses():
    with pytest.raises(CompanionError, match="no table of `beside`"):
        figures.plot_beside(OURS)
    with pytest.raises(UnknownNameError, match="Outt"):
        figures.plot_beside(made(), columns=["Outt"])
    three = {**COLUMNS, ("Average", "AUROC"): "own"}
    more = pd.concat([PUBLISHED, PUBLISHED[PUBLISHED.column == "In"].assign(column="Average")])
    with pytest.raises(FigureError, match="one or two columns, not 3"):
        figures.plot_beside(made(published=more, columns=three))


# ---------------------------------------------------------------- the number of comparisons


@pytest.mark.parametrize(
    "sizes, resamples, said",
    [
        ([12, 12], [10_000, 10_000], "all 12 comparisons of the family at once; 10,000 resamples."),
        (
            [3, 1_200],
            [500, 500],
            "all 3 to 1,200 comparisons of their families at once; 500 resamples.",
        ),
        ([1], [2_000], "One comparison; 2,000 resamples."),
        ([2, 2], [500, 1_000], "all 2 comparisons of the family at once; 500 to 1,000 resamples."),
    ],
)
def test_caption_of_family(sizes, resamples, said):
    frame = pd.DataFrame({"comparisons": sizes, "n_resamples": resamples})
    assert tables.caption_of_family(frame).endswith(said)


@pytest.mark.parametrize("value", [0, -3, 2.5, np.nan, np.inf])
def test_a_family_of_no_number_is_refused(value):
    for column in ("comparisons", "n_resamples"):
        frame = pd.DataFrame({"comparisons": [3.0], "n_resamples": [100.0]}).assign(
            **{column: [value]}
        )
        with pytest.raises(CompanionError, match="no number of comparisons or resamples"):
            tables.caption_of_family(frame)
    with pytest.raises(CompanionError, match="comparisons"):
        tables.caption_of_family(pd.DataFrame({"n_resamples": [1]}))
    with pytest.raises(CompanionError, match="no rows"):
        tables.caption_of_family(pd.DataFrame({"comparisons": [], "n_resamples": []}))
