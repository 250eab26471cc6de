"""Rules of the source tree: layers, forbidden imports, public names."""

import ast
import re
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = sorted([*ROOT.glob("app/**/*.py"), *ROOT.glob("model/**/*.py")])
TESTS = sorted(ROOT.glob("tests/**/*.py"))


def imports(path: Path) -> set[str]:
    """The top-level packages that a module imports, anywhere in it."""
    modules: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            modules |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            modules.add(node.module.partition(".")[0])
    return modules


def test_model_imports_no_http_and_no_app() -> None:
    for path in ROOT.glob("model/**/*.py"):
        assert not imports(path) & {"app", "fastapi", "starlette", "uvicorn", "typer", "rich", "orjson"}, path


def test_nothing_unpickles() -> None:
    for path in SOURCES:
        assert not imports(path) & {"pickle", "dill", "joblib", "shelve", "marshal"}, path
        assert not re.search(r"(?<!safetensors\.)torch\.load\(|allow_pickle=True", path.read_text()), path


def test_every_module_has_a_docstring() -> None:
    for path in SOURCES:
        assert ast.get_docstring(ast.parse(path.read_text())), path


#: The parts of each package, each of which may import only itself and those before it; `package` is its `__init__`.
LAYERS = {
    "app": [
        {"package", "service_links"},
        {"settings"},
        {"codecs", "inference"},
        {"observability"},
        {"api", "explorer"},
        {"middleware"},
        {"server"},
        {"fastpath"},
        {"main"},
        {"cli"},
    ],
    "model": [
        {"package", "errors", "files", "machine", "projection", "random"},
        {"data"},
        {"images", "interpolation", "likelihoods", "record"},
        {"prior"},
        {"config"},
        {"networks", "datasets"},
        {"vae"},
        {"scoring"},
        {"gallery"},
        {"checkpoint"},
        {"warnings", "training"},
        {"report"},
    ],
}


