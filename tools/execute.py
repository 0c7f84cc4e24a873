"""Execute the notebooks: a line for each section, then what each one found; write notebook and HTML.

With --check also what the run has in common with the notebooks as they were; exit status 1 if a cell marked
NBVAL_CHECK_OUTPUT prints something else, or, as ever, if a cell fails.
"""

import argparse
import copy
import json
import os
import re
import sys
import time
from pathlib import Path

import nbformat
import pandas as pd
from bs4 import BeautifulSoup
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError
from nbconvert import HTMLExporter
from nbconvert.preprocessors import ClearOutputPreprocessor, CoalesceStreamsPreprocessor

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = [ROOT / "Task1_binary.ipynb", ROOT / "Task2_multiclass.ipynb"]
TIMES = ROOT / "benchmarks" / "sections.json"  # seconds of each section on two cores; a copy of a run's own
STEADY = 20  # seconds after which a run's own speed counts as much as an earlier one's
QUIET = ["--log-level=ERROR"]  # ipykernel warns that it talks to us without encryption
ON_PHANTOMS = """
These images were drawn: the run shows that all works, and says nothing about patients. For the real ones
  1. unset XRAY_DATA, and run again on a machine with a network: they are downloaded and verified; or
  2. put the course's folders two/ and all/ into data/, beside the notebooks; or
  3. name the folder that holds these two: XRAY_DATA=/path/to/it make run"""


class Sections:
    """Print a line as each section begins, and loudly which images the run is on."""

    def __init__(self, stem, out):
        self.stem, self.name, self.banner, self.starts, self.file = stem, None, "", {}, out / TIMES.name
        self.began = time.perf_counter()
        files = [file for file in (TIMES, self.file) if file.is_file()]
        self.times = {name: own for file in files for name, own in json.loads(file.read_text()).items()}

    def passed(self):
        """Seconds since the start."""
        return time.perf_counter() - self.began

    def begin(self, cell, **_):
        """Begin a section, if a cell is its heading."""
        if cell.cell_type == "markdown" and (heading := re.search(r"^## (.+)", cell.source, re.MULTILINE)):
            now, times = self.passed(), self.times.get(self.name, {})
            done = sum(times.get(title, 0) for title in self.starts)
            left = (sum(times.values()) - done) * (now + STEADY) / (done + STEADY)
            self.starts[heading[1].strip()] = now
            about = f"about {left / 60:.1f} min left" if times else ""
            print(f"{now // 60:4.0f}:{now % 60:02.0f}  {heading[1]:62.62}  {about}".rstrip(), flush=True)

    def tell(self, cell, **_):
        """Print the banner, from whose cell on the profile is known, too."""
        if "banner" in cell.metadata.get("tags", []):
            self.banner = shown(cell)
            self.name = f"{self.stem}, {'quick' if 'quick' in self.banner else 'full'}"
            print("=" * 88, self.banner, "=" * 88, sep="\n", flush=True)

    def record(self):
        """Keep the seconds of each section beside the results, for the next run's estimates."""
        ends = [*self.starts.values(), self.passed()][1:]
        own = {
            title: round(end - self.starts[title], 1) for title, end in zip(self.starts, ends, strict=True)
        }
        self.file.write_text(json.dumps(self.times | {self.name: own}, indent=1) + "\n")


def shown(cell):
    """The text that a cell shows in the end: a progress bar that has gone leaves blanks and a return."""
    data = [{"text/plain": output.get("text", "")} | output.get("data", {}) for output in cell.outputs]
    texts = [kinds.get("text/markdown", kinds["text/plain"]) for kinds in data]
    return re.sub(r"[^\n]*\r(?!\n)", "", "\n".join(texts)).strip()


def write(notebook, stem, out):
    """Write notebook and HTML without time stamps, and of progress bars the last state."""
    CoalesceStreamsPreprocessor().preprocess(notebook, {})
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        for output in cell.get("outputs", []):
            if output.output_type == "stream":
                output.text = re.sub(r"[^\n]*\r(?!\n)", "", output.text)
    exporter = HTMLExporter(embed_images=True)
    exporter.log.setLevel("ERROR")  # it warns of figures without a description
    text = {".ipynb": nbformat.writes(notebook) + "\n", ".html": exporter.from_notebook_node(notebook)[0]}
    for suffix in text:
        (out / f"{stem}{suffix}").write_text(text[suffix], encoding="utf-8", newline="\n")


