"""Check that a notebook ran to its end, and say which images it ran on.

python -m tools.check_run COMMITTED EXECUTED
"""

import sys
from pathlib import Path

import nbformat

FRAME = "#" * 80
REAL = "# REAL IMAGES: the challenge's X-rays."
PHANTOM = """# PHANTOMS, drawings in place of X-rays. No number is about a patient.
# Remedy: run again with a network, or put the course's folders two/ and all/ into
# data/, or name the folder that holds them: XRAY_DATA=/path/to/folder make run"""


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def count_figures(cell):
    return sum("image/png" in output.get("data", {}) for output in cell.outputs)


def is_claim_table(output):
    html = output.get("data", {}).get("text/html", "")
    return "<th>claim</th>" in html and "<td>" in html


def describe_fault(cell, n_figures):
    """What is wrong with a cell that should show so many figures, or an empty text."""
    for output in cell.outputs:
        if output.output_type == "error":
            return f"{output.ename}: {output.evalue}"
    papermill = cell.metadata.get("papermill", {})
    if cell.execution_count is None or papermill.get("exception"):
        return "it did not run to its end; perhaps the kernel died"
    if count_figures(cell) < n_figures:
        return f"{count_figures(cell)} of {n_figures} figures"
    return ""


def find_fault(committed, executed):
    """The first fault of an executed notebook, with its cell; an empty text if none.

    A cell must show as many figures as the same cell of the committed notebook, and
    one cell the table of claims.
    """
    figures = {cell.source: count_figures(cell) for cell in code_cells(committed)}
    outputs = []
    for number, cell in enumerate(code_cells(executed), start=1):
        fault = describe_fault(cell, figures.get(cell.source, 0))
        if fault:
            return f"code cell {number}: {fault}\n\n{cell.source}"
        outputs.extend(cell.outputs)
    if not any(map(is_claim_table, outputs)):
        return "no code cell shows the table of claims"
    return ""


def uses_phantoms(executed):
    """Whether a cell has printed that the images are phantoms."""
    outputs = [output for cell in code_cells(executed) for output in cell.outputs]
    return any("PHANTOM" in output.get("text", "") for output in outputs)


def main(committed, executed):
    if not Path(executed).is_file():
        sys.exit(f"{executed} was not written: the notebook could not be started.")
    notebook = nbformat.read(executed, as_version=4)
    fault = find_fault(nbformat.read(committed, as_version=4), notebook)
    if fault:
        sys.exit(f"{FRAME}\n# FAILED: {executed}, {fault}\n{FRAME}")
    images = PHANTOM if uses_phantoms(notebook) else REAL
    print(FRAME, f"# {executed} ran to its end.", images, FRAME, sep="\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
