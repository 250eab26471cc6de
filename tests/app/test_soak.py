"""Two minutes of mixed traffic without a wrong answer."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.long
def test_two_minutes_of_mixed_traffic(tmp_path: Path) -> None:
    report = tmp_path / "report.md"
    command = [sys.executable, "benchmarks/soak/run.py", "--minutes", "2", "--report", str(report)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)
    assert run.returncode == 0, run.stdout + run.stderr
    figures = dict(re.findall(r"^\| (.+?) \| (.+?) \|$", report.read_text(), re.MULTILINE))
    assert (figures["wrong answers"], figures["failures"]) == ("0", "0")
    assert int(figures["requests"].replace(",", "")) > 1000
