"""Imports point one way: the order of docs/architecture.md, read from the source.

In `cwvae/` a module imports from its own layer or from the ones below it, without cycles.
"""

import ast
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parents[1]

# From the ground up. A module, or a package with everything in it; the longest name counts.
LAYERS = [
    {"cwvae.errors", "cwvae.frame_sizes", "cwvae.installation", "cwvae.levels"},
    {"cwvae.startup", "cwvae.run.files", "cwvae.run.__init__"},
    {"cwvae.distributions", "cwvae.config", "cwvae.metrics", "cwvae.visualize"},
    {"cwvae.arguments", "cwvae.compiled", "cwvae.machine"},
    {"cwvae.networks", "cwvae.cell"},
    {"cwvae.clockwork"},
    {"cwvae.video_model"},
    {"cwvae.model", "cwvae.baselines"},
    {"cwvae.fast"},
    {"cwvae.factory"},
    {"cwvae.run"},
    {"cwvae.evaluation.results", "cwvae.evaluation.__init__", "cwvae.hub", "cwvae.saved_model"},
    {"cwvae.model_card"},
    {"cwvae.export", "cwvae.training"},
    {"cwvae.original", "cwvae.evaluation", "cwvae.comparison", "cwvae.prediction"},
    {"cwvae.commands", "cwvae.__main__"},
    {"cwvae.api"},
    {"cwvae.__init__"},
]
KNOW_CONFIG = {"cwvae.factory", "cwvae.training.loop", "cwvae.training.step", "cwvae.run.folder"}
KNOW_CONFIG |= {"cwvae.run.history", "cwvae.training.schedule"}
KNOW_CONFIG |= {"cwvae.run.restore_config"}
KNOW_CONFIG |= {"cwvae.export", "cwvae.original", "cwvae.api", "cwvae.comparison.campaign"}
KNOW_CONFIG |= {"cwvae.model_card"}
KNOW_CONFIG |= {"cwvae.evaluation.evaluator", "cwvae.evaluation.rollouts"}
KNOW_CONFIG |= {"cwvae.comparison.runs", "cwvae.training.choices"}
KNOW_CONFIG |= {"cwvae.comparison.agreement", "cwvae.training.memory", "cwvae.training.monitoring"}

