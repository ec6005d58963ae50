"""Making dataset versions: gather what was named, wait for its pictures to be decoded, work it out, write it once."""

from __future__ import annotations

import asyncio
import gc
import hashlib
import uuid
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from loupe.annotations import UNLABELLED
from loupe.errors import BadDataset, BlobMissing, InvalidArgument, ResourceExhausted, SizeMismatch, UploadIncomplete
from loupe.errors import invalid as invalid_argument
from loupe.idempotency import Request
from loupe.limits import MAX_DIGESTS
from loupe.names import DatasetVersionName
from services.storage.database.session import Database, Session
from services.storage.datasets.additions import Division, Surroundings, arrange_hashes
from services.storage.datasets.class_splits import divide_changes, left_out, moved, remembered, resplit_breaks
from services.storage.datasets.counts import Strata, count
from services.storage.datasets.datasets import find_dataset, find_version
from services.storage.datasets.derivation import (
    Derivation,
    contradiction,
    counts_after,
    derive,
    lay_out,
    placed_after,
)
from services.storage.datasets.digest import version_digest
from services.storage.datasets.drafts import Draft, NewVersion, VersionFacts
from services.storage.datasets.history import History, left_test, refuse_changed_tests, refuse_moved_tests
from services.storage.datasets.messages import decode_created, decode_facts, encode_created, encode_version
from services.storage.datasets.orders import ChangePart, Changes, CreatedVersion, Part, VersionClosing, VersionOrder
from services.storage.datasets.provenance import carry_over
from services.storage.datasets.selection import (
    Selection,
    leave_out,
    require_classes,
    require_splits,
    select,
    split_is_given,
    unpack_hashes,
    warnings,
)
from services.storage.datasets.splits import Policy, choose_policy
from services.storage.datasets.store import Content, DatasetTable, ItemRow, VersionRow
from services.storage.pictures.admission import Verdict
from services.storage.pictures.indexing import Indexer
from services.storage.pictures.naming import keep_pictures
from services.storage.pictures.store import DAMAGED, IndexRow, PictureTable

MAX_ITEMS = 1_000_000
MAX_ANNOTATION_CHARACTERS = 512 << 20
_VERDICTS_AT_MOST = 1000
_ITEMS_AT_ONCE = 20_000


@dataclass
class _Sent:
    """What came in a stream: items and changes of a base."""

    items: list[ItemRow] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    relabelled: list[tuple[str, str]] = field(default_factory=list)
    annotated: list[tuple[str, str]] = field(default_factory=list)
    annotation_characters: int = 0

    @property
    def change_count(self) -> int:
        """How many changes came."""
        return len(self.removed) + len(self.relabelled) + len(self.annotated)

    def add_changes(self, part: ChangePart) -> None:
        """Take in the changes that come next."""
        self.removed += part.removed
        self.relabelled += part.relabelled
        self.annotated += part.annotated
        self.annotation_characters += sum(len(annotations) for _, annotations in part.annotated)

    def add_items(self, part: Sequence[ItemRow]) -> None:
        """Take in the items that come next."""
        self.items += part
        self.annotation_characters += _annotation_characters(part)

    def changes(self) -> Changes:
        """Return the changes, each picture once. Raises BadDataset for one that would get two labels or annotations."""
        labels: dict[str, str] = {}
        for digest, label in self.relabelled:
            if labels.setdefault(digest, label) != label:
                raise contradiction(digest, f"relabelled as {labels[digest]!r} and as {label!r}")
        annotated: dict[str, str] = {}
        for digest, said in self.annotated:
            if annotated.setdefault(digest, said) != said:
                raise contradiction(digest, "annotated in two ways")
        return Changes(list(dict.fromkeys(self.removed)), labels, annotated)


@dataclass(frozen=True)
class _Base:
    """The version that another one is derived from, as it is stored.

    items: in their order. hashes: their perceptual hashes, 8 bytes each. tested, test_classes: see History.
    """

    row: VersionRow
    facts: VersionFacts
    items: Sequence[ItemRow]
    hashes: bytes
    tested: Mapping[str, ItemRow]
    test_classes: Collection[str]


