"Figures and tables: legible at half a page, the same bytes every time, Random and an oracle always there, published numbers untouched."

import itertools
import os
import subprocess
import sys
from types import SimpleNamespace

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.text import Text

from routercompanion.metrics.tests import wilson_interval
from routercompanion.report import diagrams, figures, styling, tables
from routercompanion.core import CompanionError, UnknownNameError, file_hash


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def curve(strength, n=200, seed=0):
    "A toy curve: `strength` 0 is a coin, large values approach the gain oracle."
    rng = np.random.default_rng(seed)
    small, large = (rng.random(n) < 0.45) * 1.0, (rng.random(n) < 0.75) * 1.0
    gain = (large - small)[
        np.argsort(-(strength * (large - small) + rng.normal(size=n)), kind="stable")
    ]
    return SimpleNamespace(
        cost=np.arange(n + 1) / n,
        quality=small.mean() + np.r_[0, np.cumsum(gain)] / n,
        axis="call_rate",
    )


SHORT = {
    "ProbeDirichlet": "DirichletProbe",
    "ProbeMean": "MeanProbe",
    "ProbeFinal": "FinalLayerProbe",
}  # the papers' names of the same routers
ROUTERS = [
    n
    for n in styling.ROUTER_LOOK
    if n not in ("Random", "Oracle", "GainOracle", "LabelOracle", *SHORT)
]


def many_curves():
    return {n: curve(0.2 * i, seed=0) for i, n in enumerate(ROUTERS)}


def intervals(metric="AUROC", columns=("arithmetic", "knowledge", "general"), random=50.0):
    return pd.DataFrame(
        [
            dict(
                row=r,
                column=c,
                metric=metric,
                value=v,
                low=v - 2,
                high=v + 2,
                n=1000,
                unit="percent",
            )
            for c in columns
            for r, v in [
                *((r, 55.0 + 2 * i) for i, r in enumerate(ROUTERS)),
                ("Random", random),
                ("LabelOracle", 100.0),
            ]
        ]
    )


def reliability(slope):
    p = np.linspace(0.05, 0.95, 10)
    return {"predicted": p, "observed": 0.5 + slope * (p - 0.5), "count": np.full(10, 100)}


def layer_weights(k):
    return (w := np.exp(k * np.arange(31) / 30)) / w.sum()


def deferral(top, n=60):
    cost = np.linspace(1, 70, n)
    return SimpleNamespace(cost=cost, quality=0.3 + (top - 0.3) * (1 - np.exp(-cost / 12)))


def pool_curves():
    return {
        n: deferral(0.5 + 0.03 * i)
        for i, n in enumerate(["K-NN", "KMeans", "MLP", "MF", "SVM", "CSCR", "Heuristic"])
    }


def deferral_figure(**options):
    c = pool_curves()
    return figures.plot_deferral_curves(
        c,
        oracle=deferral(0.9),
        random=deferral(0.45),
        bands={"K-NN": (c["K-NN"].cost, c["K-NN"].quality - 0.02, c["K-NN"].quality + 0.02)},
        models=([1, 7, 70], [0.3, 0.4, 0.6]),
        **options,
    ).figure


FIGURES = {
    "deferral": deferral_figure,
    "deferral, log": lambda: deferral_figure(log=True, title="A pool"),
    "routing rates": lambda: (
        figures.plot_routing_rates(
            {"K-NN": curve(0.5), "MF": curve(0.2)},
            oracle=curve(1e6),
            small="Llama-2-7B",
            large="Llama-2-70B",
            title="A pair",
        ).figure
    ),
    "curves": lambda: figures.plot_call_rate_curves(many_curves(), oracle=curve(1e6)).figure,
    "curves with title": lambda: (
        figures.plot_call_rate_curves(
            {"mine": curve(0.4)}, oracle=curve(1e6), title="One router"
        ).figure
    ),
    "intervals": lambda: figures.plot_intervals(intervals()),
    "intervals, half a page": lambda: figures.plot_intervals(
        intervals(columns=("arithmetic", "general")), per_line=1
    ),
    "intervals, nine columns": lambda: figures.plot_intervals(
        intervals(columns=tuple(f"column {i}" for i in range(9)))
    ),
    "layers": lambda: (
        diagrams.plot_layer_weights(
            {
                n: layer_weights(k)
                for n, k in (
                    ("arithmetic", 0.3),
                    ("knowledge", 0.29),
                    ("general", 0.31),
                    ("mixed", 0.3),
                )
            }
        ).figure
    ),
    "reliability": lambda: (
        figures.plot_reliability(
            {n: reliability(0.5 + 0.02 * i) for i, n in enumerate(ROUTERS[:6])}
        ).figure
    ),
    "overview": diagrams.plot_pipeline_overview,
}


