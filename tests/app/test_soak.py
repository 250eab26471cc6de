"""Two minutes of mixed traffic, of which no answer is wrong."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.long
def test_two_minutes_of_it(tmp_path: Path) -> None:
    report = tmp_path / "report.md"
    command = [sys.executable, "benchmarks/soak/run.py", "--minutes", "2", "--report", str(report)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    said = dict(re.findall(r"^\| (.+?) \| (.+?) \|$", report.read_text(), re.MULTILINE))
    assert (said["wrong answers"], said["failures"]) == ("0", "0")
    assert int(said["requests"].replace(",", "")) > 1000
