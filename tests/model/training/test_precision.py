"""The choice of a precision by measured steps."""

import pytest
import torch

from model.training import precision
from model.training.loop import TrainingSettings
from model.training.precision import MeasuredPrecision
from tests.support.models import CONFIGS

SETTINGS = TrainingSettings(epochs=50, held_out=5)


@pytest.mark.parametrize("name", CONFIGS)
def test_steps_are_measured_in_both(name: str) -> None:
    before = torch.random.get_rng_state()
    measured = MeasuredPrecision.of(CONFIGS[name], SETTINGS)
    assert measured.name in ("float32", "bfloat16")
    assert measured.speedup > 0
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize(
    ("bfloat16", "name", "text"),
    [
        (0.2, "bfloat16", "bfloat16; a step in bfloat16 is 3.0 times as fast as in float32 here"),
        (0.55, "float32", "float32; a step in bfloat16 is 1.1 times as fast as in float32 here"),
        (1.8, "float32", "float32; a step in bfloat16 is 3.0 times as slow as in float32 here"),
    ],
)
def test_bfloat16_is_chosen_where_it_is_clearly_faster(
    bfloat16: float, name: str, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = {"float32": 0.6, "bfloat16": bfloat16}
    monkeypatch.setattr(precision, "seconds_per_step", lambda config, settings, name: seconds[name])
    measured = MeasuredPrecision.of(CONFIGS["rgb-conv-discretized"], SETTINGS)
    assert (measured.name, str(measured)) == (name, text)
