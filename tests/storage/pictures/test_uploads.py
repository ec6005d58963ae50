"""Uploading and downloading pictures: what is stored, what is said, what survives a cut."""

from __future__ import annotations

import asyncio
import io
import struct
import zlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest
from PIL import Image

from loupe.errors import (
    BlobMissing,
    DataLoss,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    SizeMismatch,
    UploadIncomplete,
)
from loupe.storage.v1 import blob_service_pb2
from loupe.storage.v1.blob_service_pb2 import PictureProblem
from loupe.terminal import upload
from services.storage.settings import StorageSettings
from tests.cutting_proxy import CuttingProxy
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


async def test_the_second_upload_stores_nothing(anna: Client, house: House) -> None:
    """What is there is not missing; sent again, it is called a duplicate and takes no room."""
    await anna.upload(PICTURES)
    before = folder_size(house.settings.state)
    assert await anna.missing([sha256(each) for each in PICTURES]) == []
    answers = await anna.upload(PICTURES)
    assert answers[-1].stored_count == len(PICTURES)
    assert {verdict.problem for answer in answers for verdict in answer.verdicts} == {
        PictureProblem.PICTURE_PROBLEM_DUPLICATE
    }
    assert folder_size(house.settings.state) == before


def folder_size(state: Path) -> int:
    return sum(
        path.stat().st_size for part in ("open", "files") for path in (state / part).rglob("*") if path.is_file()
    )


async def test_all_five_formats_are_stored(anna: Client) -> None:
    """PNG, JPEG, WebP, BMP and TIFF are taken."""
    kinds = ("PNG", "JPEG", "WEBP", "BMP", "TIFF")
    pictures = [encode(photograph(seed, 24), kind) for seed, kind in enumerate(kinds)]
    answers = await anna.upload(pictures)
    assert answers[0].stored_count == 5
    assert not answers[0].verdicts