SAY = dict(
    title="A router that looks at the query beats the coin, and the oracle stays far away",
    subtitle="Accuracy (%), 200 invented queries, 95% intervals over queries",
    caption="Look at the left third. Invented numbers.",
    alt="Curves that rise from left to right, the oracle on top.",
)


def save(fig, folder, item="f", **options):
    return styling.save_figure(fig, item, folder, **SAY | options)


def visible_texts(fig):
    "(text, box in pixels) of all texts that are drawn: titles, axis labels, ticks inside the limits, labels, legends."
    fig.canvas.draw()
    ticks = {}
    for ax in fig.axes:
        for axis, limits in ((ax.xaxis, ax.get_xlim()), (ax.yaxis, ax.get_ylim())):
            for tick in axis.get_major_ticks():
                inside = (
                    ax.get_visible()
                    and ax.axison
                    and min(limits) - 1e-9 <= tick.get_loc() <= max(limits) + 1e-9
                )
                ticks[tick.label1], ticks[tick.label2] = inside, False
    hidden = [ax for ax in fig.axes if not ax.get_visible()]
    shown = [
        t
        for t in fig.findobj(Text)
        if t.get_visible() and t.get_text().strip() and ticks.get(t, True)
    ]
    return [(t, t.get_window_extent()) for t in shown if t.axes not in hidden]


@pytest.mark.parametrize("name", FIGURES)
@pytest.mark.parametrize("saved", [False, True], ids=["drawn", "saved"])
def test_legible_at_half_a_page(name, saved, tmp_path):
    with styling.style():
        fig = FIGURES[name]()
    if saved:
        save(fig, tmp_path)
    texts = visible_texts(fig)
    assert (
        len(texts) > 3
        and min(t.get_fontsize() for t, _ in texts if not str(t.get_gid()).startswith("finding"))
        >= 8
    )
    width, height = fig.canvas.get_width_height()
    for t, box in texts:
        assert -1 <= box.x0 and box.x1 <= width + 1 and -1 <= box.y0 and box.y1 <= height + 1, (
            f"{t.get_text()!r} leaves the figure"
        )
    for (a, p), (b, q) in itertools.combinations(texts, 2):
        wide, high = min(p.x1, q.x1) - max(p.x0, q.x0), min(p.y1, q.y1) - max(p.y0, q.y0)
        assert wide <= 1 or high <= 3, f"{a.get_text()!r} lies on {b.get_text()!r}"


def test_overlap_check_can_fail():
    fig, ax = plt.subplots()
    ax.text(0.5, 0.5, "one label"), ax.text(0.51, 0.5, "another label")
    (_, p), (_, q) = [(t, b) for t, b in visible_texts(fig) if "label" in t.get_text()]
    assert min(p.x1, q.x1) - max(p.x0, q.x0) > 1


@pytest.mark.parametrize("name", FIGURES)
def test_same_bytes_twice(name, tmp_path):
    hashes = [
        [file_hash(p) for p in save(FIGURES[name](), tmp_path / run, "figure")] for run in "ab"
    ]
    assert hashes[0] == hashes[1]


def test_same_bytes_in_another_process(tmp_path):
    code = (
        "import sys, numpy as np, matplotlib; matplotlib.use('Agg'); from routercompanion.report import diagrams, styling\n"
        "w = np.exp(np.arange(31) / 30); styling.save_figure(diagrams.plot_layer_weights({'mixed': w / w.sum(), 'other': np.full(31, 1 / 31)}).figure, 'f', sys.argv[1], title='t', subtitle='s', caption='c', alt='a')"
    )
    runs = [
        subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / seed)],
            env={**os.environ, "PYTHONHASHSEED": seed},
        )
        for seed in ("1", "2")
    ]
    assert all(r.returncode == 0 for r in runs)
    for kind in ("png", "svg", "caption.json"):
        assert file_hash(tmp_path / "1" / f"f.{kind}") == file_hash(tmp_path / "2" / f"f.{kind}")


