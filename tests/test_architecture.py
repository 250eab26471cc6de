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


def test_the_batcher_knows_no_http_and_no_vae() -> None:
    assert set(re.findall(r"(?:from|import) (app[\w.]*)", (ROOT / "app/inference/admission.py").read_text())) == {
        "app.inference.queue"
    }
    assert not imports(ROOT / "app/inference/queue.py") & {"app", "model", "torch", "fastapi", "starlette"}
    assert not imports(ROOT / "app/inference/batcher.py") & {"model", "torch", "fastapi", "starlette"}
    assert set(re.findall(r"(?:from|import) (app[\w.]*)", (ROOT / "app/inference/batcher.py").read_text())) == {
        "app.inference.admission",
        "app.inference.queue",
    }


def test_the_command_line_starts_without_torch() -> None:
    code = "import sys, app.cli.main; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_no_module_asks_which_likelihood_a_model_has() -> None:
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
