"""Join the executed notebooks into one report: a self-contained HTML page, and a PDF of it by Chromium."""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from html import escape
from pathlib import Path

import nbformat
from bs4 import BeautifulSoup
from jinja2 import Template, pass_context
from latex2mathml.converter import convert
from nbconvert import HTMLExporter
from nbconvert.filters import Highlight2HTML
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from pygments.formatters import HtmlFormatter
from traitlets.config import Config

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = [ROOT / "Task1_binary.ipynb", ROOT / "Task2_multiclass.ipynb"]
TEMPLATE = Path(__file__).with_name("report.html.j2")
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
# What can be printed, best first; scripts and widgets cannot, and would be fetched from elsewhere.
KINDS = ["text/html", "text/markdown", "image/svg+xml", "image/png", "image/jpeg", "text/plain"]
FLAGS = (
    "--headless --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-sync "
    "--disable-component-update --no-pdf-header-footer --generate-pdf-document-outline"
)


class MathRenderer(IPythonRenderer):
    """nbconvert's Markdown with formulas as MathML, which browsers show without a script."""

    def inline_math(self, body):
        return formula(body, "inline")

    def block_math(self, body):
        return formula(body, "block")

    def latex_environment(self, name, body):
        return formula(rf"\begin{{{name}}}{body}\end{{{name}}}", "block")


def formula(latex, display):
    """MathML of a formula, `display` "inline" or "block"; ValueError names a command that is not known."""
    mathml = convert(latex, display=display)
    if unknown := re.search(r">(\\\w+)", mathml):
        raise ValueError(f"latex2mathml does not know {unknown[1]} in ${latex}$; write it without.")
    return mathml


@pass_context
def markdown_to_html(context, source):
    """nbconvert's filter of this kind, with the renderer above."""
    renderer = MathRenderer(
        escape=False,
        attachments=context.get("cell", {}).get("attachments", {}),
        embed_images=True,
        path=context["resources"]["metadata"]["path"],
        exclude_anchor_links=True,
    )
    return MarkdownWithMath(renderer=renderer).render(source)