class DatasetVersions:
    """Makes immutable versions of pictures that were uploaded before.

    now: wall-clock seconds.
    """

    def __init__(self, database: Database, indexer: Indexer, now: Callable[[], float]) -> None:
        self._database = database
        self._indexer = indexer
        self._now = now

    async def create(self, order: VersionOrder, parts: AsyncIterator[Part]) -> CreatedVersion:
        """Make a version, or return the one that has exactly the same items, labels and splits.

        Raises UploadIncomplete, SizeMismatch, BlobMissing, BadDataset, InvalidArgument, NotFound; nothing is made then.
        """
        async with self._database.read() as session:
            await find_dataset(session, order.dataset)
        sent = await _gather(parts, order)
        body = await asyncio.to_thread(_fingerprint, order, sent)
        request = Request(str(order.creator), "CreateDatasetVersion", order.request_id, body)
        if (made := await self._made_before(request)) is not None:
            return made
        try:
            return await self._create(order, request, sent)
        except InvalidArgument:
            # A call that was cut may have made the version after this one had looked for it.
            if (made := await self._made_before(request)) is not None:
                return made
            raise

    async def _made_before(self, request: Request) -> CreatedVersion | None:
        if not request.request_id:
            return None
        async with self._database.write() as session:
            answer = await session.replay(request)
        return None if answer is None else decode_created(answer)

    async def _create(self, order: VersionOrder, request: Request, sent: _Sent) -> CreatedVersion:
        index = await self._index(order.dataset.project, sent.items)
        while True:
            latest, draft = await (self._draft_derived if order.base else self._draft_full)(order, sent, index)
            if (created := await self._write(order, request, latest, draft)) is not None:
                return created

    async def _draft_full(self, order: VersionOrder, sent: _Sent, index: Mapping[str, IndexRow]) -> tuple[int, Draft]:
        """Work out a version of all items that were sent, and on which latest version that rests."""
        latest, history = await self._history(order)
        policy = choose_policy(order.policy, history.policy, resplit=order.resplit)
        rules = History(policy=history.policy) if order.resplit else history
        if split_is_given(sent.items):
            if order.resplit:
                raise invalid_argument("header.resplit", True, "items that do not carry their split")
        elif not order.resplit:
            index = {**index, **await self._known(order.dataset.project, history.tested.keys() - index.keys())}
        items = await asyncio.to_thread(_carry_over, sent.items, history.last, self._now())
        selection = await asyncio.to_thread(select, items, index, policy, rules)
        _refuse_left_out(order, selection.refused)
        if not order.force and not order.resplit:
            refuse_moved_tests(selection.items, history.tested)
            refuse_changed_tests(selection.items, history.last.values())
        left = left_test(selection.items, history.tested)
        said = [*selection.warnings, *left]
        if order.resplit:
            said += resplit_breaks(history, policy, count(selection.items))
        elif policy.by_class and not selection.given:
            said += moved(selection.items, history.last)
        if not order.resplit and not selection.given:
            fresh = (item for item in selection.items if item.split and item.digest not in history.last)
            said += _other_policy(policy, history.policy, sum(1 for _ in fresh))
        draft = await asyncio.to_thread(_draft_of_all, selection, index, policy, said, leaves_test=bool(left))
        by_class = policy.by_class and not draft.given
        kept = remembered(history.test_classes, draft.counts, by_class=by_class, resplit=order.resplit)
        return latest, replace(draft, test_classes=kept)

    async def _history(self, order: VersionOrder) -> tuple[int, History]:
        """Return the number of the latest version, and what is known of it and those before."""
        project, dataset = order.dataset.project, order.dataset.dataset
        async with self._database.read() as session:
            stored = await find_dataset(session, order.dataset)
            latest = stored.latest
            tested = await DatasetTable(session).tested(project, dataset)
            if not latest:
                return 0, History(tested=tested, test_classes=stored.classes_in_test)
            row = await find_version(session, DatasetVersionName(project, dataset, str(latest)))
            items = await _all_items(session, row.uid)
        policy = decode_facts(row.document, items).policy
        return latest, History({item.digest: item for item in items}, tested, policy, stored.classes_in_test)

    async def _draft_derived(
        self, order: VersionOrder, sent: _Sent, index: Mapping[str, IndexRow]
    ) -> tuple[int, Draft]:
        """Work out a version of a base and what changes, and on which latest version that rests."""
        latest, base = await self._base(order)
        split_is_given(sent.items)
        selection = await asyncio.to_thread(leave_out, sent.items, index)
        policy = choose_policy(order.policy, base.facts.policy)
        made = await asyncio.to_thread(
            derive,
            base.items,
            str(base.row.name),
            selection.items,
            sent.changes(),
            {} if policy.by_class else base.tested,
            force=order.force,
            now=self._now(),
        )
        if policy.by_class:
            await asyncio.to_thread(_divide_by_class, base, made, policy, force=order.force)
        if made.to_place:
            selection.warnings += _other_policy(policy, base.facts.policy, len(made.to_place))
        selection.near_duplicate_clusters = base.facts.near_duplicate_clusters
        if made.fresh or made.gone or made.turned:
            selection.near_duplicate_clusters += await self._place(base, made, index, policy)
        selection.refused += made.refused
        _refuse_left_out(order, selection.refused)
        return latest, await asyncio.to_thread(_draft_of_changes, base, made, selection, index, policy)

    async def _base(self, order: VersionOrder) -> tuple[int, _Base]:
        """Return the number of the latest version, and the one that another is to be derived from. Raises NotFound."""
        assert order.base is not None
        project, dataset = order.dataset.project, order.dataset.dataset
        async with self._database.read() as session:
            table = DatasetTable(session)
            stored = await find_dataset(session, order.dataset)
            row = await find_version(session, order.base)
            items = await _all_items(session, row.uid)
            tested = await table.tested(project, dataset)
            hashes = await table.hashes(row.uid)
        if hashes is None:
            known = await self._known(project, [item.digest for item in items])
            hashes = b"".join(known[item.digest].perceptual_hash or b"" for item in items)
        facts = decode_facts(row.document, items)
        return stored.latest, _Base(row, facts, items, hashes, tested, stored.classes_in_test)

    async def _place(self, base: _Base, made: Derivation, index: Mapping[str, IndexRow], policy: Policy) -> int:
        """Give the additions their splits; return how many more clusters of near-duplicates there are then."""
        there = {item.digest for item in [*made.base, *made.fresh]}
        known = await self._known(base.row.project, [digest for digest in base.tested if digest not in there])
        fresh = [index[item.digest].perceptual_hash or b"" for item in made.fresh]
        packed = b"".join([base.hashes, *(row.perceptual_hash or b"" for row in known.values()), *fresh])
        absent = [base.tested[digest] for digest in known]
        nearby = await asyncio.to_thread(Surroundings, made, absent, unpack_hashes(packed))
        needed = await self._known(base.row.project, [digest for digest in nearby.digests if digest not in index])
        counts = counts_after(base.facts.counts, made)
        strata = Strata(counts.regions)
        division = Division(policy, strata, await asyncio.to_thread(placed_after, counts, made, strata))
        around = {**index, **needed}
        if policy.by_class and (out := await asyncio.to_thread(nearby.strangers, around, base.tested, division)):
            made.leave_out({item.digest for item in out})
            made.refused += map(left_out, out)
            return await self._place(base, made, index, policy)
        return await asyncio.to_thread(nearby.place, around, base.tested, division)

    async def _index(self, project: str, items: Sequence[ItemRow]) -> dict[str, IndexRow]:
        digests = list(dict.fromkeys(item.digest for item in items))
        chunks = _chunks(digests)
        async with self._database.read() as session:
            known = {digest for chunk in chunks for digest in await PictureTable(session).known(project, chunk)}
        if missing := [digest for digest in digests if digest not in known]:
            raise _missing(missing)
        for chunk in chunks:
            await self._indexer.ensure(project, chunk)
        async with self._database.read() as session:
            index = {row.digest: row for chunk in chunks for row in await PictureTable(session).index(project, chunk)}
        if damaged := [digest for digest in digests if digest not in index or index[digest].state == DAMAGED]:
            raise _missing(damaged)
        return index

    async def _known(self, project: str, digests: Iterable[str]) -> dict[str, IndexRow]:
        """Return what is known of those pictures that were decoded and were whole, also where they are damaged now."""
        async with self._database.read() as session:
            table = PictureTable(session)
            rows = [row for chunk in _chunks(list(digests)) for row in await table.index(project, chunk)]
        return {row.digest: row for row in rows if row.perceptual_hash}

    async def _write(self, order: VersionOrder, request: Request, latest: int, draft: Draft) -> CreatedVersion | None:
        """Write version and answer in one transaction; None when `latest` is no longer the latest version."""
        async with self._database.write() as session:
            if (answer := await session.replay(request)) is not None:
                return decode_created(answer)
            row = await find_dataset(session, order.dataset, lock=True)
            if row.latest != latest:
                return None
            if order.base:
                await find_version(session, order.base)  # it may have been deleted meanwhile
            version, said = await self._add(session, order, latest, draft)
            created = CreatedVersion(
                version.document, draft.left_out[:_VERDICTS_AT_MOST], len(draft.left_out), [*draft.warnings, *said]
            )
            await session.record(request, encode_created(created))
        return created

    async def _add(
        self, session: Session, order: VersionOrder, latest: int, draft: Draft
    ) -> tuple[VersionRow, list[str]]:
        """Write the version unless there is one with the same items; return it and what is to be said of that."""
        project, dataset = order.dataset.project, order.dataset.dataset
        table = DatasetTable(session)
        known = await table.version_by_digest(project, dataset, draft.digest)
        if known is not None:
            return known, _older(known, latest)
        if missing := await keep_pictures(session, project, [item.digest for _, item in draft.content.placed]):
            raise _missing(missing)
        number, uid = await table.next_number(project, dataset), uuid.uuid4().hex
        name = DatasetVersionName(project, dataset, str(number))
        version = NewVersion(name, uid, draft, order.creator, self._now())
        stored = VersionRow(project, dataset, number, uid, draft.digest, encode_version(version))
        await table.add_version(stored, draft.content, draft.test_classes)
        if draft.leaves_test:
            await table.forget_tested(stored)
        return stored, []


