"""The report: all of both notebooks on one page that fetches nothing, with contents that lead somewhere."""

import re
import sys

import nbformat
import pytest
from bs4 import BeautifulSoup
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

import report

PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
TABLE = "<style scoped>td { color: red }</style><script>alert(1)</script><table><tr><td>0.5</td></tr></table>"


def cells(title):
    """Cells of a small notebook; both notebooks have the same, but for the title."""

    def shown(**kinds):
        return new_output("display_data", {name.replace("_", "/"): data for name, data in kinds.items()})

    return [
        new_markdown_cell(f"# Challenge\n# {title} [10 points] & more", id="cell-0"),
        new_markdown_cell("## Setup\n\nOf $p_t^\\gamma$, not `$x$`:\n\n$$\\frac{a}{b}$$", id="cell-1"),
        new_code_cell("a = '<b>&</b>'\nprint(a)", outputs=[new_output("stream", text="<b>&</b>\n")]),
        new_markdown_cell("## Setup\n\nSee [the first](#Setup). A dot:", id="cell-2"),
        new_code_cell("plot()", outputs=[shown(image_png=PIXEL), new_output("stream", text="")]),
        new_code_cell("table", outputs=[shown(text_html=TABLE)]),
        new_code_cell("say()", outputs=[shown(text_markdown="## Said: **$q$**", text_plain="no")]),
        new_code_cell(
            "run()",
            outputs=[new_output("display_data", {"application/javascript": "x", "text/plain": "kept"})],
        ),
    ]


def save(path, content):
    """Write cells as an executed notebook."""
    for count, cell in enumerate((cell for cell in content if cell.cell_type == "code"), 1):
        cell.execution_count = count
    nbformat.write(new_notebook(cells=content), path)
    return path


@pytest.fixture
def notebooks(tmp_path):
    return [save(tmp_path / f"{name}.ipynb", cells(name)) for name in ("First", "Second")]


@pytest.fixture
def page(notebooks):
    return BeautifulSoup(report.build(notebooks), "html.parser")


@pytest.fixture
def run(monkeypatch):
    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["report.py", *map(str, arguments)])
        return report.main()

    return call


def test_page_fetches_nothing(page):
    assert not page.select("script, link, iframe, object, [onload]")
    images = page.select("img")
    assert len(images) == 2 and all(image["src"] == f"data:image/png;base64,{PIXEL}" for image in images)
    assert not [tag for tag in page.select("[href]") if not tag["href"].startswith("#")]
    styles = "".join(style.text for style in page.select("style"))
    assert "@import" not in styles and "url(" not in styles and "color: red" not in styles


def test_contents_list_the_headings_of_both_and_lead_to_them(page):
    links = page.select("nav a")
    titles = [f"{name} [10 points] & more" for name in ("First", "Second")]
    assert [link.text for link in links] == [titles[0], "Setup", "Setup", titles[1], "Setup", "Setup"]
    targets = [page.find(id=link["href"][1:]) for link in links]
    assert [target.text for target in targets] == [link.text for link in links]
    assert len({id(target) for target in targets}) == 6
    assert page.title.text == page.h1.text == "Challenge"


def test_ids_are_unique_and_links_stay_in_their_notebook(page):
    ids = [tag["id"] for tag in page.select("[id]")]
    assert len(set(ids)) == len(ids) > 16
    links = page.find_all("a", string="the first")
    first = [page.find_all("h2", string="Setup")[k] for k in (0, 2)]
    assert [link["href"] for link in links] == [f"#{heading['id']}" for heading in first]


def test_every_cell_is_there_in_order(notebooks, page):
    sources = [c.source for c in cells("First") if c.cell_type == "code"]
    assert [pre.text.rstrip("\n") for pre in page.select(".input pre")] == 2 * sources
    assert "&lt;b&gt;&amp;&lt;/b&gt;" in report.build(notebooks)
    section = page.section.text
    assert (
        section.index("First") < section.index("print(a)") < section.index("A dot") < section.index("plot()")
    )


def test_outputs_are_those_that_can_be_printed(page):
    shown = [output.text.strip() for output in page.section.select(".output_area")]
    assert shown == [
        "<b>&</b>",
        "",
        "0.5",
        "Said: q",
        "kept",
    ]  # the figure has no text, the empty stream is left out
    assert [image["alt"] for image in page.select("img")] == ["See [the first](#Setup). A dot"] * 2


