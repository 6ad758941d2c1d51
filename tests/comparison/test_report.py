"""report.html: one file that needs nothing else, made again from its folder alone, shown by a real browser."""

import csv
import io
import json
import re
import shutil
import subprocess
from dataclasses import replace
from html import unescape

import pytest
from markdown_it import MarkdownIt
from markupsafe import escape
from PIL import Image
from rich.console import Console

from helpers.comparisons import NEWEST_COMPARISON, change, figures_of, finished_row, one_seed
from ssss_zoo.commands.cli import command_line
from ssss_zoo.comparison.folders import ComparisonFolder
from ssss_zoo.comparison.records import read_figures
from ssss_zoo.comparison.report import html as report
from ssss_zoo.comparison.report.charts import (
    CHART_WIDTH,
    INK_COLOUR,
    MAX_NAME_LENGTH,
    MAX_TICK_LENGTH,
    ROW_COLOURS,
    plot_class_bars,
    plot_differences,
    plot_learning_curves,
)
from ssss_zoo.comparison.report.claim import claim, join_names
from ssss_zoo.comparison.report.embedding import legend_items
from ssss_zoo.comparison.report.html import write_report
from ssss_zoo.comparison.report.picture_index import PictureIndex, PseudoLabelPictures
from ssss_zoo.comparison.report.tables import as_csv, as_latex, as_markdown, escape_latex, screen_table
from ssss_zoo.text import brief, visible
from ssss_zoo.train.console import iou_table


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    return tmp_path_factory.mktemp("compared") / "cmp"


@pytest.fixture
def reported(compared, tiny_compare_with_charts):
    """A comparison of three rows, one called so that a careless page would break. It is run once and copied."""
    folder = tiny_compare_with_charts.folder
    if not compared.exists():
        tiny_compare_with_charts("methods=fixmatch,farcluss:top_k=1:model.mean=[0.5,0.5,0.5]", "seeds=0,1")
        shutil.copytree(folder, compared)
    else:
        shutil.copytree(compared, folder)
    return folder


def test_it_is_one_file_that_asks_for_nothing(reported):
    text = (reported / "report.html").read_text()
    assert not re.search(r"""(src|href)=["'](?!data:|#|https://arxiv\.org/abs/)""", text)
    assert not re.search(r"https?://(?!www\.w3\.org|purl\.org|creativecommons\.org|matplotlib\.org|arxiv\.org)", text)
    assert text.count("<svg") == 4 + 1 + 3  # calibration, and a confusion matrix of each row
    assert 'href="https://arxiv.org/abs/2506.11142"' in text
    assert "There are no learning curves: the runs were evaluated" in text  # two steps make no curve
    assert text.count("data:image/") >= 2 * (2 + 2 * 3)
    assert "supervised" in text
    assert "farcluss:top_k=1:model.mean=[0.5,0.5,0.5]" in text


def test_it_is_made_again_from_the_files_alone(reported, tmp_path, capsys):
    before = (reported / "report.html").read_text()
    (reported / "report.html").unlink()
    assert command_line(["report", str(reported)]) == 0
    assert (reported / "report.html").read_text() == before
    assert capsys.readouterr().out.strip().endswith("report.html")
    assert command_line(["report", str(tmp_path)]) == 2
    assert "holds no comparison" in capsys.readouterr().err


def test_pictures_are_those_of_every_row(reported):
    index = json.loads((reported / "pictures/pictures.json").read_text())
    for entry in index["images"]:
        assert len(entry["files"]["rows"]) == 3
        assert all(0 <= value <= 1 for value in entry["miou"].values())
        for files in entry["files"]["rows"].values():
            assert all((reported / "pictures" / name).is_file() for name in files.values())
    assert any(entry["worst"] for entry in index["images"])


def test_one_legend_stands_beside_all_pseudo_labels(reported):
    legend = '<p class="legend">'
    assert (reported / "report.html").read_text().count(legend) == 2  # that of the predictions is the other
    (run,) = (reported / "runs/fixmatch/seed0/pseudo_labels").glob("[0-9]*.png")
    with Image.open(run) as whole, Image.open(next((reported / "pictures").glob("unlabelled-*-*.jpg"))) as shown:
        assert shown.height / shown.width < 0.95 * whole.height / whole.width
    index = reported / "pictures/pictures.json"
    text = index.read_text()
    assert '"own_legends": false' in text
    index.write_text(text.replace('"own_legends": false', '"own_legends": true'))  # as an earlier version left it
    assert write_report(ComparisonFolder(reported)).read_text().count(legend) == 1