def test_files_carry_no_date_or_program(tmp_path):
    png, svg, _ = save(FIGURES["layers"](), tmp_path)
    assert png.read_bytes().count(b"tEXt") == 1 and b"Software" not in png.read_bytes(), (
        "the alt text alone"
    )
    assert (
        "<dc:date>" not in svg.read_text()
        and "matplotlib" not in svg.read_text().lower().replace("matplotlib.axis", "")
    )


def test_failed_save_keeps_the_old_files(tmp_path, monkeypatch):
    paths = save(FIGURES["layers"](), tmp_path)
    old, fig = [file_hash(p) for p in paths], FIGURES["layers"]()

    def broken(path, format, **options):
        if format == "svg":
            raise OSError("No space left on device")
        path.write(b"half")

    monkeypatch.setattr(fig, "savefig", broken)
    with pytest.raises(OSError):
        save(fig, tmp_path, title="Another title")
    assert [file_hash(p) for p in paths] == old and sorted(p.name for p in tmp_path.iterdir()) == [
        "f.caption.json",
        "f.png",
        "f.svg",
    ]


def test_style_does_not_leak():
    before = dict(mpl.rcParams)
    FIGURES["curves"]()
    assert dict(mpl.rcParams) == before


def test_every_router_has_its_own_look():
    "Six colours in three line styles: the known routers have fourteen of them, and four are left for newcomers in the same figure."
    look = styling.looks(
        [
            *ROUTERS,
            "Random",
            "LabelOracle",
            "GainOracle",
            *(f"new {i}" for i in range(18 - len(ROUTERS))),
        ]
    )
    assert len({str(v) for v in look.values()}) == len(look) == 18 + 3
    assert len({str(v) for v in styling.looks([f"new {i}" for i in range(18)]).values()}) == 18
    assert all(
        styling.ROUTER_LOOK[short] == styling.ROUTER_LOOK[name] for short, name in SHORT.items()
    )


@given(st.lists(st.floats(-10, 10), min_size=1, max_size=12), st.floats(0.01, 2))
@settings(max_examples=100, deadline=None)
def test_spread_keeps_gap_and_order_and_moves_least(positions, gap):
    from sklearn.isotonic import IsotonicRegression

    got, order = styling.spread(positions, gap), np.argsort(positions, kind="stable")
    assert (np.diff(got[order]) >= gap - 1e-9).all()
    steps = gap * np.arange(len(positions))
    best = IsotonicRegression().fit_transform(steps, np.asarray(positions)[order] - steps) + steps
    np.testing.assert_allclose(got[order], best, atol=1e-8)


def test_random_is_the_straight_line_and_an_oracle_is_required():
    ax = figures.plot_call_rate_curves(
        {"DirichletProbe": curve(0.5)}, oracle=curve(1e6), regions=False
    )
    c = curve(0.5)
    lines = [line.get_xydata() for line in ax.lines]
    assert any(
        len(d) == 2 and np.allclose(d, [[0, 100 * c.quality[0]], [100, 100 * c.quality[-1]]])
        for d in lines
    )
    assert len(lines) == 3
    with pytest.raises(CompanionError, match="oracle"):
        figures.plot_call_rate_curves({"DirichletProbe": curve(0.5)})
    assert (
        len(
            figures.plot_call_rate_curves(
                {"DirichletProbe": curve(0.5), "GainOracle": curve(1e6)}
            ).lines
        )
        == 3
    )


def test_regions_stand_where_the_metrics_look():
    c = curve(0.5)
    ax = figures.plot_call_rate_curves({"DirichletProbe": c}, oracle=curve(1e6))
    p_s, p_l = c.quality[0], c.quality[-1]
    tau = p_s + 0.85 * (p_l - p_s)
    d2 = c.cost[np.flatnonzero(c.quality >= tau)[0]]
    spans = [p.get_bbox() for p in ax.patches]
    assert spans[0].x0 == 0 and spans[0].x1 == pytest.approx(30)
    assert spans[1].x0 == pytest.approx(30) and spans[1].x1 == pytest.approx(
        100 * d2, abs=100 / 200
    )
    assert spans[2].y0 == pytest.approx(100 * tau) and spans[2].y1 == pytest.approx(
        100 * (p_s + 0.95 * (p_l - p_s))
    )


@pytest.mark.parametrize(
    "broken",
    [
        dict(cost=[0, 1], quality=[0.5, np.nan]),
        dict(cost=[0, 1], quality=[0.5]),
        dict(cost=[1, 0], quality=[0.5, 0.6]),
        dict(cost=[0], quality=[0.5]),
    ],
)
def test_broken_curve_is_named(broken):
    with pytest.raises(CompanionError, match="finite call rates"):
        figures.plot_call_rate_curves({"x": SimpleNamespace(**broken)}, oracle=curve(1e6))