TENSORFLOW = {"tensorflow", "keras", "tf_keras", "tensorflow_probability", "tensorflow_datasets"}
TENSORFLOW |= {"tensorflow_gan"}
PICKLERS = {"pickle", "_pickle", "cPickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}


def source_files() -> dict[str, pathlib.Path]:
    """Returns every source file of the project by its module name; packages end in `.__init__`."""
    files = list(ROOT.glob("*.py"))
    for folder in ("cwvae", "data_loaders", "benchmarks", "tests"):
        files += (ROOT / folder).rglob("*.py")
    return {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in sorted(files)}


FILES = source_files()
TREES = {name: ast.parse(path.read_text(), str(path)) for name, path in FILES.items()}
PACKAGE = [name for name in FILES if name.startswith("cwvae.")]
COMMANDS = [n for n in FILES if "." not in n or n.startswith(("cwvae.commands.", "cwvae.__main__"))]


def imports(tree: ast.AST, module: str, known: set[str]) -> set[str]:
    """Returns all that a module imports, wherever in it, by full name.

    Args:
      tree: The module.
      module: Its name, to resolve relative imports; packages end in `.__init__`.
      known: Names of our own modules: `from package import name` is one of these, or `package`'s.
    """
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = module.split(".")[: -node.level]
                base = ".".join([*parts, base] if base else parts)
            found |= {f"{base}.{alias.name}" for alias in node.names}
    return {_own_module(name, known) for name in found}


def _own_module(name: str, known: set[str]) -> str:
    """Shortens `cwvae.config.Config` to `cwvae.config`; leaves what is not ours."""
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        prefix = ".".join(parts[:end])
        if prefix in known:
            return prefix
        if f"{prefix}.__init__" in known:
            return f"{prefix}.__init__"
    return name


def top(name: str) -> str:
    return name.partition(".")[0]


IMPORTS = {name: imports(tree, name, set(FILES)) for name, tree in TREES.items()}


MODELS = {"cwvae", "svg", "vta"}


@pytest.mark.parametrize("module", [m for m in PACKAGE if m != "cwvae.factory"])
def test_only_the_factory_tells_models_apart_by_name(module):
    for node in ast.walk(TREES[module]):
        if isinstance(node, ast.Compare | ast.MatchValue):
            constants = {n.value for n in ast.walk(node) if isinstance(n, ast.Constant)}
            assert not constants & MODELS


def layer(module: str) -> int | None:
    """Returns the number of a module's layer."""
    parts = module.split(".")
    for end in range(len(parts), 0, -1):
        prefix = ".".join(parts[:end])
        for number, names in enumerate(LAYERS):
            if prefix in names:
                return number
    return None


def reached(module: str, imports: dict[str, set[str]]) -> set[str]:
    """Returns all that a module imports, directly or not."""
    seen, waiting = set(), set(imports[module])
    while waiting:
        name = waiting.pop()
        seen.add(name)
        waiting |= imports.get(name, set()) - seen
    return seen


def with_all_below(module: str) -> set[str]:
    """Returns all that is imported with a module, directly or not, when its own code runs."""
    seen, waiting = set(), {module}
    while waiting:
        name = waiting.pop()
        seen.add(name)
        # Python runs the packages around a module first.
        parts = name.split(".")
        around = {".".join([*parts[:end], "__init__"]) for end in range(1, len(parts))}
        more = (around & set(FILES)) | RUN_ON_IMPORT.get(name, set())
        waiting |= more - seen
    return seen


class _TopLevel(ast.NodeTransformer):
    """Leaves what runs when a module is imported: no functions, nothing for type checkers only."""

    def visit_FunctionDef(self, node):
        return None

    visit_AsyncFunctionDef = visit_FunctionDef

    def visit_If(self, node):
        only_for_checkers = "TYPE_CHECKING" in ast.unparse(node.test)
        return None if only_for_checkers else self.generic_visit(node)


def run_on_import(name: str, source: str, known: set[str]) -> set[str]:
    return imports(_TopLevel().visit(ast.parse(source)), name, known)


RUN_ON_IMPORT = {
    name: run_on_import(name, path.read_text(), set(FILES)) for name, path in FILES.items()
}


# The reader itself.


def test_the_reader_finds_imports_of_every_form():
    known = {"cwvae.__init__", "cwvae.config", "cwvae.cell", "cwvae.baselines.__init__"}
    known |= {"cwvae.baselines.trivial", "data_loaders.__init__"}
    source = """
import os.path, tensorflow as tf
import cwvae.cell as c
from cwvae import config as configuration
from cwvae.config import Config
from . import trivial
from .. import cell
from ..config import load
from cwvae import load
import data_loaders
if TYPE_CHECKING:
    from keras import Model
def late():
    from pickle import loads
"""
    found = imports(ast.parse(source), "cwvae.baselines.svg", known)
    assert found == {
        "os.path",
        "tensorflow",
        "cwvae.cell",
        "cwvae.config",
        "cwvae.baselines.trivial",
        "cwvae.__init__",
        "data_loaders.__init__",
        "keras.Model",
        "pickle.loads",
    }
    at_once = run_on_import("cwvae.baselines.svg", source, known)
    assert found - at_once == {"keras.Model", "pickle.loads"}


def test_the_reader_reads_the_project():
    assert "cwvae.cell" in IMPORTS["cwvae.clockwork"]
    assert "cwvae.factory" in IMPORTS["cwvae.commands.train"]
    assert "data_loaders.__init__" in IMPORTS["cwvae.commands.evaluate"]
    assert "tensorflow" in with_all_below("cwvae.evaluation.evaluator")
    assert len(PACKAGE) > 10


def test_the_most_exact_name_gives_the_layer():
    assert layer("cwvae.run.files") < layer("cwvae.model") < layer("cwvae.run.logs")
    assert layer("cwvae.metrics.image") == layer("cwvae.metrics.__init__")
    assert layer("cwvae.something_new") is None


# The rule.


@pytest.mark.parametrize("module", PACKAGE)
def test_every_module_has_its_layer(module):
    assert layer(module) is not None, f"give {module} a place in LAYERS"


@pytest.mark.parametrize("module", PACKAGE)
def test_imports_within_cwvae_point_one_way(module):
    for imported in IMPORTS[module]:
        if top(imported) == "cwvae":
            assert imported in FILES, f"{module} imports {imported}, which does not exist"
            assert layer(imported) <= layer(module), f"{module} imports {imported}, a later layer"


@pytest.mark.parametrize("module", PACKAGE)
def test_no_module_of_cwvae_imports_itself_by_a_detour(module):
    assert module not in reached(module, IMPORTS)


@pytest.mark.parametrize("module", [name for name in FILES if top(name) != "tests"])
def test_only_the_factory_imports_the_fast_kernels_and_only_where_it_uses_them(module):
    fast = {name for name in IMPORTS[module] if name.startswith("cwvae.fast")}
    assert not fast or module == "cwvae.factory" or module.startswith("cwvae.fast.")
    if module == "cwvae.factory":
        assert fast
        assert not fast & RUN_ON_IMPORT[module]


@pytest.mark.parametrize("module", [name for name in FILES if top(name) == "data_loaders"])
def test_no_module_of_data_loaders_imports_itself_by_a_detour(module):
    assert module not in reached(module, RUN_ON_IMPORT)


@pytest.mark.parametrize("module", [m for m in PACKAGE if m not in COMMANDS])
def test_cwvae_imports_nothing_from_the_data_loaders_or_the_scripts(module):
    outside = {top(name) for name in FILES} - {"cwvae"}
    assert not {name for name in IMPORTS[module] if top(name) in outside}


@pytest.mark.parametrize("module", [name for name in FILES if name.startswith("data_loaders.")])
def test_data_loaders_know_nothing_of_the_models(module):
    own = {name for name in IMPORTS[module] if top(name) == "cwvae"}
    # The command line joins them with the configuration, as train.py does.
    script = (
        {"cwvae.config.__init__", "cwvae.visualize"} if module == "data_loaders.__main__" else set()
    )
    allowed = {"cwvae.errors", "cwvae.frame_sizes", "cwvae.installation", "cwvae.startup"}
    allowed |= {"cwvae.run.files"}
    assert own <= allowed | script
    outside = {top(name) for name in FILES} - {"cwvae", "data_loaders"}
    assert not {name for name in IMPORTS[module] if top(name) in outside}


@pytest.mark.parametrize("module", [name for name in PACKAGE if name.startswith("cwvae.metrics.")])
def test_metrics_know_nothing_but_metrics(module):
    own = {name for name in IMPORTS[module] if top(name) == "cwvae"}
    # What is kept between runs, and messages to users, are not the model's either.
    own -= {"cwvae.run.files", "cwvae.errors", "cwvae.installation", "cwvae.startup"}
    assert all(name.startswith("cwvae.metrics.") for name in own), own


@pytest.mark.parametrize("module", PACKAGE)
def test_only_those_that_join_things_know_the_configuration(module):
    config = {name for name in IMPORTS[module] if name.startswith("cwvae.config")}
    known = module in COMMANDS or module in KNOW_CONFIG or module.startswith("cwvae.config.")
    assert known or not config


@pytest.mark.parametrize(
    "module",
    [
        "cwvae.visualize",
        "cwvae.baselines.trivial",
        "cwvae.config.__init__",
        "cwvae.run.checkpoints",
        "cwvae.run.files",
    ],
)
def test_these_start_no_tensorflow(module):
    assert not TENSORFLOW & {top(name) for name in with_all_below(module)}
    assert not TENSORFLOW & {top(name) for name in IMPORTS[module]}


@pytest.mark.parametrize("script", COMMANDS)
def test_commands_start_no_tensorflow_before_they_have_looked_at_what_they_were_given(script):
    assert not TENSORFLOW & {top(name) for name in with_all_below(script)}


# No code from data: pickles can hold any.


@pytest.mark.parametrize("module", FILES)
def test_no_pickle(module):
    found = PICKLERS & {top(name) for name in IMPORTS[module]}
    # The only pickles are official weights, read without anything but arrays.
    readers = ("cwvae.metrics.weights", "tests.cwvae.metrics.test_weights")
    assert found == ({"pickle"} if module in readers else set())


def pickle_loads(tree: ast.AST) -> list[int]:
    """Returns the lines that call NumPy's load, or its like, and do not rule out pickles."""
    lines = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "numpy":
            # Calls of a bare `load` could be anyone's: NumPy's goes by np.load here.
            lines += [node.lineno for alias in node.names if alias.name == "load"]
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        name = ast.unparse(node.func)
        if name in ("np.load", "numpy.load", "np.lib.format.read_array"):
            given = {word.arg: word.value for word in node.keywords}
            value = given.get("allow_pickle")
            if not (isinstance(value, ast.Constant) and value.value is False):
                lines.append(node.lineno)
    return lines


def test_the_reader_finds_loads_of_pickles():
    source = """
np.load(path)
np.load(path, allow_pickle=True)
numpy.load(path, allow_pickle=flag)
from numpy import load
np.load(path, allow_pickle=False)
json.load(path)
"""
    assert sorted(pickle_loads(ast.parse(source))) == [2, 3, 4, 5]


@pytest.mark.parametrize("module", FILES)
def test_numpy_files_are_loaded_without_pickles(module):
    assert pickle_loads(TREES[module]) == []