def _draft_of_all(
    selection: Selection, index: Mapping[str, IndexRow], policy: Policy, said: Sequence[str], *, leaves_test: bool
) -> Draft:
    hashes = b"".join(index[item.digest].perceptual_hash or b"" for item in selection.items)
    return Draft(
        content=Content(list(enumerate(selection.items)), hashes=hashes),
        digest=version_digest(selection.items),
        counts=count(selection.items),
        byte_count=sum(item.size for item in selection.items),
        near_duplicate_clusters=selection.near_duplicate_clusters,
        policy=policy,
        given=selection.given,
        left_out=selection.refused + selection.repeated,
        warnings=said,
        leaves_test=leaves_test,
    )


def _draft_of_changes(
    base: _Base, made: Derivation, selection: Selection, index: Mapping[str, IndexRow], policy: Policy
) -> Draft:
    """Put a version together of what stays of its base and what changes. Raises BadDataset, ResourceExhausted."""
    counts = counts_after(base.facts.counts, made)
    require_classes(counts, selection.refused)
    require_splits(counts)
    gone = (base.items[position] for position in made.cut)
    _bound_annotations(
        _annotation_characters(base.items) - _annotation_characters(gone) + _annotation_characters(made.put)
    )
    # Where pictures are divided, none that changes leaves test.
    left = left_test(made.items if policy.by_class else made.fresh, base.tested)
    moves = moved(made.changed.values(), {item.digest: item for item in map(made.base.__getitem__, made.changed)})
    layout = lay_out(base.row.uid, made)
    of_base = unpack_hashes(base.hashes)
    put = {item.digest: int(of_base[position]) for position, item in made.changed.items()}
    put |= {item.digest: int.from_bytes(index[item.digest].perceptual_hash or b"") for item in made.fresh}
    return Draft(
        content=replace(layout.content, hashes=arrange_hashes(layout.content, of_base, put)),
        digest=layout.digest,
        counts=counts,
        byte_count=base.facts.byte_count
        + sum(item.size for item in made.fresh)
        - sum(made.base[position].size for position in made.gone),
        near_duplicate_clusters=selection.near_duplicate_clusters,
        policy=policy,
        given=base.facts.given,
        left_out=selection.refused + selection.repeated,
        warnings=[
            *selection.warnings,
            *left,
            *(moves if policy.by_class else _recalled(made.recalled)),
            *warnings(counts, by_class=policy.by_class and not base.facts.given),
        ],
        base=str(base.row.name),
        added=len(made.fresh),
        removed=len(made.gone),
        relabelled=made.relabelled,
        annotated=made.annotated,
        leaves_test=bool(left),
        test_classes=remembered(base.test_classes, counts, by_class=policy.by_class),
    )