def reference_lines(fig):
    return [
        [line.get_xdata()[0] for line in ax.lines if list(line.get_ydata()) == [0, 1]]
        for ax in fig.axes
    ]


def test_interval_plot_draws_random_and_oracle():
    assert reference_lines(figures.plot_intervals(intervals())) == [[50, 100]] * 3
    assert (
        reference_lines(figures.plot_intervals(intervals("HCR", random=10.0))) == [[10, 100]] * 3
    ), "other metrics take the Random row"
    assert reference_lines(
        figures.plot_intervals(intervals("HCR"), random={"arithmetic": 9.0}, oracle=80)
    )[0] == [9, 80]


def test_interval_plot_names_what_is_missing():
    with pytest.raises(CompanionError, match="low, high"):
        figures.plot_intervals(intervals().drop(columns=["low", "high"]))
    with pytest.raises(CompanionError, match="Known: AUROC"):
        figures.plot_intervals(intervals(), metric="LPM")


def test_layer_weights_must_be_weights():
    for bad in (np.ones(31), np.full(31, np.nan), np.ones((2, 31)) / 31):
        with pytest.raises(CompanionError, match="sum to 1"):
            diagrams.plot_layer_weights({"bad": bad})


def test_reliability_takes_frames_mappings_and_objects():
    r = reliability(0.9)
    for form in (r, pd.DataFrame(r), SimpleNamespace(**r)):
        ax = figures.plot_reliability({"DirichletProbe": form})
        dots = [line for line in ax.lines if line.get_marker() == "o"]
        np.testing.assert_allclose(dots[0].get_ydata(), 100 * r["observed"])
        for (low, high), share in zip(
            np.array(ax.collections[0].get_segments())[:, :, 1] / 100, r["observed"]
        ):
            for edge in (low, high):
                assert abs(share - edge) == pytest.approx(
                    1.959964 * np.sqrt(edge * (1 - edge) / 100), abs=1e-7
                ), "the edges solve Wilson's equation"


@given(st.integers(1, 400), st.data())
@settings(max_examples=50, deadline=None)
def test_wilson_solves_its_equation(n, data):
    k = data.draw(st.integers(0, n))
    for edge in wilson_interval(k, n):
        assert 0 <= edge <= 1
        if 1e-9 < edge < 1 - 1e-9:
            assert abs(k / n - edge) == pytest.approx(
                1.959964 * np.sqrt(edge * (1 - edge) / n), abs=1e-7
            )


OURS = pd.DataFrame(
    [
        dict(row=r, column=c, metric="AUROC", value=v, low=v - 0.02, high=v + 0.02, n=1000)
        for r, v in (("DirichletProbe", 0.66), ("Random", 0.5))
        for c in ("arithmetic", "knowledge")
    ]
)


def test_an_item_nobody_published_is_named():
    with pytest.raises(UnknownNameError, match="xbench_table1"):
        tables.load_published("xbench", "Table 99")


def test_table_files(tmp_path):
    mine = OURS.assign(block="ours", unit="percent", model_small="S", model_large="L")
    mine[["value", "low", "high"]] *= 100
    published = tables.load_published("xbench", "Table 3").assign(block="published")
    both = pd.concat([mine, published], ignore_index=True)
    paths = [
        tables.write_table(both, "xbench_table3", tmp_path / run, caption="Probes") for run in "ab"
    ]
    assert [file_hash(p) for p in paths[0]] == [file_hash(p) for p in paths[1]]
    csv, md = paths[0]
    back = pd.read_csv(csv, float_precision="round_trip")
    assert (
        back["value"].tolist() == both["value"].tolist()
        and back["low"].tolist()[:4] == both["low"].tolist()[:4]
    ), "every digit is kept"
    text = md.read_text()
    for part in (
        "**Probes**",
        "Ours: AUROC ↑ (percent); small model S, large model L",
        "arithmetic (n = 1,000)",
        "| DirichletProbe | 66.00 [64.00, 68.00] |",
        "Published: AUROC ↑ (percent); small model Llama-3.1-8B-Instruct, large model GPT-5",
        "| Dirichlet | 72.02 | 66.18 | 67.88 | 68.70 |",
        "not to be subtracted",
    ):
        assert part in text, part


