"""Execute notebooks top to bottom with progress, and end with each one's own summary and where it lies."""

import argparse
import os
import re
import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbconvert import HTMLExporter
from nbconvert.preprocessors.coalescestreams import CoalesceStreamsPreprocessor
from tqdm import tqdm


def execute(path, out):
    """Execute one notebook in the folder that holds it, write it and its HTML to `out`; return the notebook.

    What was computed before a failing cell is written, too, so that the error can be read in its place.
    """
    notebook = nbformat.read(path, as_version=4)
    cells = sum(cell.cell_type == "code" for cell in notebook.cells)
    with tqdm(total=cells, desc=path.name, unit="cell", file=sys.stdout) as bar:

        def report(cell, **_):
            """Count a finished cell; say at once which images the run is on."""
            bar.update()
            if "banner" in cell.metadata.get("tags", []):
                bar.write(printed(cell), sys.stdout)

        client = NotebookClient(
            notebook,
            timeout=None,
            kernel_name="python3",
            resources={"metadata": {"path": str(path.parent)}},
            on_cell_executed=report,
        )
        try:
            client.execute()
        finally:
            write(notebook, path.stem, out)
    return notebook


def write(notebook, stem, out):
    """Write the notebook and its HTML aside and move them into place; progress bars keep their last state."""
    notebook, _ = CoalesceStreamsPreprocessor().preprocess(notebook, {})
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # time stamps would differ in every run
        for output in cell.get("outputs", []):
            if output.output_type == "stream":
                output.text = settled(output.text)
    html, _ = HTMLExporter(embed_images=True).from_notebook_node(notebook)
    for suffix, text in ((".ipynb", nbformat.writes(notebook) + "\n"), (".html", html)):
        aside = out / f".{stem}{suffix}.part"
        aside.write_text(text, encoding="utf-8")
        os.replace(aside, out / f"{stem}{suffix}")


def settled(text):
    """Text as it stands on a screen in the end: a bar that has gone leaves blanks and a carriage return."""
    return re.sub(r"[^\n]*\r(?!\n)", "", text)


def printed(cell):
    """The text that a cell printed."""
    return settled("".join(output.get("text", "") for output in cell.outputs)).strip()


def summary(notebook):
    """The text that the cell tagged `summary` printed."""
    return "\n".join(printed(cell) for cell in notebook.cells if "summary" in cell.metadata.get("tags", []))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("notebooks", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, default=Path("executed"), help="folder for the results")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    # The kernels' Python is this one, whatever kernel of the same name the user has installed.
    os.environ["JUPYTER_PATH"] = str(Path(sys.prefix) / "share" / "jupyter")
    for path in arguments.notebooks:
        print(f"Executing {path.name}", flush=True)
        began = time.perf_counter()
        try:
            notebook = execute(path.resolve(), arguments.out)
        except CellExecutionError as error:
            print(f"{path.name} failed; {arguments.out / path.name} shows where.\n{error}", file=sys.stderr)
            return 1
        print(f"\n{summary(notebook)}")
        print(f"time       {(time.perf_counter() - began) / 60:.1f} minutes")
        print(f"notebook   {arguments.out / path.name}")
        print(f"HTML       {arguments.out / path.with_suffix('.html').name}\n", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
