"""The house: imports go down the floors, only the command line speaks, the core needs no extra."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import secateurs

FLOORS = {
    0: "errors checks words durable locks",
    1: "exact scores units pools budgets schedules fit selection settings recipe column_order",
    2: "evaluating layout layers layer_report cuttable masks pruning quantizing groups structure permuting formats "
    "running checkpoint norms repair models data",
    3: "train measure racing fusing accelerating exporting loading",
    4: "see",
    5: "experiments",
    6: "cli __main__",
}
FLOOR_OF = {name: floor for floor, names in FLOORS.items() for name in names.split()}
EXTRAS = ["altair", "vl_convert", "sklearn", "PIL", "transformers", "datasets", "pyarrow", "backports"]
EXTRAS += ["onnx", "onnxscript", "onnxruntime", "openvino"]

ROOT = Path(secateurs.__file__).parent
MODULES = sorted(path for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py")
each_module = pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))


def top_name(path: Path) -> str:
    """The module or folder of the package that a file belongs to: 'masks', 'see'."""
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def dotted(node: ast.AST) -> str:
    """'torch.nn.Linear' for that expression, '' for anything that is not a dotted name."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        before = dotted(node.value)
        return f"{before}.{node.attr}" if before else ""
    return ""


def imports_of(path: Path) -> list[str]:
    """Every name that a file imports, anywhere in it, in full: 'secateurs.masks.Masks', 'torch.nn'."""
    found = []
    package = ["secateurs", *path.relative_to(ROOT).parts[:-1]]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            source = ".".join([*above, *([node.module] if node.module else [])])
            found += [f"{source}.{alias.name}" for alias in node.names]
    return found


def names_used(path: Path) -> set[str]:
    """Every dotted name that a file imports or mentions."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {dotted(node) for node in ast.walk(tree)} | set(imports_of(path))


def loaded_by(code: str) -> set[str]:
    """The top-level modules that a fresh Python has loaded after running code."""
    script = f"{code}\nimport sys\nprint(' '.join(sorted({{name.split('.')[0] for name in sys.modules}})))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@each_module
def test_every_module_has_a_floor(path):
    assert top_name(path) in FLOOR_OF, f"give {top_name(path)} a floor in GUIDE and here"


@each_module
def test_imports_never_go_up(path):
    floor = FLOOR_OF[top_name(path)]
    ours = [name.split(".") for name in imports_of(path) if name.split(".")[0] == "secateurs"]
    above = [".".join(parts) for parts in ours if len(parts) > 1 and FLOOR_OF.get(parts[1], -1) > floor]
    assert not above, f"floor {floor} imports from above"


@each_module
def test_inside_a_name_is_imported_from_its_module(path):
    """`secateurs.select` is the front door, for users; `secateurs.selection.select` shows its floor."""
    assert not {f"secateurs.{name}" for name in secateurs.__all__} & names_used(path)


@pytest.mark.parametrize("path", [path for path in MODULES if FLOOR_OF.get(top_name(path), 0) <= 1], ids=top_name)
def test_floors_0_and_1_know_arrays_only(path):
    assert not [name for name in names_used(path) if f"{name}.".startswith(("torch.nn.", "nn."))]


@each_module
def test_only_the_command_line_prints_or_exits(path):
    spoken = names_used(path) & {
        *("print", "input", "exit", "quit", "SystemExit", "breakpoint", "click.echo"),
        *("sys.exit", "sys.stdout", "sys.stderr", "sys.__stdout__", "os._exit", "os.abort"),
    }
    assert not spoken or FLOOR_OF[top_name(path)] == 6


def test_no_module_hides_a_public_name():
    """`import secateurs.select` would replace the function `secateurs.select` by the module."""
    public = set(secateurs.__all__)
    assert {"select", "prune", "Recipe", "Masks", "Pruner", "element", "layer", "sparsity"} <= public
    assert not public & {top_name(path) for path in MODULES}
    assert all(getattr(secateurs, name) is not None for name in public)


def test_the_front_door_alone_does_not_load_torch():
    assert not loaded_by("import secateurs; secateurs.__version__") & {"torch", "numba", *EXTRAS}


def test_the_core_loads_no_extra():
    core = "import secateurs as sc; sc.select, sc.prune, sc.Pruner, sc.Masks, sc.Recipe"
    assert not loaded_by(core) & set(EXTRAS)


def test_no_module_needs_an_extra_to_load():
    names = [".".join(["secateurs", *path.relative_to(ROOT).with_suffix("").parts]) for path in MODULES]
    load_all = "\n".join(f"import {name}" for name in names if not name.endswith(("__main__", "__init__")))
    assert not loaded_by(load_all) & set(EXTRAS)
