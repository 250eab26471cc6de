"""What computes the calls of a model: held against torch, and refused or replaced where it is not the same."""

import copy
import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from app.inference import backends as runtime
from app.inference.backends import TOLERANCE, Bfloat16, Runtime
from app.inference.batcher import Call
from app.inference.functions import ModelFunctions
from model.checkpoint import Checkpoint
from model.errors import ConfigError
from model.scoring.functions import torch_call
from tests.conftest import CONFIGS

Load = Callable[[str], Checkpoint]
NAME = "grey-conv-gaussian"


def tables(found: Checkpoint, **asked: Any) -> tuple[dict[str, Call], dict[str, Call], Runtime]:
    """The calls of a model by torch and as asked for, and how the latter are made."""
    made = Runtime(found.vae, **asked)
    return ModelFunctions(found, Runtime(found.vae, engine="torch")).build(), ModelFunctions(found, made).build(), made


def arguments(found: Checkpoint, rows: int) -> dict[str, tuple[Any, ...]]:
    chance = np.random.default_rng(rows)
    z = chance.standard_normal((3, rows, found.vae.config.latent)).astype(np.float32)
    with torch.inference_mode():
        x = found.vae.decode(torch.from_numpy(z[0])).mean.numpy()
    return {"encode": (x,), "decode": (z[0],), "reconstruct": (x,), "score": (x, z[0], np.abs(z[1]) + 0.1, z[2])}


@pytest.mark.parametrize("name", CONFIGS)
def test_onnxruntime_computes_what_torch_does_for_any_number_of_rows(loaded: Load, name: str) -> None:
    found = loaded(name)
    reference, calls, made = tables(found)
    discretized = found.vae.config.likelihood.name == "discretized"
    for call, how in made.made.items():
        assert how.engine.startswith("torch " if call == "score" and discretized else "onnxruntime ")
        assert how.error <= TOLERANCE
    for rows in (1, 2, 64):
        for call, given in arguments(found, rows).items():
            for ours, theirs in zip(reference[call](*given), calls[call](*given), strict=True):
                assert ours.dtype == theirs.dtype and ours.shape == theirs.shape
                np.testing.assert_allclose(theirs, ours, rtol=1e-4, atol=1e-4 * np.abs(ours).max())


def test_bfloat16_is_for_what_was_asked_and_tells_its_error(loaded: Load) -> None:
    found = loaded(NAME)
    reference, calls, made = tables(found, precision="bfloat16")
    assert {call: how.precision for call, how in made.made.items()} == {
        "encode": "bfloat16",
        "decode": "bfloat16",
        "posterior": "float32",
        "score": "float32",
    }
    assert isinstance(made.quick.encoder, Bfloat16) and made.exact is found.vae
    given = arguments(found, 20)
    for call in ("encode", "decode"):
        assert 1e-5 < made.made[call].error < 0.1
        assert not np.allclose(calls[call](*given[call])[0], reference[call](*given[call])[0], rtol=1e-5)
    np.testing.assert_allclose(calls["score"](*given["score"])[0], reference["score"](*given["score"])[0], rtol=1e-4)
    # Scores too, where that is asked for.
    assert tables(found, score_precision="bfloat16")[2].made["score"].precision == "bfloat16"
    assert next(found.vae.encoder.parameters()).dtype == torch.float32


def test_torch_is_the_reference_itself(loaded: Load) -> None:
    *_, made = tables(loaded(NAME), engine="torch")
    assert all(how.engine.startswith("torch ") and how.error == 0 for how in made.made.values())


def doubled(*given: Any) -> Call:
    """A runtime with a bug."""
    return lambda *arrays: tuple(2 * part for part in torch_call(given[1], given[0])(*arrays))


def broken(*_: Any) -> Call:
    raise RuntimeError("no such operator")


@pytest.mark.parametrize(("bug", "said"), [(doubled, "1.0e+00 away from torch"), (broken, "no such operator")])
def test_a_runtime_that_disagrees_or_fails_is_refused_by_name_and_else_replaced(
    loaded: Load,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    bug: Callable[..., Call],
    said: str,
) -> None:
    found = loaded(NAME)
    monkeypatch.setattr(runtime, "OnnxCall", bug)
    with caplog.at_level(logging.INFO):
        reference, calls, made = tables(found)
    assert said in caplog.text
    assert all(how.engine.startswith("torch ") for how in made.made.values())
    given = arguments(found, 3)["encode"]
    np.testing.assert_array_equal(calls["encode"](*given)[0], reference["encode"](*given)[0])
    with pytest.raises(ConfigError, match=r"use engine torch") as caught:
        tables(found, engine="onnxruntime")
    assert said in str(caught.value)


def test_onnxruntime_is_refused_on_other_devices(loaded: Load) -> None:
    elsewhere = copy.deepcopy(loaded(NAME).vae).to("meta")
    with pytest.raises(ConfigError, match="runs on cpu, not on meta"):
        Runtime(elsewhere, engine="onnxruntime")


def test_disagreement_that_is_no_number_is_infinite() -> None:
    one = (np.ones((2, 3), np.float32),)
    assert runtime.disagreement(lambda x: (x,), lambda x: (x + np.nan,), [one]) == float("inf")
    assert runtime.disagreement(lambda x: (x,), lambda x: (x * 1.5,), [one]) == 0.5
