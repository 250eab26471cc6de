"""The commands together, and their errors."""

import csv
import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from starlette.testclient import TestClient
from typer.testing import CliRunner

from app.cli import main as cli
from app.main import create_app
from app.settings import Settings
from model import checkpoint
from tests.support.commands import SMALL, Invoke, table
from tests.support.data import squares
from tests.support.requests import npy


def test_train_evaluate_score_and_serve_agree(vae: Invoke, tmp_path: Path) -> None:
    np.save("squares.npy", squares())
    output = vae("train", "squares.npy", "--out", "run", *SMALL)
    assert "72 samples, 8 held out, 0 set aside; 3 epochs" in output
    assert "3/3" in output
    rows = table("run/metrics.csv")
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    assert len(list((tmp_path / "run/plots").glob("*.png"))) == 4

    output = vae(
        "evaluate", "run", "squares.npy", "--samples", "4", "--detection", "100", "--out", "report.json", "--save"
    )
    report = json.loads((tmp_path / "report.json").read_text())
    assert f"{report['bits_per_dim']:.4f}" in output
    assert report["codecs_bits_per_dim"].keys() == {"png", "webp", "gzip", "bz2", "xz"}
    assert checkpoint.load(tmp_path / "run").card.evaluation == report

    assert "80 samples" in vae("score", "run", "squares.npy", "--out", "scores.csv", "--samples", "4", "--seed", "2")
    scores = table("scores.csv")
    assert [row["sample"] for row in scores] == [str(i) for i in range(80)]
    mean = np.mean([float(row["free_energy"]) for row in scores])
    assert abs(mean - report["free_energy"]) < 0.2 * abs(report["free_energy"])

    with TestClient(create_app(Settings(model=str(tmp_path / "run"), threads=1))) as client:
        response = client.post("/free-energy?samples=4&seed=2", **npy(squares())).json()
        np.testing.assert_allclose(response["free_energy"], [float(row["free_energy"]) for row in scores], rtol=1e-5)
        card = client.get("/model").json()
    assert card["evaluation"] == report
    assert card["training"]["command"].startswith("vae train squares.npy ")
    assert card["training"]["held_out_scores"]["free_energy"] == min(float(row["free_energy"]) for row in rows)


def test_a_table_is_trained_on_and_scored_in_its_own_columns(vae: Invoke, tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    with Path("table.csv").open("w") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "weight", "height"])
        writer.writerows([f"row{i}", 70 + 12 * a, 1.7 + 0.1 * a] for i, a in enumerate(generator.normal(size=60)))
    vae("train", "table.csv", "--out", "run", "--exclude", "id", *SMALL)
    assert "bits" not in vae("evaluate", "run", "table.csv", "--detection", "100")
    vae("score", "run", "table.csv", "--out", "scores.csv")
    row = table("scores.csv")[0]
    assert row["bits_per_dim"] == row["standard_error"] == ""
    assert float(row["free_energy"]) == float(row["distortion"]) + float(row["rate"])


def test_scores_appear_only_when_they_are_complete(vae: Invoke, tmp_path: Path) -> None:
    np.save("squares.npy", squares())
    vae("train", "squares.npy", "--out", "run", *SMALL)
    (tmp_path / "scores.csv").write_text("what was there before")
    broken = np.full((300, 8, 8), 0.5)
    broken[290, 1, 2] = 7
    np.save("broken.npy", broken)
    from model.errors import DataError

    with pytest.raises(DataError, match=r"\[290, 1, 2\] is 7"):
        CliRunner().invoke(cli.cli, ["score", "run", "broken.npy", "--out", "scores.csv"], catch_exceptions=False)
    assert (tmp_path / "scores.csv").read_text() == "what was there before"
    assert not list(tmp_path.glob(".scores*"))


def test_an_error_is_one_line_and_exit_code_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for command, message in (
        (["serve", "nothing"], "nothing: no model is there"),
        (["train", "nothing.npy", "--out", "run"], "nothing.npy: there is no such file"),
        (["score", "nothing", "x.npy", "--out", "s.csv"], "no model is there"),
        (["serve", "--port", "99999"], "port: "),
        (["serve", "--device", "abacus"], "device: 'abacus' cannot be used here"),
        (["train", "", "--out", "run"], "the name of the data is empty"),
    ):
        monkeypatch.setattr(sys, "argv", ["vae", *command])
        stderr = io.StringIO()
        monkeypatch.setattr(sys, "stderr", stderr)
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert ended.value.code == 1
        assert stderr.getvalue().startswith("vae: ")
        assert message in stderr.getvalue().replace("\n", "")


def test_sizes_that_are_not_numbers_are_refused_with_an_example(vae: Invoke) -> None:
    np.save("squares.npy", squares())
    result = CliRunner().invoke(cli.cli, ["train", "squares.npy", "--out", "run", "--hidden", "wide"])
    assert result.exit_code == 2
    assert "32,64" in result.output


def test_names_that_look_like_markup_are_printed_as_they_are(vae: Invoke) -> None:
    np.savez("x.npz", x=squares())
    output = vae("train", "x.npz", "--out", "a[red]b", "--name", "n[/b]", *SMALL)
    assert "Reading x.npz:x: 80 samples" in output
    assert "vae serve a[red]b" in output
    assert "n[/b] on 8 samples" in vae("evaluate", "a[red]b", "x.npz", "--detection", "0")  # the validation split


def test_a_report_that_cannot_be_written_is_refused_before_the_work(vae: Invoke) -> None:
    from model.errors import DataError

    with pytest.raises(DataError, match="no such folder"):
        vae("evaluate", "nothing", "nothing.npy", "--out", "nowhere/report.json")
    np.save("squares.npy", squares())
    vae("train", "squares.npy", "--out", "run", *SMALL)
    with pytest.raises(DataError, match="cannot be written"):
        vae("evaluate", "run", "squares.npy", "--detection", "0", "--save", "--out", "run")
    assert checkpoint.load(Path("run")).card.evaluation is not None


@pytest.mark.parametrize("host", ["a..b", "nowhere.invalid"])
def test_an_invalid_host_is_refused(host: str) -> None:
    from app.server.serve import listen
    from model.errors import ConfigError

    with pytest.raises(ConfigError, match=f"cannot listen on {host}"):
        listen(host, 0)


def test_a_port_in_use_is_refused_with_the_remedy(saved: Callable[[str], Path]) -> None:
    from app.server.serve import listen
    from model.errors import ConfigError

    (taken,) = listen("127.0.0.1", 0)
    with taken, pytest.raises(ConfigError, match="choose another with --port"):
        listen("127.0.0.1", taken.getsockname()[1])


@pytest.mark.parametrize("command", ["serve", "train", "calibrate", "evaluate", "score"])
def test_help_teaches_with_an_example(vae: Invoke, command: str) -> None:
    assert f"Example: vae {command}" in " ".join(vae(command, "--help").split())


def test_training_continues_without_matplotlib(tmp_path: Path) -> None:
    np.save(tmp_path / "squares.npy", squares())
    code = "import sys; sys.modules['matplotlib'] = None; from app.cli.main import main; main()"
    command = [sys.executable, "-c", code, "train", "squares.npy", "--out", "run", *SMALL]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "matplotlib is not installed" in done.stdout
    assert checkpoint.load(tmp_path / "run").vae.config.latent == 3