def parts_imported(package: str, path: Path) -> set[str]:
    """The parts of a package that a module imports: anywhere in it, and for types alone too."""
    modules: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module == package:
            modules |= {f"{package}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            modules.add(node.module)
    names = {module.split(".")[1] for module in modules if module.startswith(f"{package}.")}
    return {
        name if (ROOT / package / name).exists() or (ROOT / package / f"{name}.py").exists() else "package"
        for name in names
    }


@pytest.mark.parametrize("package", LAYERS)
def test_imports_go_one_way(package: str) -> None:
    level = {part: index for index, layer in enumerate(LAYERS[package]) for part in layer}
    for path in ROOT.glob(f"{package}/**/*.py"):
        first = path.relative_to(ROOT / package).parts[0]
        part = "package" if first == "__init__.py" else first.removesuffix(".py")
        for imported in parts_imported(package, path):
            allowed = imported == part or level[imported] < level[part]
            assert allowed, f"{path.relative_to(ROOT)} imports {package}.{imported}"


def modules_imported(path: Path) -> set[Path]:
    """The files of this project that a module imports, anywhere in it and for types alone too."""
    paths: set[Path] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        for name in names:
            paths |= {ROOT / (name.replace(".", "/") + ".py")} & set(SOURCES)
    return paths - {path}


def test_no_modules_import_each_other_in_a_circle() -> None:
    TopologicalSorter({path: modules_imported(path) for path in SOURCES}).prepare()  # raises CycleError


def test_the_server_command_alone_imports_the_fast_path() -> None:
    for path in SOURCES:
        if "fastpath" not in path.parts:
            assert (
                "app.fastpath" not in re.sub(r'"app\.fastpath[\w.:]*"', "", path.read_text()) or path.name == "main.py"
            )


def test_only_expected_modules_are_at_the_top_of_app() -> None:
    assert {path.name for path in ROOT.glob("app/*.py")} <= {
        "main.py",
        "settings.py",
        "service_links.py",
        "__init__.py",
        "client.py",
        "cluster.py",
    }


#: Modules of `app` that each module of the batcher may import: the imports point one way.
BATCHER_IMPORTS = {
    "errors": set[str](),
    "context": set[str](),
    "costs": set[str](),
    "jobs": {"context"},
    "lane": {"context", "costs", "jobs"},
    "queue": {"context", "costs", "jobs", "lane"},
    "admission": {"context", "costs", "errors", "lane", "queue"},
    "batcher": {"admission", "context", "costs", "errors", "jobs", "queue"},
}
HTTP = {"fastapi", "starlette", "uvicorn", "http", "httptools"}


def test_the_batcher_imports_no_http_and_no_model() -> None:
    for name, allowed in BATCHER_IMPORTS.items():
        path = ROOT / f"app/inference/{name}.py"
        assert not imports(path) & {"model", "torch"}, path
        ours = set(re.findall(r"(?:from|import) app\.?([\w.]*)", path.read_text()))
        assert ours <= {f"inference.{module}" for module in allowed}, path


def test_inference_imports_no_http() -> None:
    for path in ROOT.glob("app/inference/*.py"):
        assert not imports(path) & HTTP, path
        ours = set(re.findall(r"(?:from|import) app\.?([\w.]*)", path.read_text()))
        assert {module.partition(".")[0] for module in ours} <= {"inference", "settings"}, path


def test_codecs_import_nothing_of_the_app_outside_themselves() -> None:
    for path in ROOT.glob("app/codecs/*.py"):
        assert not imports(path) & {"fastapi", "starlette", "uvicorn", "torch"}, path
        modules = re.findall(r"^\s*(?:from|import) (app[\w.]*)", path.read_text(), re.MULTILINE)
        assert all(module.startswith("app.codecs.") for module in modules), path


def test_the_command_line_starts_without_torch() -> None:
    code = "import sys, app.cli.main; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_no_module_depends_on_a_specific_likelihood() -> None:
    """A likelihood is one module and one row of a table: the rest of the program asks for its traits."""
    modules = {path.stem: path for path in ROOT.glob("model/likelihoods/*.py")}
    others = modules.keys() - {"__init__", "base"}
    classes = {
        node.name
        for name in others
        for node in ast.parse(modules[name].read_text()).body
        if isinstance(node, ast.ClassDef)
    } - {"Gaussian"}  # also the distribution of the prior and of Q
    asks = re.compile(rf"\b(?:{'|'.join(sorted(classes))})\b|likelihood\.name\s*(?:==|!=|in\b|not in\b)|levels\s*[!=]=")
    for path in SOURCES:
        if path.parent != ROOT / "model/likelihoods":
            assert not asks.search(path.read_text()), path


def test_no_module_imports_a_test_module_or_a_conftest() -> None:
    for path in TESTS:
        for node in ast.walk(ast.parse(path.read_text())):
            modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            modules += [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
            for module in modules:
                last = module.rpartition(".")[2]
                assert not last.startswith("test_") and last != "conftest", f"{path} imports {module}"


#: Documented names of named tuples, and private functions of `model` that their own tests call.
NOT_PRIVATE = {"_asdict", "_replace", "_fields", "_learning_rate"}


def test_no_test_uses_a_private_attribute_of_another_object() -> None:
    for path in TESTS:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and re.match(r"_(?!_)", node.attr) and node.attr not in NOT_PRIVATE:
                owner = node.value.id if isinstance(node.value, ast.Name) else ""
                assert owner in {"self", "cls"}, f"{path}:{node.lineno} uses {node.attr}"
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("setattr"):
                names = [
                    arg.value for arg in node.args[:2] if isinstance(arg, ast.Constant) and isinstance(arg.value, str)
                ]
                private = [name for name in names if re.search(r"(^|\.)_(?!_)", name)]
                assert not private, f"{path}:{node.lineno} replaces {private[0]}"
