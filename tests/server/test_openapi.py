"""Whatever the OpenAPI document allows or forbids, the answers are the ones it describes."""

from __future__ import annotations

from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from running_servers import TOKEN, Threaded, task_bytes
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    ignored_auth,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    negative_data_rejection,
    unsupported_method,
    ignored_auth,
]


# Schemathesis' own way into pytest leans on private parts of pytest that change.
OPERATIONS = [
    ("GET", "/v1/health"),
    ("GET", "/v1/models"),
    ("POST", "/v1/jobs"),
    ("GET", "/v1/jobs"),
    ("GET", "/v1/jobs/{job_id}"),
    ("DELETE", "/v1/jobs/{job_id}"),
    ("GET", "/v1/jobs/{job_id}/events"),
    ("POST", "/v1/jobs/{job_id}/cancel"),
    ("GET", "/v1/jobs/{job_id}/preview"),
    ("GET", "/v1/jobs/{job_id}/result"),
    ("GET", "/v1/jobs/{job_id}/task"),
]


@pytest.fixture(scope="module")
def schema(shared_server: Threaded) -> schemathesis.BaseSchema:
    headers = {"Authorization": f"Bearer {TOKEN}"}
    return schemathesis.openapi.from_url(f"{shared_server.url}/v1/openapi.json", headers=headers)


def test_no_operation_is_left_out(schema: schemathesis.BaseSchema) -> None:
    found = {(op.method.upper(), op.path) for op in map(_ok, schema.get_all_operations())}
    assert found == set(OPERATIONS)


def _ok(result: Any) -> schemathesis.APIOperation:
    return result.ok()


@schemathesis.serializer("application/x-fieldforge")
def _bytes_as_they_are(ctx: Any, value: bytes) -> bytes:
    return value


@pytest.mark.parametrize(
    ("method", "path", "mode"),
    [
        (*operation, mode)
        for operation in OPERATIONS
        for mode in GenerationMode
        # There is nothing in this call that could be wrong.
        if (operation, mode) != (("GET", "/v1/health"), GenerationMode.NEGATIVE)
    ],
)
def test_answers_are_as_described(
    schema: schemathesis.BaseSchema, talk: Threaded, method: str, path: str, mode: GenerationMode
) -> None:
    operation = schema[path][method]

    @settings(max_examples=10, suppress_health_check=list(HealthCheck))
    @given(case=operation.as_strategy(generation_mode=mode))
    def check(case: schemathesis.Case) -> None:
        if case.path_parameters and case.path_parameters.get("job_id"):
            point_at_a_job(case, talk)
        if isinstance(case.body, bytes) and len(case.body) % 2 and mode == "positive":
            case.body = task_bytes()
        case.call_and_validate(checks=CHECKS, headers={"Authorization": f"Bearer {TOKEN}"})

    check()


def point_at_a_job(case: schemathesis.Case, talk: Threaded) -> None:
    """Let every other call meet a job that exists, or else all answers are 404."""
    job_id = str(case.path_parameters["job_id"])
    if len(job_id) == 32 and sum(job_id.encode()) % 2:
        case.path_parameters["job_id"] = talk.run("quick")["id"]


def test_the_document_knows_the_body_of_a_task(talk: Threaded) -> None:
    document = talk.http.get("/v1/openapi.json").json()
    body = document["paths"]["/v1/jobs"]["post"]["requestBody"]
    assert body["required"] is True
    assert list(body["content"]) == ["application/x-fieldforge"]
    assert talk.http.post("/v1/jobs", content=task_bytes()).status_code == 202
    assert document["components"]["securitySchemes"]["HTTPBearer"]["scheme"] == "bearer"
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            assert ("security" in operation) == (path != "/v1/health"), (path, method)