def _divide_by_class(base: _Base, made: Derivation, policy: Policy, *, force: bool) -> None:
    """Put what changes where its class is. Raises BadDataset, also unless it is forced when that takes it out of test.

    A picture that was ever in test follows its class like any other: it is not recalled.
    """
    divide_changes(made, base.test_classes, policy)
    if not force:
        refuse_moved_tests(made.items, base.tested)


def _carry_over(items: Sequence[ItemRow], last: Mapping[str, ItemRow], now: float) -> list[ItemRow]:
    """Return items with what the last version knows of where their annotations come from."""
    before = {item.digest: last[item.digest].annotations for item in items if item.annotations and item.digest in last}
    return [
        item._replace(annotations=carry_over(item.annotations, before.get(item.digest, UNLABELLED), now))
        if item.annotations
        else item
        for item in items
    ]


def _annotation_characters(items: Iterable[ItemRow]) -> int:
    return sum(len(item.annotations) for item in items)


def _bound_annotations(characters: int) -> None:
    """Raise ResourceExhausted when the annotations of a version take more memory than there is for them."""
    if characters > MAX_ANNOTATION_CHARACTERS:
        raise ResourceExhausted(
            f"the annotations of a version have at most {MAX_ANNOTATION_CHARACTERS} characters as they are kept",
            limit="dataset_annotations",
            value=MAX_ANNOTATION_CHARACTERS,
        )