def test_one_table_for_each_metric_in_the_given_order(tmp_path):
    text = tables.table_markdown(tables.load_published("xbench", "Table 2"), caption="Scenario")
    assert [text.index(f"{m} ↑") for m in ("LPM", "MPM", "HCR")] == sorted(
        text.index(f"{m} ↑") for m in ("LPM", "MPM", "HCR")
    )
    assert text.index("| SelfAsk | 76.52 |") < text.index(
        "| ProbeDirichlet | 76.50 |"
    ) and "95%" not in text.replace("95% interval", "")


def test_plain_table_merges_intervals_and_escapes_bars():
    frame = pd.DataFrame(
        {
            "router": ["a|b", "c"],
            "HCR": [0.185, np.nan],
            "HCR_low": [0.16, np.nan],
            "HCR_high": [0.21, np.nan],
            "CPT(50%)": [0.25, 0.5],
            "n": [1234, 5],
        }
    )
    text = tables.table_markdown(frame, caption="c", float_format="%.3f")
    assert (
        "| router | HCR ↑ | CPT(50%) ↓ | n |" in text
        and "| a\\|b | 0.185 [0.160, 0.210] | 0.250 | 1,234 |" in text
        and "| c | – | 0.500 | 5 |" in text
    )


def test_tables_that_cannot_be_shown(tmp_path):
    with pytest.raises(CompanionError, match="no rows"):
        tables.write_table(OURS.head(0), "t", tmp_path, caption="c")
    with pytest.raises(CompanionError, match="'DirichletProbe', column 'arithmetic'"):
        tables.write_table(pd.concat([OURS, OURS.head(1)]), "t", tmp_path, caption="c")
    assert not list(tmp_path.iterdir()), "nothing half-written"


def test_item_names_are_file_stems():
    names = tables.load_items()["name"]
    assert names.is_unique and names.str.fullmatch(r"[a-z_]+_(table|figure)\d+").all()


# ---- pools


def test_deferral_picture_needs_random_and_oracle_and_draws_everything():
    for missing in ("oracle", "random"):
        with pytest.raises(CompanionError, match=f"No {missing.title()}"):
            figures.plot_deferral_curves(
                pool_curves(), **{k: deferral(0.5) for k in ("oracle", "random") if k != missing}
            )
    with pytest.raises(CompanionError, match="rising"):
        figures.plot_deferral_curves(
            {"Random": SimpleNamespace(cost=[2, 1], quality=[0.1, 0.2])}, oracle=deferral(0.9)
        )
    ax = deferral_figure().axes[0]
    drawn = [line.get_label() for line in ax.get_lines()]
    assert len(drawn) == 1 + 7 + 2 and len(ax.collections) == 1, (
        "crosses, seven routers, Random and Oracle; one band"
    )
    assert {t.get_text() for t in ax.texts} >= {*pool_curves(), "Random", "Oracle"}


def test_deferral_curve_goes_on_flat_and_shows_its_own_numbers():
    short = SimpleNamespace(cost=np.array([1.0, 5.0]), quality=np.array([0.2, 0.4]))
    ax = figures.plot_deferral_curves(
        {"short": short},
        oracle=deferral(0.9),
        random=SimpleNamespace(cost=np.array([1.0]), quality=np.array([0.3])),
    )
    x, y = ax.get_lines()[0].get_data()
    assert x.tolist() == [1, 5, 70] and np.allclose(y, [20, 40, 40]) and ax.get_xlim() == (1, 70)
    assert ax.get_lines()[1].get_ydata().tolist() == [30, 30], "one point is a constant"


def test_pool_routers_look_the_same_by_either_name_and_differ_from_each_other():
    look = styling.looks(styling.POOL_LOOK)
    for name, short in (
        ("KNNRouter", "K-NN"),
        ("KMeansRouter", "KMeans"),
        ("MatrixFactorisationRouter", "MF"),
        ("HeuristicRouter", "Heuristic"),
    ):
        assert look[name] == look[short]
    assert (
        len(
            {str(look[n]) for n in [*pool_curves()]}
            | {str(v) for v in styling.looks(["Random", "Oracle"]).values()}
        )
        == 9
    )


