"""The house: who may import whom, and what must not be in it."""

import ast
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCES = sorted([*ROOT.glob("app/**/*.py"), *ROOT.glob("model/**/*.py")])


def imports(path: Path) -> set[str]:
    """The top-level packages that a module imports, anywhere in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.partition(".")[0])
    return found


def test_model_knows_no_http_and_no_app() -> None:
    for path in ROOT.glob("model/**/*.py"):
        assert not imports(path) & {"app", "fastapi", "starlette", "uvicorn", "typer", "rich", "orjson"}, path


def test_nothing_unpickles() -> None:
    for path in SOURCES:
        assert not imports(path) & {"pickle", "dill", "joblib", "shelve", "marshal"}, path
        assert not re.search(r"(?<!safetensors\.)torch\.load\(|allow_pickle=True", path.read_text()), path


def test_every_module_says_what_it_is() -> None:
    for path in SOURCES:
        assert ast.get_docstring(ast.parse(path.read_text())), path


#: Modules of `app` that each module of the batcher may import: the imports point one way.
BATCHER_IMPORTS = {
    "errors": set[str](),
    "context": set[str](),
    "queue": {"context"},
    "admission": {"context", "errors", "queue"},
    "batcher": {"admission", "context", "errors", "queue"},
}
HTTP = {"fastapi", "starlette", "uvicorn", "http", "httptools"}


def test_the_batcher_knows_no_http_and_no_vae() -> None:
    for name, allowed in BATCHER_IMPORTS.items():
        path = ROOT / f"app/inference/{name}.py"
        assert not imports(path) & {"model", "torch"}, path
        ours = set(re.findall(r"(?:from|import) app\.?([\w.]*)", path.read_text()))
        assert ours <= {f"inference.{module}" for module in allowed}, path


def test_inference_knows_no_http() -> None:
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
