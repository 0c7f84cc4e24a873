"""Notebooks as HTML that fetches nothing, and the whole project as a page and a PDF.

python -m nbconvert --to tools.report.PageExporter NOTEBOOK    a page of a notebook
python -m tools.report                                         report/report.html, .pdf
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import nbformat
from jinja2 import pass_context
from latex2mathml.converter import convert
from nbconvert import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from nbformat.v4 import new_markdown_cell, new_notebook

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = ["Task1_binary.ipynb", "Task2_multiclass.ipynb"]
MAIN = re.compile("<main>(.*)</main>", re.DOTALL)
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


class MathRenderer(IPythonRenderer):
    """Markdown with formulas as MathML, which browsers show without a script."""

    def inline_math(self, body):
        return convert(body)

    def block_math(self, body):
        return convert(body, display="block")


class PageExporter(HTMLExporter):
    """nbconvert's HTML with the template beside this file and formulas as MathML."""

    def __init__(self, **options):
        template = str(Path(__file__).with_name("report.html.j2"))
        super().__init__(template_file=template, embed_images=True, **options)

    @pass_context
    def markdown2html(self, context, source):
        folder = context["resources"]["metadata"].get("path", "")
        renderer = MathRenderer(escape=False, embed_images=True, path=folder)
        return MarkdownWithMath(renderer=renderer).render(source)


def source_notebook(paths):
    """Source code as a notebook, a Markdown cell a file."""
    cells = [new_markdown_cell("# Appendix: source code")]
    for path in paths:
        code = path.read_text(encoding="utf-8")
        cells.append(new_markdown_cell(f"## {path.name}\n\n~~~~python\n{code}~~~~"))
    return new_notebook(cells=cells)


def join(notebooks):
    """One page of several notebooks (a dict: name -> notebook).

    The name goes before every id, because two notebooks may have the same headings.
    """
    sections = []
    for name, notebook in notebooks.items():
        page, _ = PageExporter().from_notebook_node(notebook)
        section = MAIN.search(page).group(1)
        section = re.sub(r'\b(id="|href="#)', rf"\g<1>{name}-", section)
        sections.append(f"<section>{section}</section>")
    return MAIN.sub(lambda match: "".join(sections), page)


def print_pdf(page, pdf):
    """Print an HTML file with Chromium."""
    pdf.unlink(missing_ok=True)
    browser = os.environ.get("CHROMIUM") or next(filter(shutil.which, BROWSERS), "")
    if not browser:
        sys.exit(f"No PDF. Remedy: install Chromium, or print {page} in any browser.")
    options = ["--headless", "--disable-gpu", "--no-sandbox", "--no-pdf-header-footer"]
    with tempfile.TemporaryDirectory() as profile:
        options += [f"--user-data-dir={profile}", f"--print-to-pdf={pdf}"]
        command = [browser, *options, page.as_uri()]
        subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
    print(f"report/{pdf.name}: {pdf.stat().st_size / 1e6:.1f} MB")


def main():
    folder = ROOT / "report"
    folder.mkdir(exist_ok=True)
    notebooks = {name: nbformat.read(ROOT / name, as_version=4) for name in NOTEBOOKS}
    notebooks["source"] = source_notebook(sorted(ROOT.glob("utils/*.py")))
    page = folder / "report.html"
    page.write_text(join(notebooks), encoding="utf-8")
    print_pdf(page, folder / "report.pdf")


if __name__ == "__main__":
    main()