def read(path):
    """The notebook in a file. FileNotFoundError if there is none, ValueError if it was not run in order."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such notebook. Restore it, or name another.")
    notebook = nbformat.read(path, as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]
    if [cell.execution_count for cell in code] != list(range(1, len(code) + 1)):
        raise ValueError(
            f"{path}: not every cell was executed, once and in order. "
            "Restart and run all in Jupyter, or take the one that `make run` writes to executed/."
        )
    return notebook


def render(path):
    """The cells of a notebook file as HTML (BeautifulSoup). Its ids begin with its name: none clash."""
    notebook = read(path)
    lead = ""
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            lead = cell.source.strip().split("\n")[-1].rstrip(":")
        else:
            cell.outputs = [output for output in cell.outputs if output.get("text") != ""]
        cell.metadata.setdefault("alt", lead)  # the text that leads in tells what a figure shows
    exporter = HTMLExporter(
        template_name="basic",
        filters={"markdown2html": markdown_to_html},
        config=Config({"NbConvertBase": {"display_data_priority": KINDS}}),
    )
    resources = {"metadata": {"name": path.stem, "path": str(path.parent)}}
    page = BeautifulSoup(exporter.from_notebook_node(notebook, resources)[0], "html.parser")
    for tag in page.select("script, style[scoped]"):  # no browser scopes a style to its table
        tag.decompose()
    for heading in headings(page):
        heading["id"] = heading.get_text().strip().replace(" ", "-")  # as links in Jupyter name it
    seen = {}
    for tag in page.select("[id]"):
        seen[tag["id"]] = number = seen.get(tag["id"], 0) + 1
        tag["id"] = f"{path.stem}-{tag['id']}" + (f"-{number}" if number > 1 else "")
    for link in page.select("a[href^='#']"):
        link["href"] = f"#{path.stem}-{link['href'][1:]}"
    for image in page.select("img"):
        if not image["src"].startswith("data:"):
            raise ValueError(f"{path}: image {image['src']} would be fetched. Keep it beside the notebook.")
    return page


def headings(page):
    """The headings of the text cells, in order."""
    return page.select(".text_cell :is(h1, h2, h3)")


def listing(paths):
    """Source files as an appendix (BeautifulSoup), each under its name."""
    parts = ['<div class="text_cell"><h1 id="appendix">Appendix: source code</h1></div>']
    for path in paths:
        name = escape(f"{path.resolve().parent.name}/{path.name}")
        code = Highlight2HTML(pygments_lexer="python")(path.read_text(encoding="utf-8"))
        parts.append(f'<div class="text_cell"><h2 id="appendix-{name}">{name}</h2></div>')
        parts.append(f'<div class="listing">{code}</div>')
    return BeautifulSoup("\n".join(parts), "html.parser")


def build(notebooks, code=()):
    """The report as HTML (str): title, contents, notebooks, and an appendix of the source files `code`."""
    pages = {path.name: render(path) for path in notebooks}
    tops = [[h.get_text() for h in headings(page) if h.name == "h1"] for page in pages.values()]
    # A heading that all the notebooks share is the title of the whole, and not one of its parts.
    shared = [text for text in tops[0] if len(tops) > 1 and all(text in top for top in tops)]
    if code:
        pages["Appendix"] = listing(code)
    parts = [
        {"name": name, "page": page, "entries": [h for h in headings(page) if h.get_text() not in shared]}
        for name, page in pages.items()
    ]
    return Template(TEMPLATE.read_text(encoding="utf-8"), autoescape=True).render(
        title=shared[0] if shared else "Report",
        names=" and ".join(path.name for path in notebooks),
        colours=HtmlFormatter().get_style_defs(".highlight"),
        parts=parts,
    )


def find_browser():
    """The path of Chromium: what CHROMIUM names, else the first of `BROWSERS` that is there, else None."""
    named = os.environ.get("CHROMIUM")
    return next(filter(None, map(shutil.which, [named] if named else BROWSERS)), None)


def print_pdf(browser, page, pdf):
    """Print an HTML file with a headless Chromium, aside first; RuntimeError with its words if it fails."""
    aside = pdf.with_name(f".{pdf.name}.part").resolve()
    root = ["--no-sandbox"] if getattr(os, "geteuid", lambda: 1)() == 0 else []  # else it refuses to start
    with tempfile.TemporaryDirectory() as profile:
        command = [browser, *FLAGS.split(), *root, f"--user-data-dir={profile}"]
        command += [f"--print-to-pdf={aside}", page.resolve().as_uri()]
        run = subprocess.run(command, capture_output=True, text=True, timeout=600)
    if run.returncode or not aside.is_file():
        raise RuntimeError(f"{browser} printed no PDF (exit status {run.returncode}):\n{run.stderr.strip()}")
    os.replace(aside, pdf)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("notebooks", nargs="*", type=Path, help="default: the committed ones of both tasks")
    parser.add_argument("--out", type=Path, default=Path("report"), help="folder for report.html and .pdf")
    parser.add_argument("--code", nargs="+", type=Path, default=[], help="source files for an appendix")
    arguments = parser.parse_args()
    page, pdf = arguments.out / "report.html", arguments.out / "report.pdf"
    try:
        text = build(arguments.notebooks or NOTEBOOKS, arguments.code)
        arguments.out.mkdir(parents=True, exist_ok=True)
        pdf.unlink(missing_ok=True)  # one of an earlier run would not belong to this page
        aside = arguments.out / ".report.html.part"
        aside.write_text(text, encoding="utf-8")
        os.replace(aside, page)
        print(f"HTML  {page} ({page.stat().st_size / 1e6:.1f} MB)", flush=True)
        if not (browser := find_browser()):
            raise FileNotFoundError(
                "No PDF, because Chromium was not found. Install it (Debian: apt-get install chromium), or "
                f"name its program in CHROMIUM; or print {page} to a PDF in a browser of yours."
            )
        print_pdf(browser, page, pdf)
    except (OSError, ValueError, RuntimeError) as error:
        print(error, file=sys.stderr)
        return 1
    print(f"PDF   {pdf} ({pdf.stat().st_size / 1e6:.1f} MB)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