def claim_of(change_of_a, seeds=(0, 1, 2)):
    """The claim on a row `a` with this difference to supervised, and a row `b` without any that can be shown."""
    rows = [
        finished_row("supervised", 0.4),
        finished_row("a", 0.5, over_supervised=change_of_a),
        finished_row("b", 0.39, over_supervised=change(-0.01, -0.02, 0.01, significant=False)),
    ]
    return claim(figures_of(rows, seeds=seeds))


def test_the_claim_is_no_stronger_than_the_figures():
    better = claim_of(change(0.1, 0.02, 0.2, significant=True))
    assert better == (
        "a is 10.00 points of mIoU above supervised (95 % interval +2.00 to +20.00); b (-2.00 to +1.00) cannot be told "
        "from it."
    )
    assert "a is 10.00 points of mIoU below supervised" in claim_of(change(-0.1, -0.2, -0.01, significant=True))
    assert claim_of(change(0.1, -0.02, 0.2, significant=False)) == (
        "a (-2.00 to +20.00) and b (-2.00 to +1.00) cannot be told from supervised (95 % interval of the difference in "
        "brackets)."
    )
    assert claim_of(change(0.1, 0.02, 0.2, significant=False), seeds=(0, 1)).endswith(
        "and b 1.00 below (-2.00 to +1.00); 2 seeds cannot show that this is more than chance."
    )
    unfinished = replace(finished_row("a"), seeds=(), statistics=None)
    assert claim(figures_of([unfinished])) == "No run is finished yet."
    assert claim(figures_of([finished_row("a", 0.5)])).startswith("a has the highest mIoU, 50.00 %; there is no")
    assert claim(figures_of([finished_row("supervised")])).startswith("Only supervised is finished")
    assert join_names(list("abcdef")) == "a, b, c and 3 more"


def test_charts_name_every_row_and_class():
    curves = {"one": [{1: 0.1, 2: 0.2}, {1: 0.2, 2: 0.4}], "two": [{1: 0.3, 2: 0.1}]}
    text = plot_learning_curves(curves)
    assert all(word in text for word in ("one", "two", "step", "aria-label"))
    row = finished_row("one", iou={"road": one_seed(0.5, 0.1), "car": one_seed(None, 0.1)}).statistics
    bars = plot_class_bars({"one": row}, ["road", "car"])
    assert all(word in bars for word in ("road", "car", ROW_COLOURS[0].lower()))
    changed = finished_row("one", over_supervised=change(0.1, 0.02, 0.2, significant=True)).statistics
    differences = plot_differences({"supervised": replace(row, over_supervised=None), "one": changed})
    assert "one *</text>" in differences
    assert "supervised</text>" not in differences  # the row that the others are compared with
    for chart in (text, bars, differences):
        assert "currentColor" in chart
        assert INK_COLOUR not in chart
        assert float(re.search(r'width="([\d.]+)pt"', chart)[1]) == pytest.approx(72 * CHART_WIDTH)


