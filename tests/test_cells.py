"""The notebooks' cells, by their syntax: run alone, twice or out of order, they give no other numbers."""

import ast
import builtins
from collections import defaultdict
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted(ROOT.glob("*.ipynb"))
# Methods that change what they are called on; `fit` of scikit-learn starts anew each time, and is none.
CHANGING = {"add", "append", "clear", "extend", "insert", "pop", "remove", "set_weights", "sort", "update"}
# What a cell changes although an earlier one made it. A model is trained in place, as everywhere in Keras:
# its cell, run twice, goes on from the trained weights.
CHANGED = {
    "Task1_binary": {"training head"},
    "Task2_multiclass": {"training head", "training network"},
}
# Names that are read by a cell before, and given to something else by a cell after: whoever goes back
# to the reading cell must run the cell that writes the name, too.
REUSED = {"Task1_binary": set(), "Task2_multiclass": {"inputs", "points", "table"}}


COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
FUNCTIONS = (ast.FunctionDef, ast.Lambda)


def free(node):
    """Names that a syntax node takes from outside. (`symtable` would tell, but differs between Pythons.)"""
    inner = set().union(*map(free, ast.iter_child_nodes(node)))
    if isinstance(node, ast.Name):
        return {node.id} if isinstance(node.ctx, ast.Load) else set()
    if isinstance(node, ast.AugAssign):
        return inner | targets(node.target)
    if isinstance(node, COMPREHENSIONS):
        return inner - {name for generator in node.generators for name in targets(generator.target)}
    if isinstance(node, FUNCTIONS):
        outside = set().union(*map(free, node.args.defaults + node.args.kw_defaults))
        own = {a.arg for a in ast.walk(node) if isinstance(a, ast.arg)}
        own |= {n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
        return inner - own | outside
    return inner


def stored(node):
    """Names that a statement sets, those of comprehensions and functions left out."""
    if isinstance(node, (ast.Import, ast.ImportFrom)):
        return {(alias.asname or alias.name).split(".")[0] for alias in node.names}
    if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
        return {node.name}
    if isinstance(node, ast.Name):
        return {node.id} if isinstance(node.ctx, ast.Store) else set()
    if isinstance(node, (*COMPREHENSIONS, ast.Lambda)):
        return set()
    return set().union(*map(stored, ast.iter_child_nodes(node)))


def names(node):
    """Names that a statement or expression takes from outside, and names that it sets."""
    return free(node) - set(dir(builtins)), stored(node)


def targets(node):
    return {n.id for n in ast.walk(node) if isinstance(n, ast.Name)} if node else set()


def steps(body):
    """(names read, names set) of each step of a cell, in the order in which they are run."""
    for node in body:
        if isinstance(node, ast.For):
            yield names(node.iter)[0], targets(node.target)
            yield from steps(node.body + node.orelse)
        elif isinstance(node, ast.With):
            for item in node.items:
                yield names(item.context_expr)[0], targets(item.optional_vars)
            yield from steps(node.body)
        elif isinstance(node, ast.If):
            yield names(node.test)
            yield from steps(node.body + node.orelse)
        else:
            yield names(node)


def root_of(node):
    """The name that an expression such as a.b[c].d() begins with, or None."""
    while isinstance(node, (ast.Attribute, ast.Subscript, ast.Call)):
        node = node.func if isinstance(node, ast.Call) else node.value
    return node.id if isinstance(node, ast.Name) else None


def changes(node):
    """What a syntax node changes in place, as (name, how)."""
    if isinstance(node, ast.AugAssign):
        yield root_of(node.target), "augmenting"
    elif isinstance(node, ast.Assign):  # a value of its own under a fixed key does not differ the second time
        stores = [t for t in node.targets if isinstance(t, (ast.Subscript, ast.Attribute))]
        yield from ((root_of(t), "storing in") for t in stores if root_of(t) in names(node.value)[0])
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        if node.func.attr in CHANGING:
            yield root_of(node.func), "changing"
        elif node.func.attr == "fit_classifier":
            yield root_of(node.args[0]), "training"


class Cell:
    """needs : names that earlier cells must have set; sets : names; changed : "how name" of those needed."""

    def __init__(self, source):
        tree, self.needs, self.sets = ast.parse(source), set(), set()
        for read, written in steps(tree.body):
            self.needs |= read - self.sets
            self.sets |= written
        found = [change for node in ast.walk(tree) for change in changes(node)]
        self.changed = {f"{how} {name}" for name, how in found if name in self.needs}


def reused(cells):
    """Names that a cell needs, and that a later cell (or itself) sets anew."""
    writers = defaultdict(list)
    for number, cell in enumerate(cells):
        for name in cell.sets:
            writers[name].append(number)
    read = [(name, number) for number, cell in enumerate(cells) for name in cell.needs]
    return {name for name, number in read if max(writers[name], default=-1) >= number}


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def path(request):
    return request.param


@pytest.fixture
def sources(path):
    return [c.source for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code"]


def test_no_cell_reads_a_name_that_no_cell_before_it_has_set(sources):
    there = set()
    for cell in map(Cell, sources):
        assert cell.needs <= there, cell.needs - there
        there |= cell.sets


def test_a_cell_run_alone_ends_in_a_name_error_that_names_what_is_missing(sources, monkeypatch):
    """As after a restart of the kernel; the cells that need nothing, imports and constants, are left out."""
    monkeypatch.chdir(ROOT)
    needing = [source for source in sources if Cell(source).needs]
    assert len(needing) > len(sources) - 5
    for source in needing:
        with pytest.raises(NameError) as caught:
            exec(source, {})
        assert caught.value.name in Cell(source).needs


def test_no_cell_changes_in_place_what_an_earlier_one_made(path, sources):
    assert set().union(*(Cell(source).changed for source in sources)) <= CHANGED[path.stem]


def test_no_name_that_is_read_means_something_else_later(path, sources):
    assert reused(list(map(Cell, sources))) <= REUSED[path.stem]


@pytest.mark.parametrize(
    ("source", "needs", "sets"),
    [
        ("a = b + 1\nc = a", {"b"}, {"a", "c"}),
        ("a = a + 1", {"a"}, {"a"}),
        ("for k in rows:\n    total = k + step", {"rows", "step"}, {"k", "total"}),
        ("x = [f(i) for i in range(n) if i in seen]", {"f", "n", "seen"}, {"x"}),
        ("def g(x, y=d):\n    return x + z\n", {"d", "z"}, {"g"}),
        ("print(f'{a:.3f}', *b, max(c, key=lambda n: e[n]))", {"a", "b", "c", "e"}, set()),
        ("with open(p) as f:\n    t = f.read()", {"p"}, {"f", "t"}),
        ("from utils import data\nimport os.path\ndata.f(os)", set(), {"data", "os"}),
        ("if q:\n    a = 1\nd = {**s, 'k': [v for v in w]}", {"q", "s", "w"}, {"a", "d"}),
        ("x = {k: {j: f for j in b} for k in a}", {"a", "b", "f"}, {"x"}),
        ("a, (b, *c) = d\ne.f = g[h] = i", set("deghi"), set("abc")),
        ("n += 1", {"n"}, {"n"}),
    ],
)
def test_names_are_found(source, needs, sets):
    cell = Cell(source)
    assert (cell.needs, cell.sets) == (needs, sets)


@pytest.mark.parametrize(
    ("source", "changed"),
    [
        ("rows += [1]", {"augmenting rows"}),
        ("rows = []\nrows += [1]\nrows.append(2)", set()),
        ("results['a'].append(1)", {"changing results"}),
        ("table['a'] = 1", set()),
        ("table['a'] = table['a'] + 1", {"storing in table"}),
        ("t.fit_classifier(net['a'], x)", {"training net"}),
    ],
)
def test_changes_in_place_are_found(source, changed):
    assert Cell(source).changed == changed


def test_names_with_two_meanings_are_found():
    assert reused([Cell("a = 1"), Cell("b = a"), Cell("a = 2\nprint(a)")]) == {"a"}
    assert reused([Cell("a = 1"), Cell("b = a"), Cell("print(a, b)")]) == set()
