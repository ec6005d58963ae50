"""Domain errors on the wire: bounded, and with the details that generic clients know."""

from __future__ import annotations

import base64
import re
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from loupe.common.v1.reason_pb2 import Reason
from loupe.errors import (
    AlreadyExists,
    BadParameter,
    InvalidArgument,
    LoupeError,
    NotFound,
    PermissionDenied,
    QuotaExceeded,
    Throttled,
    invalid,
    not_found,
)
from loupe.rpc.status import CODES, to_status

ROOT = Path(__file__).resolve().parents[2]
ROOM = 8 << 10
"""Bytes of trailers that every client reads."""


def trailers(status: status_pb2.Status) -> int:
    """Return the size on the wire of the two trailers that tell of an error."""
    return len(quote(status.message)) + len(base64.b64encode(status.SerializeToString()))


def detail(error: LoupeError, kind: type[Message]) -> Any:
    for each in to_status(error)[1].details:
        found = kind()
        if each.Unpack(found):
            return found
    return None


@pytest.mark.parametrize(
    "error",
    [
        BadParameter("x" * 70_000, parameter="x" * 70_000, value="y" * 70_000, expected="a name"),
        not_found("projects/" + "ü" * 100_000),
        invalid("training_job." + "漢" * 5_000, "字" * 5_000, "one of " + "語" * 5_000),
        PermissionDenied("\n" * 9_000, **{f"key-{number}": "\x01" * 900 for number in range(12)}),
    ],
)
def test_whatever_was_sent_its_refusal_fits_into_the_trailers(error: LoupeError) -> None:
    status = to_status(error)[1]
    assert trailers(status) < ROOM - 1024
    assert status.message.endswith("…")
    assert detail(error, error_details_pb2.ErrorInfo).reason == error.reason_name()


def test_a_short_error_is_told_as_it_is() -> None:
    error = AlreadyExists("accounts/anna is taken", resource="accounts/anna")
    status = to_status(error)[1]
    assert status.message == "accounts/anna is taken"
    assert dict(detail(error, error_details_pb2.ErrorInfo).metadata) == error.metadata


def test_one_long_value_leaves_the_short_ones_whole() -> None:
    error = BadParameter("no such parameter", parameter="x" * 70_000, expected="lr, size", value="3")
    metadata = detail(error, error_details_pb2.ErrorInfo).metadata
    assert (metadata["expected"], metadata["value"]) == ("lr, size", "3")
    assert metadata["parameter"].startswith("x" * 850) and metadata["parameter"].endswith("…")


def test_a_bad_field_is_a_field_violation() -> None:
    (violation,) = detail(invalid("page_size", -1, "0 or more"), error_details_pb2.BadRequest).field_violations
    assert (violation.field, violation.description) == ("page_size", "expected 0 or more")
    assert detail(InvalidArgument("no field is to blame"), error_details_pb2.BadRequest) is None


def test_who_is_throttled_is_told_when_to_come_again() -> None:
    error = Throttled("too many logins", retry_after_seconds=30)
    assert detail(error, error_details_pb2.RetryInfo).retry_delay.seconds == 30


def test_a_full_project_is_a_quota_failure() -> None:
    error = QuotaExceeded("it is full", project="projects/line-7", quota="pictures", used=5, limit=5)
    (violation,) = detail(error, error_details_pb2.QuotaFailure).violations
    assert (violation.subject, violation.description) == ("projects/line-7", "it is full")


def test_a_resource_is_named_with_its_collection() -> None:
    info = detail(not_found("projects/a/datasets/b/versions/3"), error_details_pb2.ResourceInfo)
    assert (info.resource_type, info.resource_name) == ("versions", "projects/a/datasets/b/versions/3")
    assert detail(NotFound("nothing is here"), error_details_pb2.ResourceInfo) is None


@pytest.mark.parametrize(
    ("file", "row"),
    [
        ("docs/errors.md", r"^\| `([A-Z_]+)` \| ([A-Z_]+) \|"),
        ("protos/loupe/common/v1/reason.proto", r"REASON_([A-Z_]+): (?:.*\n)+?  // Code: ([A-Z_]+)\.\n"),
    ],
)
def test_documentation_and_contract_tell_the_code_of_every_reason(file: str, row: str) -> None:
    told = re.findall(row, (ROOT / file).read_text(), re.MULTILINE)
    assert dict(told) == {Reason.Name(number).removeprefix("REASON_"): code.name for number, code in CODES.items()}