@pytest.mark.skipif(not shutil.which("chromium"), reason="no chromium here")
def test_a_browser_shows_it_without_overflow(reported, tmp_path):
    """In frames as wide as a phone and as a desk's screen, in a real browser (whose window is never that narrow): no
    part of the page but the inside of scrolling boxes is wider than the frame, and no chart is."""
    probe = """<script>
      const charts = [...document.querySelectorAll(".chart svg")].map(chart => chart.getBoundingClientRect().right);
      const wide = Math.max(document.documentElement.scrollWidth, ...charts);
      parent.postMessage(`${charts.length} charts, ${Math.ceil(wide)} of ${innerWidth}`, "*");
    </script></body>"""
    (tmp_path / "page.html").write_text((reported / "report.html").read_text().replace("</body>", probe))
    frames = "".join(f'<iframe src="page.html" style="width: {width}px; border: 0"></iframe>' for width in (390, 1200))
    note = "<script>addEventListener('message', event => document.title += event.data + ';')</script>"
    frame = tmp_path / "frame.html"
    frame.write_text(f"<title></title>{note}{frames}")
    quiet = ["--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
    quiet += ["--disable-component-update", "--disable-sync", f"--user-data-dir={tmp_path / 'profile'}"]
    done = subprocess.run(
        ["chromium", "--headless", "--no-sandbox", *quiet, "--window-size=1300,800", "--dump-dom", frame.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
    )
    found = re.search(r"<title>(.*?)</title>", done.stdout)
    assert found, done.stderr[-500:]
    shown = sorted(tuple(map(int, re.findall(r"\d+", part))) for part in found[1].split(";") if part.strip())
    assert [frame for _, _, frame in shown] == [390, 1200]
    assert all(charts == 8 and wide <= frame for charts, wide, frame in shown), shown


NAMES = [
    "[/b]", "[red]x", "a$\\frac$b", "_x_", "a_b", "50%", "R&D", "&amp;", "a|b", "a\\|b", "two\nlines", "esc\x1b[31m",
    "=1+1", "@x", "-y", "# z", "*", "<script>alert(1)</script>", "`~^#{}", "[a](b)", "\u65e5\u672c",
    "\u202etfel", "x" * 300,
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_names_of_rows_and_classes_are_text_wherever_they_are_shown(name, tmp_path, monkeypatch):
    """A class and a row of the name, on the screen, in each table, and on the page."""
    shutil.copytree(NEWEST_COMPARISON, tmp_path / "cmp")
    text = (NEWEST_COMPARISON / "compare.json").read_text()
    for old in ('"class1"', '"fixmatch"'):
        text = text.replace(old, json.dumps(name))
    folder = ComparisonFolder(tmp_path / "cmp")
    folder.figures.write_text(text)
    monkeypatch.setattr(report, "draw_charts", lambda *given: [])
    page, figures = write_report(folder).read_text(), read_figures(folder)
    assert page.count(f">{escape(visible(name))}<") >= 3
    screen = io.StringIO()
    Console(file=screen, width=1000).print(screen_table(figures))
    Console(file=screen, width=1000).print(iou_table(name, {"student": {"iou": {name: 0.5}, "miou": 0.5}}))
    assert screen.getvalue().count(visible(name)) == 3
    html = MarkdownIt("commonmark").enable("table").render(as_markdown(figures))
    cells = [unescape(cell) for cell in re.findall("<t[hd][^>]*>(.*?)</t[hd]>", html)]
    assert cells.count(visible(name).strip()) == 3
    rows = list(csv.reader(as_csv(figures).splitlines()))
    assert f"iou_{visible(name)}" in rows[0]
    assert visible(name) in [row[0].removeprefix("'") for row in rows]
    assert not any(row[0].startswith(("=", "+", "-", "@")) for row in rows)
    lines = [line for line in as_latex(figures).splitlines() if not line.startswith("%")]
    assert len(lines) == 8
    assert not any(line.startswith(("[", "*")) for line in lines)


def test_latex_is_escaped_letter_by_letter():
    assert escape_latex("a_b$c^d\\e~[f]*{g}") == (
        r"a\_b\$c\textasciicircum{}d\textbackslash{}e\textasciitilde{}{[}f{]}{*}\{g\}"
    )


def test_charts_show_names_as_they_are():
    row = finished_row("any", iou=dict.fromkeys(NAMES, one_seed(0.5))).statistics
    bars = plot_class_bars(dict.fromkeys(NAMES, row), NAMES)
    curves = plot_learning_curves({name: [{1: 0.1, 2: 0.2}] for name in NAMES})
    for name in NAMES:
        in_legend, beside_axis = (
            escape(brief(name, most)).replace("&#34;", '"').replace("&#39;", "'")
            for most in (MAX_NAME_LENGTH, MAX_TICK_LENGTH)
        )
        same = in_legend == beside_axis
        assert bars.count(f"{in_legend}</text>") == (2 if same else 1), name
        assert bars.count(f"{beside_axis}</text>") == (2 if same else 1), name
        assert curves.count(f"{in_legend}</text>") == 1, name


def test_the_legend_shows_void_as_it_was_drawn():
    """Stripes now; squares of two colours, or one grey, where an earlier version drew the pictures."""
    no_labels = PseudoLabelPictures(image=None, rows={})
    grey = PictureIndex(colours=((1, 2, 3),), images=(), pseudo_labels=no_labels)
    squares = replace(grey, void=((0, 51, 255), (153, 255, 255)))
    new = replace(squares, wrong=((255, 0, 200),))
    items = [legend_items(["road"], index) for index in (grey, squares, new)]
    assert [[item.name for item in of_index][::2] for of_index in items] == [["road", "wrong"]] * 3
    assert all(of_index[0].background == "rgb(1, 2, 3)" for of_index in items)
    assert items[0][1].background.count("rgb(150, 150, 150)") == 2
    assert items[0][-1].background == items[1][-1].background == "rgb(213, 94, 0)"
    assert items[2][-1].background == "rgb(255, 0, 200)"
    assert "conic" in items[1][1].background
    assert (
        items[2][1].background == "repeating-linear-gradient(135deg, rgb(0, 51, 255) 0 3px, rgb(153, 255, 255) 3px 6px)"
    )
    striped = legend_items(["road"], replace(new, wrong=((255, 0, 200), (255, 255, 255))))
    assert striped[-1].background.startswith("repeating-linear-gradient(45deg")


SECTIONS = ("short", "run", "figures", "seeds", "classes", "errors", "training", "pictures", "cost", "recipes",
            "published", "repeat", "limits")  # fmt: skip


def kept_page(tmp_path, monkeypatch, edit=lambda tree: tree):
    """The page of the newest kept comparison, after a change to its figures."""
    shutil.copytree(NEWEST_COMPARISON, tmp_path / "cmp")
    folder = ComparisonFolder(tmp_path / "cmp")
    folder.figures.write_text(json.dumps(edit(json.loads(folder.figures.read_text()))))
    monkeypatch.setattr(report, "draw_charts", lambda *given: [])
    return write_report(folder).read_text()


def test_every_section_of_the_contents_is_there_and_says_something(tmp_path, monkeypatch):
    page = kept_page(tmp_path, monkeypatch)
    for section in SECTIONS:
        assert f'href="#{section}"' in page
        body = re.search(rf'<section id="{section}">(.*?)</section>', page, re.DOTALL)[1]
        assert len(re.sub(r"<[^>]*>|\s", "", body)) > 30, section


def test_it_says_what_was_run_and_how_to_repeat_it(tmp_path, monkeypatch):
    page = unescape(kept_page(tmp_path, monkeypatch))
    for text in (
        "tiny, split all: 5 labelled, 7 unlabelled, 2 validation images, 5 classes",
        "18ff3bff0af4d1a8",  # the fingerprint of the data
        "cpu: x86_64, 1 thread",
        "ssss-zoo 0.1.0",
        "ssss compare methods=fixmatch seeds=0,1 dataset=tiny",
        "method=supervised seed=0 output=one_run",
        "threshold=",  # an option of fixmatch's recipe
        "2 seeds: no difference gets a star.",
    ):
        assert text in page, text
    assert "tracking.uri=" not in page  # no address of somebody's server


def test_an_unfinished_comparison_has_a_page(tmp_path, monkeypatch):
    def without_runs(tree):
        return tree | {"rows": [{"name": row["name"], "words": row["words"], "seeds": []} for row in tree["rows"]]}

    page = kept_page(tmp_path, monkeypatch, without_runs)
    assert page.count("No run is finished yet.") >= 4


def test_published_figures_are_shown_for_the_same_data_and_encoder_alone(tmp_path, monkeypatch):
    def on_voc(encoder):
        def edit(tree):
            for row in tree["rows"]:
                row["settings"] |= {"model.encoder": encoder}
            return tree | {"dataset": "voc", "split": "183"}

        return edit

    page = kept_page(tmp_path / "same", monkeypatch, on_voc("resnet101"))
    assert "why they do not compare" in page
    page = kept_page(tmp_path / "other", monkeypatch, on_voc("mobilenetv3_small_100"))
    assert "why they do not compare" not in page
    assert "so they say nothing about the figures here" in page
