"""Join the executed notebooks and the source of utils on one page that fetches nothing; print it as a PDF.

Plain nbconvert makes a page of each notebook, and has a script from the network draw the formulas.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import nbformat
from bs4 import BeautifulSoup
from jinja2 import Template, pass_context
from latex2mathml.converter import convert
from nbconvert import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from nbformat.v4 import new_markdown_cell, new_notebook
from pygments.formatters import HtmlFormatter
from traitlets.config import Config

ROOT = Path(__file__).resolve().parents[1]
TEMPLATE = ROOT / "tools" / "report.html.j2"
# What can be printed, best first; scripts and widgets cannot.
KINDS = ["text/html", "text/markdown", "image/svg+xml", "image/png", "image/jpeg", "text/plain"]
FLAGS = ["--headless", "--disable-gpu", "--no-first-run", "--no-pdf-header-footer"]


class MathRenderer(IPythonRenderer):
    """nbconvert's Markdown with formulas as MathML, which browsers show without a script."""

    def inline_math(self, body):
        return formula(body, "inline")

    def block_math(self, body):
        return formula(body, "block")


def formula(latex, display):
    """MathML of a formula, `display` "inline" or "block"; ValueError names a command that is not known."""
    mathml = convert(latex, display=display)
    if unknown := re.search(r">(\\\w+)", mathml):
        raise ValueError(f"latex2mathml does not know {unknown[1]} in ${latex}$; write it without.")
    return mathml


@pass_context
def markdown_to_html(context, source):
    """nbconvert's filter of this name, with the renderer above."""
    path = context["resources"]["metadata"]["path"]
    renderer = MathRenderer(escape=False, embed_images=True, path=path, exclude_anchor_links=True)
    return MarkdownWithMath(renderer=renderer).render(source)


def render(notebook, name, folder=ROOT):
    """A notebook as HTML (BeautifulSoup); every id begins with `name`, so that those of two do not clash."""
    for before, cell in zip([None, *notebook.cells], notebook.cells, strict=False):
        if cell.cell_type == "code" and before and before.cell_type == "markdown":
            cell.metadata["alt"] = before.source.split("\n")[-1]  # what leads in tells what a figure shows
    own = {"filters": {"markdown2html": markdown_to_html}, "template_name": "basic"}
    exporter = HTMLExporter(config=Config({"NbConvertBase": {"display_data_priority": KINDS}}), **own)
    html, _ = exporter.from_notebook_node(notebook, {"metadata": {"name": name, "path": str(folder)}})
    page = BeautifulSoup(html, "html.parser")
    for tag in page.select("script"):
        tag.decompose()
    for heading in page.select(".text_cell :is(h1, h2, h3)"):
        heading["id"] = heading.get_text().strip().replace(" ", "-")  # as links in Jupyter name it
    for tag in page.select("[id]"):
        tag["id"] = f"{name}-{tag['id']}"
    for link in page.select("a[href^='#']"):
        link["href"] = f"#{name}-{link['href'][1:]}"
    if foreign := [image["src"] for image in page.select("img") if not image["src"].startswith("data:")]:
        raise ValueError(f"{name}: {foreign[0]} would be fetched. Keep it beside the notebook.")
    return page


def build(notebooks, code=()):
    """The page (str): contents, the notebooks (dict, name -> notebook), and the files of source code."""
    texts = [f"## {p.parent.name}/{p.name}\n\n~~~~python\n{p.read_text(encoding='utf-8')}~~~~" for p in code]
    cells = [new_markdown_cell(text) for text in ["# Appendix: source code", *texts]]
    joined = notebooks | ({"Appendix": new_notebook(cells=cells)} if code else {})
    parts = {name: render(notebook, name) for name, notebook in joined.items()}
    template = Template(TEMPLATE.read_text(encoding="utf-8"), autoescape=True)
    return template.render(parts=parts, colours=HtmlFormatter().get_style_defs(".highlight"))


def print_pdf(page, pdf):
    """Print an HTML file by Chromium; RuntimeError if there is none, or if it fails."""
    pdf.unlink(missing_ok=True)  # one of an earlier run would not belong to this page
    named = [os.environ.get("CHROMIUM") or "chromium", "chromium-browser", "google-chrome"]
    if not (browser := next(filter(None, map(shutil.which, named)), None)):
        remedy = "Install it (Debian: apt-get install chromium), or name its program in CHROMIUM"
        raise RuntimeError(f"No PDF: there is no Chromium. {remedy}, or print {page} in a browser of yours.")
    root = ["--no-sandbox"] if getattr(os, "geteuid", lambda: 1)() == 0 else []  # else it refuses to start
    with tempfile.TemporaryDirectory() as profile:
        places = [f"--user-data-dir={profile}", f"--print-to-pdf={pdf.resolve()}", page.resolve().as_uri()]
        done = subprocess.run([browser, *FLAGS, *root, *places], capture_output=True, text=True, timeout=600)
    if done.returncode or not pdf.is_file():
        raise RuntimeError(f"{browser} printed no PDF, exit status {done.returncode}: {done.stderr.strip()}")


if __name__ == "__main__":
    out, names = ROOT / "report", ["Task1_binary.ipynb", "Task2_multiclass.ipynb"]
    out.mkdir(exist_ok=True)
    try:
        notebooks = {name: nbformat.read(ROOT / name, as_version=4) for name in names}
        page = build(notebooks, sorted(ROOT.glob("utils/*.py")))
        (out / "report.html").write_text(page, encoding="utf-8")
        print_pdf(out / "report.html", out / "report.pdf")
    except (OSError, ValueError, RuntimeError) as error:
        sys.exit(str(error))
    print("report/report.html and report/report.pdf")
