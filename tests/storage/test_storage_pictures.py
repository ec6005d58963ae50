"""Uploading pictures: what is stored, what is said, what survives a cut."""

from __future__ import annotations

import asyncio

import pytest

from loupe.errors import BlobMissing, DataLoss, NotFound, SizeMismatch, UploadIncomplete
from loupe.storage.v1 import blob_service_pb2
from loupe.storage.v1.blob_service_pb2 import PictureProblem
from tests.storage.house import LINE, OTHER, Client, House, open_house, picture_stream
from tests.storage.photographs import encode, jpeg, photograph, sha256

PICTURES = [jpeg(seed) for seed in range(120)]


async def test_what_was_uploaded_comes_back_in_the_order_asked_for(anna: Client) -> None:
    """Pictures over several packs come back whole, in any order; the last answer is complete."""
    answers = await anna.upload(PICTURES, batch=20)
    assert [answer.stored_count for answer in answers] == [20, 40, 60, 80, 100, 120, 120]
    assert [answer.complete for answer in answers] == [False] * 6 + [True]
    digests = [sha256(each) for each in reversed(PICTURES)]
    found = await anna.download(digests)
    assert list(found) == digests
    assert [found[digest] for digest in digests] == PICTURES[::-1]
