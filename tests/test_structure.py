# SPDX-License-Identifier: Apache-2.0
"""The modules lie in layers, and make knows which of them a script imports."""

import ast
import collections
import graphlib

import pytest
from conftest import ROOT, make

# From the bottom: a file imports only what lies in lower layers, or in its own folder.
LAYERS = (
    ("digitnet_cli.py", "digitnet_model.py"),
    ("digitnet_machine.py",),
    ("digitnet_data.py",),
    ("digitnet_boards.py", "digitnet_onnx.py", "digitnet_scores.py"),
    ("pages", "digitnet_training.py"),
    ("reading", "digitnet_parity.py"),
    ("digitnet_pictures.py",),
    ("02_PrepareData.py", "03_Training.py", "04_Parity.py", "05_Evaluate.py", "06_ReadBoard.py", "bench", "tools"),
)
LAYER_OF = {name: number for number, names in enumerate(LAYERS) for name in names}
FOLDERS = ("", "pages/", "reading/", "tools/", "bench/")


def import_graph(root):
    """Return file -> the files of ours that it imports anywhere in its text; names are relative to `root`."""
    files = [str(path.relative_to(root)) for folder in FOLDERS for path in (root / folder).glob("*.py")]
    modules = {name.removesuffix(".py").removesuffix("/__init__").replace("/", "."): name for name in files}
    scripts = [name for name in files if name.startswith(("tools/", "bench/"))]
    neighbours = {name.rpartition("/")[2].removesuffix(".py"): name for name in scripts}  # on a script's path
    graph = {}
    for name in files:
        found = set()
        for node in ast.walk(ast.parse((root / name).read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                package = ".".join(filter(None, [name.rpartition("/")[0] if node.level else "", node.module]))
                found |= {package, *(f"{package}.{alias.name}" for alias in node.names)}
        known = modules | (neighbours if name in scripts else {})
        graph[name] = {known[module] for module in found & known.keys()} - {name}
    return graph


def upward_imports(graph):
    """Return each import, as text, that is not of a lower layer or of the same folder."""
    layer = {name: LAYER_OF[name.partition("/")[0]] for name in graph}
    return [
        f"{name} imports {other}"
        for name, others in graph.items()
        for other in others
        if layer[other] >= layer[name] and ("/" not in name or name.split("/")[0] != other.split("/")[0])
    ]


def imported_by(name, graph):
    """Return the files that `name` imports, directly or not."""
    found = [name]
    for file in found:
        found += graph[file] - set(found)
    return found[1:]


def test_every_file_imports_from_lower_layers_alone():
    graph = import_graph(ROOT)
    assert len(graph) > 30
    assert upward_imports(graph) == []
    list(graphlib.TopologicalSorter(graph).static_order())  # raises CycleError, within a folder as well
    for script in ("03_Training.py", "04_Parity.py"):  # what reads photos is none of their business
        assert not [file for file in imported_by(script, graph) if file.startswith("reading/")]


UPWARD = {
    "import digitnet_data": "digitnet_data.py",
    "import digitnet_data as data": "digitnet_data.py",
    "from digitnet_data import Cells": "digitnet_data.py",
    "from pages import effects": "pages/effects.py",
    "import pages.effects as marks": "pages/effects.py",
    "def draw():\n    from pages.effects import curl": "pages/effects.py",
    "from tools import real": "tools/real.py",
}


@pytest.mark.parametrize("line", UPWARD)
def test_an_upward_import_is_found_in_any_form(tmp_path, line):
    file = UPWARD[line]
    for name in ("digitnet_cli.py", file, "pages/pens.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("import digitnet_cli\n")
    (tmp_path / "digitnet_cli.py").write_text(line)
    assert upward_imports(import_graph(tmp_path)) == [f"digitnet_cli.py imports {file}"]


def test_a_circle_within_a_folder_and_a_file_without_a_layer_are_found(tmp_path):
    (tmp_path / "pages").mkdir()
    (tmp_path / "pages" / "a.py").write_text("from pages import b")
    (tmp_path / "pages" / "b.py").write_text("def f():\n    from . import a")
    with pytest.raises(graphlib.CycleError):
        list(graphlib.TopologicalSorter(import_graph(tmp_path)).static_order())
    (tmp_path / "new.py").touch()
    with pytest.raises(KeyError, match=r"new\.py"):
        upward_imports(import_graph(tmp_path))


@pytest.mark.parametrize("name", ["02_PrepareData.py", "03_Training.py", "04_Parity.py", "05_Evaluate.py"])
def test_make_runs_a_script_again_when_a_module_that_it_imports_has_changed(built, name):
    modules = imported_by(name, import_graph(ROOT))
    assert len(modules) > 3
    for module in modules:
        assert name in make(built.folder, "--dry-run", f"--what-if={module}").out, f"{name} imports {module}"


def public_names(file):
    """Return the names that a file defines at its top level."""
    names = set()
    for node in ast.parse((ROOT / file).read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            parts = [part for target in targets for part in ast.walk(target) if isinstance(part, ast.Name)]
            names |= {part.id for part in parts if isinstance(part.ctx, ast.Store)}
    return {name for name in names if not name.startswith("_")} - {"main", "parse_args", "ARGS"}


def test_no_public_name_is_defined_in_two_files():
    files = collections.defaultdict(list)
    for file in import_graph(ROOT):
        for name in public_names(file) if not file.startswith("bench/") else ():
            files[name].append(file)
    assert len(files) > 300
    assert {name: found for name, found in files.items() if len(found) > 1} == {}


def test_files_are_of_a_size_that_can_be_read():
    assert len(list(ROOT.glob("*.py"))) <= 15
    limits = {ROOT / file: 300 for file in import_graph(ROOT)} | dict.fromkeys(ROOT.glob("tests/*.py"), 400)
    limits |= {ROOT / "Makefile": 235, ROOT / "digitnet_data.py": 240, ROOT / "digitnet_cli.py": 190}
    limits |= {ROOT / "digitnet_machine.py": 170, ROOT / "tools" / "venv.py": 90}
    lines = {path: len(path.read_text().splitlines()) for path in limits}
    assert len(lines) > 60
    assert {path.name: lines[path] for path in lines if lines[path] > limits[path]} == {}
