"""Backends: agreement with torch, and fallback or refusal without it."""

import copy
import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from app.inference import backends
from app.inference.backends import TOLERANCE, Bfloat16, Runtime, relative_error
from app.inference.batcher import Call
from app.inference.functions import ModelFunctions
from model.checkpoint import Checkpoint
from model.errors import ConfigError
from model.scoring.functions import torch_call
from tests.support.models import CONFIGS

Load = Callable[[str], Checkpoint]
NAME = "grey-conv-gaussian"


def tables(checkpoint: Checkpoint, **options: Any) -> tuple[dict[str, Call], dict[str, Call], Runtime]:
    """The calls of a model by torch, its calls with these options, and the runtime of the latter."""
    runtime = Runtime(checkpoint.vae, **options)
    reference = Runtime(checkpoint.vae, engine="torch")
    return ModelFunctions(checkpoint, reference).build(), ModelFunctions(checkpoint, runtime).build(), runtime


def arguments(checkpoint: Checkpoint, rows: int) -> dict[str, tuple[Any, ...]]:
    """Random arguments of this many rows, by call."""
    random = np.random.default_rng(rows)
    z = random.standard_normal((3, rows, checkpoint.vae.config.latent)).astype(np.float32)
    with torch.inference_mode():
        x = checkpoint.vae.decode(torch.from_numpy(z[0])).mean.numpy()
    return {"encode": (x,), "decode": (z[0],), "reconstruct": (x,), "score": (x, z[0], np.abs(z[1]) + 0.1, z[2])}


@pytest.mark.parametrize("name", CONFIGS)
def test_onnxruntime_agrees_with_torch_for_any_number_of_rows(loaded: Load, name: str) -> None:
    checkpoint = loaded(name)
    reference, calls, runtime = tables(checkpoint)
    discretized = checkpoint.vae.config.likelihood.name == "discretized"
    for call, info in runtime.backends.items():
        assert info.engine.startswith("torch " if call.startswith("score") and discretized else "onnxruntime ")
        assert info.error <= TOLERANCE
    for rows in (1, 2, 64):
        for call, inputs in arguments(checkpoint, rows).items():
            for expected, actual in zip(reference[call](*inputs), calls[call](*inputs), strict=True):
                assert expected.dtype == actual.dtype and expected.shape == actual.shape
                np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


def test_bfloat16_is_used_where_it_was_set_and_reports_its_error(loaded: Load) -> None:
    checkpoint = loaded(NAME)
    reference, calls, runtime = tables(checkpoint, precision="bfloat16")
    assert {call: info.precision for call, info in runtime.backends.items()} == {
        "encode": "bfloat16",
        "decode": "bfloat16",
        "posterior": "float32",
        "score": "float32",
    }
    assert isinstance(runtime.fast.encoder, Bfloat16) and runtime.precise is checkpoint.vae
    inputs = arguments(checkpoint, 20)
    for call in ("encode", "decode"):
        assert 1e-5 < runtime.backends[call].error < 0.1
        assert not np.allclose(calls[call](*inputs[call])[0], reference[call](*inputs[call])[0], rtol=1e-5)
    np.testing.assert_allclose(calls["score"](*inputs["score"])[0], reference["score"](*inputs["score"])[0], rtol=1e-4)
    assert tables(checkpoint, score_precision="bfloat16")[2].backends["score"].precision == "bfloat16"
    assert next(checkpoint.vae.encoder.parameters()).dtype == torch.float32


def test_torch_has_no_error_against_itself(loaded: Load) -> None:
    *_, runtime = tables(loaded(NAME), engine="torch")
    assert all(info.engine.startswith("torch ") and info.error == 0 for info in runtime.backends.values())


def doubled(vae: Any, function: Any, _: Any) -> Call:
    """Backend with a bug: its outputs are twice those of torch."""
    call = torch_call(function, vae)
    return lambda *arrays: tuple(2 * output for output in call(*arrays))


def broken(*_: Any) -> Call:
    raise RuntimeError("no such operator")


@pytest.mark.parametrize(("bug", "message"), [(doubled, "differs from torch by 1.0e+00"), (broken, "no such operator")])
def test_a_backend_that_disagrees_or_fails_is_replaced_or_refused_if_set_by_name(
    loaded: Load,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    bug: Callable[..., Call],
    message: str,
) -> None:
    checkpoint = loaded(NAME)
    monkeypatch.setattr(backends, "OnnxCall", bug)
    with caplog.at_level(logging.INFO):
        reference, calls, runtime = tables(checkpoint)
    assert message in caplog.text
    assert all(info.engine.startswith("torch ") for info in runtime.backends.values())
    inputs = arguments(checkpoint, 3)["encode"]
    np.testing.assert_array_equal(calls["encode"](*inputs)[0], reference["encode"](*inputs)[0])
    with pytest.raises(ConfigError, match=r"use engine torch") as caught:
        tables(checkpoint, engine="onnxruntime")
    assert message in str(caught.value)


def test_onnxruntime_is_refused_on_other_devices(loaded: Load) -> None:
    vae = copy.deepcopy(loaded(NAME).vae).to("meta")
    with pytest.raises(ConfigError, match="runs on cpu, not on meta"):
        Runtime(vae, engine="onnxruntime")


def test_a_relative_error_that_is_not_finite_is_infinity() -> None:
    probes = [(np.ones((2, 3), np.float32),)]
    assert relative_error(lambda x: (x,), lambda x: (x + np.nan,), probes) == float("inf")
    assert relative_error(lambda x: (x,), lambda x: (x * 1.5,), probes) == 0.5
