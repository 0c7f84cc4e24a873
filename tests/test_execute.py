"""Executing notebooks: results and summary of a whole run, and a failing cell shown in its place."""

import sys

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output

import execute


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Write cells as a notebook, execute it, and return the exit status and the folder of the results."""

    def call(*cells):
        (tmp_path / "project").mkdir()
        (tmp_path / "project" / "beside.txt").write_text("found beside the notebook")
        nbformat.write(new_notebook(cells=list(cells)), tmp_path / "project" / "small.ipynb")
        out = tmp_path / "some" / "results"
        monkeypatch.setattr(sys, "argv", ["x", str(tmp_path / "project" / "small.ipynb"), "--out", str(out)])
        return execute.main(), out

    monkeypatch.setenv("JUPYTER_PATH", "")  # main sets it; afterwards it is as it was
    return call


def code(source, *tags):
    return new_code_cell(source, metadata={"tags": list(tags)})


def test_whole_run_writes_notebook_and_html_and_ends_with_the_summary(run, capsys):
    status, out = run(
        code("text = open('beside.txt').read()\nprint('half', end='\\r')\nprint('whole')"),
        code("print('accuracy 1 of 1;', text)", "summary"),
        code("print('not in the summary')"),
    )
    printed = capsys.readouterr().out
    assert status == 0
    assert printed.count("accuracy 1 of 1; found beside the notebook") == 1
    assert "not in the summary" not in printed and "small.ipynb" in printed and "small.html" in printed
    assert sorted(path.name for path in out.iterdir()) == ["small.html", "small.ipynb"]
    notebook = nbformat.read(out / "small.ipynb", as_version=4)
    nbformat.validate(notebook)
    assert [cell.execution_count for cell in notebook.cells] == [1, 2, 3]
    assert notebook.cells[0].outputs[0].text == "whole\n"
    assert not any("execution" in cell.metadata for cell in notebook.cells)
    assert "accuracy 1 of 1; found beside the notebook" in (out / "small.html").read_text(encoding="utf-8")


def test_failing_cell_is_written_in_its_place(run, capsys):
    status, out = run(
        code("print('before')"), code("raise RuntimeError('no such lung')"), code("print('after')")
    )
    assert status == 1
    assert "small.ipynb failed" in (error := capsys.readouterr().err) and "no such lung" in error
    first, second, third = nbformat.read(out / "small.ipynb", as_version=4).cells
    assert first.outputs[0].text == "before\n"
    assert second.outputs[0].output_type == "error" and second.outputs[0].evalue == "no such lung"
    assert third.outputs == [] and third.execution_count is None
    assert "no such lung" in (out / "small.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("printed", "kept"),
    [
        ("one\ntwo\n", "one\ntwo\n"),
        ("10 %\r50 %\r100 %\n", "100 %\n"),
        ("before\n10 %\r100 %\nafter\n", "before\n100 %\nafter\n"),
        ("before\n 10 %\r      \rafter\n", "before\nafter\n"),
        ("before\n 10 %\r      \r", "before\n"),
        ("windows\r\nlines\r\n", "windows\nlines\n"),
    ],
)
def test_progress_bars_keep_their_last_state(printed, kept, tmp_path):
    outputs = [new_output("stream", name="stdout", text=part) for part in (printed[:4], printed[4:])]
    notebook = new_notebook(cells=[new_code_cell("x", outputs=outputs, execution_count=1)])
    execute.write(notebook, "bars", tmp_path)
    (output,) = nbformat.read(tmp_path / "bars.ipynb", as_version=4).cells[0].outputs
    assert output.text.replace("\r\n", "\n") == kept
    assert [path.name for path in tmp_path.iterdir() if path.suffix == ".part"] == []


def test_summary_is_that_of_the_tagged_cell():
    cells = [
        new_code_cell("a", outputs=[new_output("stream", text="other")]),
        new_code_cell(
            "b", metadata={"tags": ["summary"]}, outputs=[new_output("stream", text=" two\nlines\n")]
        ),
    ]
    assert execute.summary(new_notebook(cells=cells)) == "two\nlines"
    assert execute.summary(new_notebook(cells=cells[:1])) == ""


def test_what_a_cell_printed_is_shown_without_its_bars():
    bar = new_output("stream", text="0.00B [00:00, ?B/s]\r                   \rImages: download\n")
    assert execute.printed(new_code_cell("x", outputs=[bar])) == "Images: download"
