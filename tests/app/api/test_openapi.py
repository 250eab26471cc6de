"""Requests made from the OpenAPI document, right ones and wrong ones: no error of ours, and no answer that the document
does not tell of.
"""

import math
from collections import Counter
from collections.abc import Callable
from typing import Any

import hypothesis
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given
from schemathesis import Case, GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.support.services import Running

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
COUNT = 2000


def ask(service: Running, count: int) -> Counter[int]:
    """Send about this many requests over all operations. Returns the number of responses by status."""
    schema = schemathesis.openapi.from_url(f"http://127.0.0.1:{service.port}/openapi.json")
    operations: list[Any] = [result.ok() for result in schema.get_all_operations()]  # type: ignore[union-attr]
    varied = sum(bool(operation.query or operation.body) for operation in operations)
    statuses: Counter[int] = Counter()
    for operation in operations:
        for mode in GenerationMode:
            if mode is GenerationMode.NEGATIVE and not operation.query and not operation.body:
                continue

            @hypothesis.settings(
                # Of right requests for the gallery there are so few that all are soon made.
                max_examples=math.ceil(count / (2 * varied - 1)),
                derandomize=True,
                database=None,
                deadline=None,
                phases=[Phase.generate],
                suppress_health_check=list(HealthCheck),
            )
            @given(case=operation.as_strategy(generation_mode=mode))
            def call_case(case: "Case[Any]") -> None:
                response = case.call()
                statuses[response.status_code] += 1
                # To ask for more than the limits allow is a refusal too, which schemathesis does not count as one.
                checks = CHECKS if response.status_code == 413 else [*CHECKS, negative_data_rejection]
                if response.status_code == 504:  # the client's own deadline may be too short for what it asks for
                    assert case.headers.get("X-Request-Timeout") is not None
                    checks = [check for check in checks if check is not not_a_server_error]
                case.validate_response(response, checks=checks)

            call_case()
    return statuses


@pytest.mark.parametrize("name", ["grey-mlp-discretized", "table-mlp-gaussian"])
def test_two_hundred_requests(running: Callable[..., Running], name: str) -> None:
    statuses = ask(running(name), COUNT // 10)
    assert statuses.keys() >= {200, 422}
    assert sum(statuses.values()) >= COUNT // 10


@pytest.mark.long
@pytest.mark.parametrize("name", ["grey-mlp-discretized", "table-mlp-gaussian"])
def test_two_thousand_requests(running: Callable[..., Running], name: str) -> None:
    assert sum(ask(running(name), COUNT).values()) >= COUNT