def png_header(width: int, height: int) -> bytes:
    """A PNG that promises so many pixels and has almost no data."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    size = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IDAT", zlib.compress(b"\0" * 10)) + chunk(b"IEND", b"")


async def test_what_is_no_picture_gets_a_verdict_each_and_the_rest_is_stored(anna: Client) -> None:
    """A verdict names each refused file and says why; a pixel flood is refused by its header alone."""
    gif = io.BytesIO()
    Image.fromarray(photograph(1)).save(gif, "GIF")
    text, flood, fine = b"not a picture at all", png_header(50_000, 50_000), jpeg(3)
    (answer, _) = await anna.upload([text, gif.getvalue(), flood, fine])
    assert answer.stored_count == 1
    assert {verdict.digest: verdict.problem for verdict in answer.verdicts} == {
        sha256(text): PictureProblem.PICTURE_PROBLEM_NOT_A_PICTURE,
        sha256(gif.getvalue()): PictureProblem.PICTURE_PROBLEM_UNSUPPORTED_FORMAT,
        sha256(flood): PictureProblem.PICTURE_PROBLEM_TOO_LARGE,
    }
    assert all(verdict.message for verdict in answer.verdicts)
    assert await anna.missing([sha256(text), sha256(fine)]) == [sha256(text)]


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "TIFF"])
async def test_a_picture_that_is_cut_off_does_not_stop_the_others(anna: Client, kind: str) -> None:
    """Its header is whole: whether the rest is, is found out in the decoders, and not in the stream."""
    cut, fine = encode(photograph(1), kind)[:-400], jpeg(3)
    (answer, _) = await anna.upload([cut, fine])
    assert answer.stored_count + len(answer.verdicts) == 2
    assert await anna.missing([sha256(fine)]) == []


async def test_a_picture_with_another_digest_is_refused(anna: Client) -> None:
    """Bytes that are not what was announced are not stored under either name."""

    async def lying() -> AsyncIterator[blob_service_pb2.UploadPicturesRequest]:
        yield blob_service_pb2.UploadPicturesRequest(header={"parent": LINE})
        picture = {"digest": "0" * 64, "data": PICTURES[0]}
        yield blob_service_pb2.UploadPicturesRequest(batch={"pictures": [picture]})
        closing = {"picture_count": 1, "byte_count": len(PICTURES[0])}
        yield blob_service_pb2.UploadPicturesRequest(closing=closing)

    answers = await anna.stream(lying)
    assert answers[0].stored_count == 0
    assert answers[0].verdicts[0].problem == PictureProblem.PICTURE_PROBLEM_DIGEST_MISMATCH
    assert await anna.missing(["0" * 64, sha256(PICTURES[0])]) == ["0" * 64, sha256(PICTURES[0])]


@pytest.mark.parametrize(("count", "size"), [(2, 0), (1, 1)])
async def test_a_closing_that_does_not_agree_is_refused(anna: Client, count: int, size: int) -> None:
    """Counts and bytes of the closing must be what came; what was stored stays."""

    async def stream() -> AsyncIterator[blob_service_pb2.UploadPicturesRequest]:
        async for message in picture_stream(PICTURES[:1], closed=False):
            yield message
        closing = {"picture_count": count, "byte_count": len(PICTURES[0]) + size}
        yield blob_service_pb2.UploadPicturesRequest(closing=closing)

    with pytest.raises(SizeMismatch):
        await anna.stream(stream)
    assert await anna.missing([sha256(PICTURES[0])]) == []


async def test_an_upload_cut_at_each_message_is_resumed(anna: Client) -> None:
    """A stream that ends without its closing is an error wherever it ends; then what is missing is sent."""
    batches = 6
    pictures = PICTURES[: batches * 5]
    for sent in range(batches):
        part = pictures[: (sent + 1) * 5]
        with pytest.raises(UploadIncomplete) as caught:
            await anna.stream(partial(picture_stream, part, batch=5, closed=False))
        assert caught.value.metadata["committed"] == str((sent + 1) * 5)
        missing = await anna.missing([sha256(each) for each in pictures])
        assert missing == [sha256(each) for each in pictures[(sent + 1) * 5 :]]
    await anna.upload(pictures)
    found = await anna.download([sha256(each) for each in pictures])
    assert list(found.values()) == pictures


class TerminalsDoor:
    """A terminal's way to storage. after: with how many batches answered its first stream is cut; None: never.

    missing: what it was told is missing, each time that it asked.
    """

    def __init__(self, house: House, terminal: Client, proxy: CuttingProxy, after: int | None = None) -> None:
        self._house = house
        self._terminal = terminal
        self._proxy = proxy
        self._after = after
        self._answered = 0
        self.missing: list[list[str]] = []

    async def find_missing(self, digests: Sequence[str]) -> Sequence[str]:
        self.missing.append(await self._terminal.missing(digests))
        for digest in self.missing[-1][:1]:
            with pytest.raises(BlobMissing):
                await self._terminal.download([digest])
        return self.missing[-1]

    async def upload(
        self, requests: Callable[[], AsyncIterator[blob_service_pb2.UploadPicturesRequest]]
    ) -> AsyncGenerator[blob_service_pb2.UploadPicturesResponse]:
        async for answer in self._terminal.blobs.UploadPictures(self._until_cut(requests())):
            self._answered += 1
            yield answer

    async def _until_cut(
        self, requests: AsyncIterator[blob_service_pb2.UploadPicturesRequest]
    ) -> AsyncIterator[blob_service_pb2.UploadPicturesRequest]:
        sent, asked = 0, self._house.auth.asked
        async for request in requests:
            if self._after is not None and sent == self._after + 1:
                await self._house.asked(asked)
                async with asyncio.timeout(20):
                    while self._answered < self._after:
                        await asyncio.sleep(0.01)
                self._after = None
                self._proxy.cut()
                await asyncio.Event().wait()
            yield request
            sent += 1


def hashed(folder: Path, pictures: Sequence[bytes]) -> list[upload.Hashed]:
    """The pictures as a terminal has them: in files."""
    folder.mkdir()
    for number, data in enumerate(pictures):
        (folder / f"{number}.jpg").write_bytes(data)
    return [upload.Hashed(folder / f"{n}.jpg", sha256(data), len(data)) for n, data in enumerate(pictures)]


@pytest.mark.parametrize("after", range(7))
async def test_a_terminal_goes_on_after_a_cut_at_each_batch(
    anna: Client, house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    """After the header, each batch and before the closing: what was answered is there, and only the rest is sent."""
    monkeypatch.setattr(upload, "BATCH_PICTURES", 2)
    pictures = hashed(tmp_path / "pictures", PICTURES[:12])
    digests = [each.digest for each in pictures]
    async with house.cuttable() as (terminal, proxy), asyncio.timeout(30):
        door = TerminalsDoor(house, terminal, proxy, after)
        uploaded = await upload.upload_pictures(door, LINE, pictures, lambda progress: None)
    assert door.missing == [digests, digests[2 * after :]]
    assert uploaded.cuts
    assert uploaded.pictures == 12
    assert list((await anna.download(digests)).values()) == PICTURES[:12]


async def test_a_terminals_connections_torn_at_any_byte_are_gone_on_from(
    anna: Client, house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever in a message: what is there stays there, and in the end everything is."""
    monkeypatch.setattr(upload, "BATCH_PICTURES", 5)
    pictures = hashed(tmp_path / "pictures", PICTURES)
    async with house.cuttable([40_000, 3_000, 60_000, 50_001]) as (terminal, proxy), asyncio.timeout(30):
        door = TerminalsDoor(house, terminal, proxy)
        uploaded = await upload.upload_pictures(door, LINE, pictures, lambda progress: None)
        assert proxy.spent
    assert uploaded.cuts >= 3
    assert all(set(later) <= set(before) for before, later in pairwise(door.missing))
    assert list((await anna.download([each.digest for each in pictures])).values()) == PICTURES


async def test_a_stream_without_header_is_refused(anna: Client) -> None:
    """The first message must be the header; access is decided by it, so nothing is told about any project."""

    async def stream() -> AsyncIterator[blob_service_pb2.UploadPicturesRequest]:
        yield blob_service_pb2.UploadPicturesRequest(closing={"picture_count": 0})

    with pytest.raises(InvalidArgument):
        await anna.stream(stream)