def _recalled(count: int) -> list[str]:
    if not count:
        return []
    return [f"{count} pictures that are not in test in the base were in test in another version, and are again"]


async def _all_items(session: Session, uid: str) -> list[ItemRow]:
    items: list[ItemRow] = []
    # No row is garbage: to look for some at each few hundred of them would take as long as all the rest.
    collecting = gc.isenabled()
    gc.disable()
    try:
        while found := await DatasetTable(session).items(uid, len(items), _ITEMS_AT_ONCE):
            items += found
    finally:
        if collecting:
            gc.enable()
    return items


async def _gather(parts: AsyncIterator[Part], order: VersionOrder) -> _Sent:
    sent = _Sent()
    async for part in parts:
        if isinstance(part, VersionClosing):
            _check_closing(part, len(sent.items), sent.change_count)
            if not sent.items and not order.base:
                raise BadDataset("there are no pictures in this version; name some", problem="empty")
            return sent
        if isinstance(part, ChangePart):
            if not order.base:
                raise invalid_argument("header.base", "", "the version that the changes are made to")
            sent.add_changes(part)
        else:
            sent.add_items(part)
        _bound_annotations(sent.annotation_characters)
        if max(len(sent.items), sent.change_count) > MAX_ITEMS:
            raise ResourceExhausted(
                f"a version has at most {MAX_ITEMS} items, and so many changes", limit="dataset_items", value=MAX_ITEMS
            )
    raise UploadIncomplete("the stream ended without its closing message; no version was made", committed=0)


def _check_closing(closing: VersionClosing, items: int, changes: int) -> None:
    for what, announced, received in (
        ("items", closing.item_count, items),
        ("changes", closing.change_count, changes),
    ):
        if announced != received:
            raise SizeMismatch(
                f"the closing announces {announced} {what}, but {received} came",
                announced=announced,
                received=received,
            )


def _chunks(digests: Sequence[str]) -> list[Sequence[str]]:
    return [digests[start : start + MAX_DIGESTS] for start in range(0, len(digests), MAX_DIGESTS)]


def _missing(digests: Sequence[str]) -> BlobMissing:
    message = f"{len(digests)} of the pictures are not stored in this project; upload them first, then name them"
    return BlobMissing(message, digest=digests[0], count=len(digests))


def _refuse_left_out(order: VersionOrder, refused: Sequence[Verdict]) -> None:
    """Raise BadDataset when pictures are left out although strict was asked for."""
    if order.strict and refused:
        first = refused[0]
        message = f"{len(refused)} pictures cannot be taken, and strict was asked for; the first: {first.message}"
        raise BadDataset(message, problem="pictures_refused", count=len(refused), digest=first.digest)


def _other_policy(policy: Policy, last: Policy | None, fresh: int) -> list[str]:
    if last is None or policy == last:
        return []
    return [
        f"fractions and seed are not those of the last version: they divide the {fresh} new pictures, and all others "
        "stay where they are; ask for a new split (--resplit) to divide all anew"
    ]


def _older(known: VersionRow, latest: int) -> list[str]:
    if known.number == latest:
        return []
    return [
        f"these are exactly the pictures of version {known.number}, so that none was made; the newest is still "
        f"version {latest}"
    ]


def _fingerprint(order: VersionOrder, sent: _Sent) -> bytes:
    said = (str(order.dataset), str(order.base), order.policy, order.strict, order.force, order.resplit)
    total = hashlib.sha256(repr((said, sent.removed, sent.relabelled)).encode())
    for item in sent.items:
        total.update(repr((item.digest, item.label, item.split, item.filename)).encode())
        if item.annotations:
            total.update(item.annotations.encode())
    if sent.annotated:
        total.update(repr(sent.annotated).encode())
    return total.digest()