def test_formulas_are_mathml_and_code_is_left_alone(page):
    formulas = page.section.select("math")
    assert [formula["display"] for formula in formulas] == ["inline", "block", "inline"]
    assert [mi.text for mi in formulas[0].select("msubsup > mi")] == ["p", "t", "γ"]
    assert [mi.text for mi in formulas[1].select("mfrac mi")] == ["a", "b"]
    assert page.section.find("code", string="$x$") and page.section.text.count("$") == 2


def test_unknown_command_in_a_formula_is_named():
    with pytest.raises(ValueError, match=r"\\nonsense"):
        report.formula(r"a + \nonsense{b}", "inline")


def test_title_of_a_single_notebook_stays_in_the_contents(notebooks):
    page = BeautifulSoup(report.build(notebooks[:1]), "html.parser")
    assert [a.text for a in page.select("nav a")][:2] == ["Challenge", "First [10 points] & more"]


def test_appendix_shows_the_source(notebooks, tmp_path):
    (tmp_path / "losses.py").write_text("def loss():\n    return 1 < 2\n")
    page = BeautifulSoup(report.build(notebooks, [tmp_path / "losses.py"]), "html.parser")
    assert page.select_one(".listing").text.strip() == "def loss():\n    return 1 < 2"
    entry = page.select("nav a")[-1]
    assert entry.text == page.find(id=entry["href"][1:]).text == f"{tmp_path.name}/losses.py"


def test_image_beside_the_notebook_is_embedded_and_others_are_refused(tmp_path):
    (tmp_path / "dot.svg").write_text("<svg/>")
    path = save(tmp_path / "x.ipynb", [new_markdown_cell("![dot](dot.svg)")])
    assert 'src="data:image/svg+xml;base64,' in report.build([path])
    for source in ("https://example.org/dot.png", "absent.png"):
        save(path, [new_markdown_cell(f"![dot]({source})")])
        with pytest.raises(ValueError, match=f"x.ipynb: image {source}"):
            report.build([path])


def test_missing_notebook_is_named(run, notebooks, tmp_path, capsys):
    assert run(notebooks[0], tmp_path / "Third.ipynb", "--out", tmp_path / "out") == 1
    assert "Third.ipynb: no such notebook" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("count", [None, 3, 1])
def test_notebook_that_was_not_executed_in_order_is_named(count, run, notebooks, tmp_path, capsys):
    notebook = nbformat.read(notebooks[1], as_version=4)
    notebook.cells[4].execution_count = count
    nbformat.write(notebook, notebooks[1])
    assert run(*notebooks, "--out", tmp_path / "out") == 1
    assert (
        "Second.ipynb: not every cell was executed" in (error := capsys.readouterr().err)
        and "make run" in error
    )


def test_without_a_browser_there_is_the_page_and_a_remedy(run, notebooks, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("CHROMIUM", str(tmp_path / "nowhere"))
    (tmp_path / "report.pdf").write_text("of an earlier run")
    assert run(*notebooks, "--out", tmp_path) == 1
    assert "apt-get install chromium" in capsys.readouterr().err
    assert "First [10 points]" in (tmp_path / "report.html").read_text(encoding="utf-8")
    assert not (tmp_path / "report.pdf").exists() and not list(tmp_path.glob(".*"))


def test_browser_that_fails_is_no_success(run, notebooks, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("CHROMIUM", sys.executable)  # knows none of the options
    assert run(*notebooks, "--out", tmp_path) == 1
    assert "printed no PDF (exit status 2)" in capsys.readouterr().err
    assert not (tmp_path / "report.pdf").exists()


def test_pdf_begins_each_notebook_on_a_new_page(run, notebooks, tmp_path, capsys):
    if not report.find_browser():
        pytest.skip("needs Chromium")
    assert run(*notebooks, "--out", tmp_path) == 0
    pdf = (tmp_path / "report.pdf").read_bytes()
    assert pdf.startswith(b"%PDF") and len(re.findall(rb"/Type\s*/Page\b", pdf)) == 3
    assert "report.pdf" in capsys.readouterr().out


def test_committed_notebooks_make_a_report():
    """Their formulas can be rendered, and nothing in them would be fetched."""
    text = report.build(report.NOTEBOOKS)
    page = BeautifulSoup(text, "html.parser")
    names = [link.text for link in page.select("nav a")]
    assert len(text) < 20e6 and all(any(f"Task {k} " in name for name in names) for k in (1, 2))
    assert page.select("math") and not [p for p in page.select(".text_cell p") if "$" in p.text]