def pool_result(costs):
    curves = {**pool_curves(), "Random": deferral(0.45), "Oracle": deferral(0.9)}
    rows = [
        dict(row=r, metric=m, value=0.3 + 0.01 * i, low=0.28 + 0.01 * i, high=0.34 + 0.01 * i)
        for i, r in enumerate(curves)
        for m in ("AUDC", "peak")
    ]
    bands = {
        "CSCR": (curves["CSCR"].cost, curves["CSCR"].quality - 0.02, curves["CSCR"].quality + 0.02)
    }
    return SimpleNamespace(
        costs=np.array(costs), curves=curves, bands=bands, table=pd.DataFrame(rows)
    )


def test_a_pool_has_curves_or_where_all_cost_the_same_dots():
    ax = figures.plot_pool_evaluation(
        pool_result([1.0, 7.0, 70.0]), band="CSCR", crowded=["MF"], title="A pool"
    )
    texts = {t.get_text() for t in ax.texts}
    assert (
        {"CSCR", "Random", "Oracle"} <= texts
        and not {"MF", "Heuristic"} & texts
        and len(ax.collections) == 1
        and ax.get_title("left") == "A pool"
    )
    dots = figures.plot_pool_evaluation(
        pool_result([7.0, 7.0, 7.0]), band="CSCR", crowded=["MF"], title="One size"
    )
    assert [t.get_text() for t in dots.get_yticklabels()] == [
        r for r in (*pool_curves(), "Random", "Oracle") if r != "Heuristic"
    ]
    points = [line for line in dots.get_lines() if line.get_marker() == "o"]
    assert (
        np.allclose([p.get_xdata()[0] for p in points], [30, 31, 32, 33, 34, 35, 37, 38])
        and dots.get_title("left") == "One size"
    )
    whiskers = [line.get_xdata() for line in dots.get_lines() if list(line.get_ydata()) == [0, 0]]
    assert np.allclose(whiskers[0], [28, 34]) and dots.get_ylim()[0] > dots.get_ylim()[1], (
        "the first row stands on top"
    )
    frame = [line.get_xdata()[0] for line in dots.get_lines() if list(line.get_ydata()) == [0, 1]]
    assert np.allclose(frame, [37, 38]), "Random and Oracle are drawn across"
    with pytest.raises(UnknownNameError, match="nobody"):
        figures.plot_pool_evaluation(pool_result([1.0, 2.0]), band="nobody")


def test_differences_are_said_in_points_and_the_clear_ones_in_bold():
    table = pd.DataFrame(
        [
            dict(first="A", second="B", difference=0.0123, low=0.001, high=0.02),
            dict(first="A", second="C", difference=-0.01, low=-0.03, high=0.01),
            dict(first="A", second="D", difference=-0.02, low=-0.03, high=-0.01),
            dict(first="A", second="E", difference=0.1, low=np.nan, high=np.nan),
        ]
    )
    assert tables.difference_bullets(table).splitlines() == [
        "- A minus B: **+1.2 [0.1, 2.0]**",
        "- A minus C: -1.0 [-3.0, 1.0]",
        "- A minus D: **-2.0 [-3.0, -1.0]**",
        "- A minus E: +10.0",
    ]
    assert (
        tables.difference_bullets(table[:1], "against {second}", digits=2)
        == "- against B: **+1.23 [0.10, 2.00]**"
    )
    with pytest.raises(CompanionError, match="low"):
        tables.difference_bullets(table.drop(columns="low"))


def test_one_published_value_or_an_error_that_lists_the_rows():
    assert (
        tables.published_value("cscr", "Table 1", "UMR", "AUDC", "EmbedLLM") == 0.515
        and tables.published_value("cscr", "Table 10", 0.5, "peak") == 0.5147
    )
    with pytest.raises(CompanionError, match="3 published values.*RouterBench"):
        tables.published_value("cscr", "Table 1", "UMR", "AUDC")
    with pytest.raises(CompanionError, match="0 published values.*UMR"):
        tables.published_value("cscr", "Table 1", "nobody", "AUDC", "EmbedLLM")


def test_the_rows_of_one_comparison_differ_in_every_figure():
    rows = [
        "CSCR",
        "CSCR, sign as printed",
        "CSCR, 10 epochs",
        "plain InfoNCE",
        "UMR",
        "Thompson",
        "Soft-MoE",
        "Parametric",
        "Pareto-Random",
        "Random",
        "Heuristic",
        "Oracle",
    ]
    look = styling.looks(rows)
    assert (
        len({str(v) for v in look.values()}) == len(rows)
        and styling.looks(["UMR"])["UMR"] == look["UMR"] == styling.looks(["KMeans"])["KMeans"]
    )