async def test_a_project_sees_its_own_pictures_only(anna: Client, eve: Client, house: House) -> None:
    """Bytes in one project are missing in another, and its members cannot tell that the first one exists."""
    await anna.upload(PICTURES[:3])
    digests = [sha256(each) for each in PICTURES[:3]]
    assert await eve.missing(digests, OTHER) == digests
    with pytest.raises(BlobMissing):
        await eve.download(digests, OTHER)
    with pytest.raises(NotFound):
        await eve.missing(digests, LINE)
    with pytest.raises(NotFound):
        await eve.upload(PICTURES[:1], LINE)


async def test_below_the_threshold_an_upload_is_refused_with_group_and_numbers(house: House) -> None:
    """A viewer's upload names group, parameter and threshold, and stores nothing."""
    house.auth.levels["vera", "line-7"] = 10
    with pytest.raises(PermissionDenied) as caught:
        await house.client("vera").upload(PICTURES[:1])
    assert caught.value.metadata["parameter"] == "10"
    assert caught.value.metadata["threshold"] == "20"
    assert caught.value.metadata["group"]
    assert await house.client("anna").missing([sha256(PICTURES[0])]) == [sha256(PICTURES[0])]


async def test_everything_is_there_after_a_restart(storage_settings: StorageSettings) -> None:
    """Open and sealed packs are read after a restart, and the open one is gone on with."""
    async with open_house(storage_settings) as house:
        await house.client().upload(PICTURES[:100])
    async with open_house(storage_settings) as house:
        anna = house.client()
        await anna.upload(PICTURES[100:])
        found = await anna.download([sha256(each) for each in PICTURES])
    assert list(found.values()) == PICTURES


async def test_unindexed_bytes_at_a_packs_end_are_cut_off(storage_settings: StorageSettings) -> None:
    """What a crash left behind the last committed picture goes at the next start, and a pack without any row too."""
    async with open_house(storage_settings) as house:
        await house.client().upload(PICTURES[:5])
    (pack,) = (storage_settings.state / "open").iterdir()
    length = pack.stat().st_size
    with pack.open("ab") as file:
        file.write(b"never acknowledged")
    (pack.parent / "orphan").write_bytes(b"x")
    async with open_house(storage_settings) as house:
        assert list(pack.parent.iterdir()) == [pack]
        assert pack.stat().st_size == length
        await house.client().upload(PICTURES[5:10])
        found = await house.client().download([sha256(each) for each in PICTURES[:10]])
    assert list(found.values()) == PICTURES[:10]


async def test_a_flipped_bit_is_noticed_never_served_and_healed(anna: Client, house: House) -> None:
    """A damaged picture is DataLoss; from then on it counts as missing, and uploading it again heals it."""
    await anna.upload(PICTURES[:3])
    (pack,) = (house.settings.state / "open").iterdir()
    data = bytearray(pack.read_bytes())
    position = len(PICTURES[0]) + 100
    data[position] ^= 1
    pack.write_bytes(data)
    digests = [sha256(each) for each in PICTURES[:3]]
    assert (await anna.download([digests[0], digests[2]]))[digests[2]] == PICTURES[2]
    with pytest.raises(DataLoss):
        await anna.download([digests[1]])
    assert await anna.missing(digests) == [digests[1]]
    await anna.upload(PICTURES[:3])
    assert list((await anna.download(digests)).values()) == PICTURES[:3]


async def test_a_truncated_or_vanished_pack_is_noticed(anna: Client, house: House) -> None:
    """A pack that lost its end, or is gone, gives DataLoss."""
    await anna.upload(PICTURES[:3])
    (pack,) = (house.settings.state / "open").iterdir()
    pack.write_bytes(pack.read_bytes()[:-10])
    with pytest.raises(DataLoss):
        await anna.download([sha256(PICTURES[2])])
    pack.unlink()
    with pytest.raises(DataLoss):
        await anna.download([sha256(PICTURES[0])])


async def test_a_download_of_what_is_not_there_sends_nothing(anna: Client) -> None:
    """One unknown digest refuses the whole request and is named."""
    await anna.upload(PICTURES[:1])
    with pytest.raises(BlobMissing) as caught:
        await anna.download([sha256(PICTURES[0]), "f" * 64])
    assert caught.value.metadata == {"digest": "f" * 64, "count": "1"}


async def test_large_pictures_come_in_pieces_and_from_an_offset(anna: Client) -> None:
    """A picture above 1 MiB is sent in pieces that join to the whole, also from an offset on."""
    large = encode(photograph(9, 800), "BMP")
    await anna.upload([large, PICTURES[0]])
    digest = sha256(large)
    assert (await anna.download([digest]))[digest] == large
    found = await anna.download([digest, sha256(PICTURES[0])], offset=1_234_567)
    assert found[digest] == large[1_234_567:]
    assert found[sha256(PICTURES[0])] == PICTURES[0]