def column(notebook, header):
    """What the tables with a column `header` say in it: name of the row -> text."""
    found = {}
    htmls = [o.get("data", {}).get("text/html", "") for c in notebook.cells for o in c.get("outputs", [])]
    for table in BeautifulSoup("".join(htmls), "html.parser").select("table"):
        heads, *rows = [[cell.text for cell in row.select("th, td")] for row in table.select("tr")]
        if header in heads:
            name = heads.index("claim") if "claim" in heads else 0
            found |= {row[name]: row[heads.index(header)] for row in rows}
    return found


def compare(old, new):
    """What a run has in common with the notebook before: a column of the table, and what is not so."""
    pairs = [(a, b) for a, b in zip(old.cells, new.cells, strict=True) if a.cell_type == "code"]
    same = {f"cell {n}": shown(a) == shown(b) for n, (a, b) in enumerate(pairs, 1)}
    marked = [f"cell {n}" for n, (a, _) in enumerate(pairs, 1) if "# NBVAL_CHECK_OUTPUT" in a.source]
    parts = {"checked cells that are equal": {n: same[n] for n in marked}, "cells that are equal": same}
    parts["scores in their range"] = {n: text == "True" for n, text in column(new, "inside").items()}
    parts["claims that hold"] = {n: text == "yes" for n, text in column(new, "holds in this run").items()}
    wrong = {part: [name for name, right in each.items() if not right] for part, each in parts.items()}
    return {part: f"{sum(each.values())} of {len(each)}" for part, each in parts.items()}, wrong


def run(path, options):
    """Execute a notebook where it lies; its banner, whether it failed, and what `compare` found."""
    notebook, sections = nbformat.read(path, as_version=4), Sections(path.stem, options.out)
    old, failed, traits = copy.deepcopy(notebook), False, {"kernel_name": "python3", "timeout": None}
    traits |= {"resources": {"metadata": {"path": str(path.parent)}}, "extra_arguments": QUIET}
    traits |= {"on_cell_start": sections.begin, "on_cell_executed": sections.tell}
    ClearOutputPreprocessor().preprocess(notebook, {})  # else a failed run shows an earlier one
    print(f"\n{path.name}", flush=True)
    try:
        NotebookClient(notebook, **traits).execute()
        sections.record()
    except (CellExecutionError, DeadKernelError) as error:
        print(f"{path.name} failed; {options.out / path.name} shows where.\n{error}", file=sys.stderr)
        failed = True
    finally:
        write(notebook, path.stem, options.out)
    minutes = f"{sections.passed() / 60:.1f}"
    tagged = [shown(cell) for cell in notebook.cells if "summary" in cell.metadata.get("tags", [])]
    print(*tagged, f"{minutes} minutes; {options.out / path.stem}.ipynb and .html", sep="\n", flush=True)
    row, wrong = compare(old, notebook)
    failed |= options.check and bool(wrong["checked cells that are equal"])
    return sections.banner, failed, row | {"minutes": minutes}, wrong


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("notebooks", nargs="*", type=Path, default=NOTEBOOKS)
    parser.add_argument("--out", type=Path, default=ROOT / "executed", help="folder for the results")
    parser.add_argument("--check", action="store_true", help="compare, and end with a table")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    sys.stdout.reconfigure(errors="replace")  # for what the locale cannot say
    os.environ.pop("MPLBACKEND", None)  # else figures go elsewhere
    # The kernels' Python is this one, whatever kernel of the same name the user has installed.
    os.environ |= {"PYTHONUTF8": "1", "JUPYTER_PATH": f"{sys.prefix}/share/jupyter"}
    os.environ |= {"XRAY_REGRESS": "1"} if options.check else {}
    done = {path.stem: run(path.resolve(), options) for path in options.notebooks}
    if options.check:
        print(f"\n{pd.DataFrame({stem: row for stem, (_, _, row, _) in done.items()}).to_string()}")
        for stem, (*_, wrong) in done.items():
            print(*(f"{stem}, not among {k}: {', '.join(v)}" for k, v in wrong.items() if v), sep="\n")
    if any("phantom" in banner.lower() for banner, *_ in done.values()):
        print(ON_PHANTOMS)
    return 1 if any(failed for _, failed, *_ in done.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
