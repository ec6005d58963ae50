"""What is wrong with a set-up or login, and what to do: each thing that a terminal needs is tried by itself.

A check never raises: whatever goes wrong in one is its answer. What cannot be tried, since something that it needs has
failed, is skipped.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import shutil
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path

from loupe.errors import FailedPrecondition, InvalidArgument, LoupeError, PermissionDenied, Unavailable
from loupe.terminal.client import Terminal
from loupe.terminal.doors import Door, State, inspect_door
from loupe.terminal.exits import advice, exit_code, from_os_error
from loupe.terminal.profile import Profile, ProfileStore

SECONDS = 8.0
"""How long one check may take."""
EXPIRES_SOON = timedelta(days=30)
SKEW_SECONDS = 5.0
"""The difference of clocks that is worth a word; tokens are refreshed 30 s before they end."""
TOO_MUCH_SKEW_SECONDS = 60.0
ENOUGH_BYTES, TOO_FEW_BYTES = 2_000_000_000, 200_000_000


class Mark(StrEnum):
    """How a check came out."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"
    SKIP = "skip"


@dataclass(frozen=True)
class Check:
    """One line: what was tried, how it came out, what was seen, what to do. exit_code: of a failure, else 0."""

    name: str
    mark: Mark
    seen: str
    advice: str = ""
    exit_code: int = 0


def worst_exit_code(checks: Sequence[Check]) -> int:
    """Return the exit code of the first failure, on which later ones may depend; 0 when nothing failed."""
    return next((check.exit_code for check in checks if check.mark is Mark.FAIL), 0)


class Doctor:
    """Tries everything that a terminal needs, in the order in which it needs it.

    clock: seconds since 1970. models: where pulled models stand.
    """

    def __init__(self, store: ProfileStore, models: Path, clock: Callable[[], float] = time.time) -> None:
        self._store = store
        self._models = models
        self._clock = clock
        self._profile: Profile | None = None
        self._door = False
        self._logged_in = False

    async def examine(self, show: Callable[[Check], None] = lambda check: None) -> list[Check]:
        """Return all checks; show is told of each as it is done."""
        steps: list[tuple[str, Callable[[], Awaitable[list[Check]]]]] = [
            ("profile", self._check_profile),
            ("authority", self._check_authority),
            ("server", self._check_server),
            ("login", self._check_login),
            ("services", self._check_services),
            ("progress", self._check_progress),
            ("disk", self._check_disk),
            ("inference", self._check_inference),
            ("text", self._check_text),
        ]
        found: list[Check] = []
        for name, step in steps:
            for check in await _tried(name, step):
                found.append(check)
                show(check)
        return found

    async def _check_profile(self) -> list[Check]:
        profile = self._store.load()
        self._profile = profile
        return [Check("profile", Mark.OK, f"{self._store.path}, {profile.account or 'nobody logged in'}")]

    async def _check_authority(self) -> list[Check]:
        if self._profile is None:
            return [_skipped("authority", "there is no profile")]
        from cryptography import x509

        try:
            found = x509.load_pem_x509_certificates(self._profile.ca.encode())
        except ValueError as error:
            raise FailedPrecondition(
                f"the CA in the profile is no certificate ({error}); "
                "`loupe login --ca FILE` stores the mesh's ca.pem anew"
            ) from error
        ends, begins = min(one.not_valid_after_utc for one in found), max(one.not_valid_before_utc for one in found)
        now = datetime.fromtimestamp(self._clock(), UTC)
        if now > ends:
            raise FailedPrecondition(
                f"the CA in the profile ended on {ends:%Y-%m-%d}; get the mesh's new ca.pem, `loupe login --ca FILE`"
            )
        if now < begins:
            raise FailedPrecondition(f"the CA in the profile begins on {begins:%Y-%m-%d}; set this machine's clock")
        seen = f"valid until {ends:%Y-%m-%d}"
        if ends - now < EXPIRES_SOON:
            return [Check("authority", Mark.WARN, seen, "get the mesh's new ca.pem before that day")]
        return [Check("authority", Mark.OK, seen)]

    async def _check_server(self) -> list[Check]:
        if self._profile is None:
            return [_skipped("server", "there is no profile")]
        door = await inspect_door(self._profile.server, self._profile.ca)
        if door.state is not State.OPEN:
            raise Unavailable(f"{self._profile.server}: {door.seen}; {door.state.value}", dependency="auth")
        async with Terminal.connect(self._store, retry_seconds=0) as loupe:
            endpoints = await loupe.sessions.endpoints()
        self._door = True
        seen = f"{self._profile.server} is Loupe's, {door.milliseconds:.0f} ms, {door.tls}"
        known = {"storage": endpoints.storage, "scheduler": endpoints.scheduler, "progress": endpoints.nats_url}
        if lacking := [name for name, address in known.items() if not address]:
            right = "wait a moment, then ask whoever runs the mesh: these have not registered"
            return [Check("server", Mark.WARN, f"{seen}; it knows no {', '.join(lacking)}", right)]
        return [_certificate_end(door, seen, self._clock())]

    async def _check_login(self) -> list[Check]:
        if self._profile is None or not self._door:
            return [_skipped("login", "the server was not reached"), _skipped("clock", "the server was not reached")]
        began = self._clock()
        async with Terminal.connect(self._store, retry_seconds=0) as loupe:
            await loupe.sessions.refresh()
            account = await loupe.sessions.who_am_i()
            token = await loupe.sessions.access_token()
        self._logged_in = True
        groups = f"{len(account.groups)} group{'' if len(account.groups) == 1 else 's'}"
        login = Check("login", Mark.OK, f"{account.name}, in {groups}; the token was refreshed")
        return [login, _clock_check(issued_at(token), began, self._clock())]

    async def _check_services(self) -> list[Check]:
        if not self._logged_in:
            return [_skipped(name, "nobody is logged in") for name in ("storage", "scheduler")]

        async def storage() -> list[Check]:
            async with Terminal.connect(self._store, retry_seconds=0) as loupe:
                async for _ in loupe.projects.list():
                    break
            return [Check("storage", Mark.OK, "answers")]

        async def scheduler() -> list[Check]:
            async with Terminal.connect(self._store, retry_seconds=0) as loupe:
                try:
                    clusters = (await loupe.clusters.list()).clusters
                except PermissionDenied:
                    return [Check("scheduler", Mark.OK, "answers")]
            trainers = sum(len(cluster.trainers) for cluster in clusters)
            if not trainers:
                right = "jobs wait until whoever runs the mesh starts one"
                return [Check("scheduler", Mark.WARN, "answers, and knows no trainer", right)]
            return [Check("scheduler", Mark.OK, f"answers, and knows {trainers} trainer{'' if trainers == 1 else 's'}")]

        return [*await _tried("storage", storage), *await _tried("scheduler", scheduler)]

    async def _check_progress(self) -> list[Check]:
        if not self._logged_in or self._profile is None:
            return [_skipped("progress", "nobody is logged in")]
        from loupe.bus import check_access

        async with Terminal.connect(self._store, retry_seconds=0) as loupe:
            url = (await loupe.sessions.endpoints()).nats_url
            token = await loupe.sessions.access_token()
        right = "jobs are followed over the scheduler meanwhile; check that no firewall keeps NATS away"
        try:
            await check_access(url, token=token, ca=self._profile.ca.encode())
        except Unavailable as error:
            return [Check("progress", Mark.WARN, f"{url or 'NATS'}: {error.message}", right)]
        return [Check("progress", Mark.OK, f"NATS at {url} lets this login in")]

    async def _check_disk(self) -> list[Check]:
        place = next(one for one in (self._models, *self._models.parents) if one.exists())
        if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
            raise InvalidArgument(
                f"{place} cannot be written, and models are pulled there; "
                "give this account the right, or pull with --to FOLDER"
            )
        free = shutil.disk_usage(place).free
        seen = f"{free / 1e9:.1f} GB free for models in {self._models}"
        if free < TOO_FEW_BYTES:
            raise Unavailable(f"{seen}; free some space, or pull with --to FOLDER", dependency="disk")
        if free < ENOUGH_BYTES:
            return [Check("disk", Mark.WARN, seen, "a model takes up to some hundred MB: free some space soon")]
        return [Check("disk", Mark.OK, seen)]

    async def _check_inference(self) -> list[Check]:
        def load() -> str:
            import onnxruntime

            if "CPUExecutionProvider" not in onnxruntime.get_available_providers():
                raise ImportError("it has no CPUExecutionProvider")
            return str(onnxruntime.__version__)

        began = time.monotonic()
        try:
            version = await asyncio.to_thread(load)
        except Exception as error:  # what a broken native library raises is not foreseeable
            raise FailedPrecondition(
                f"onnxruntime does not load ({error}); install Loupe again: `classify` and `model pull` need it"
            ) from error
        return [Check("inference", Mark.OK, f"onnxruntime {version}, loaded in {time.monotonic() - began:.1f} s")]

    async def _check_text(self) -> list[Check]:
        encoding = (sys.stdout.encoding or "ascii").lower()
        if encoding.replace("_", "-").startswith("utf"):
            return [Check("text", Mark.OK, f"this terminal shows {encoding.upper()}")]
        right = "set LANG=C.UTF-8; until then names in other scripts are shown as \\u escapes"
        return [Check("text", Mark.WARN, f"this terminal shows {encoding} only", right)]


async def _tried(name: str, step: Callable[[], Awaitable[list[Check]]]) -> list[Check]:
    """Return what a step found; an error that it raises, and one that it does not end in time, is a failure."""
    try:
        async with asyncio.timeout(SECONDS):
            return await step()
    except LoupeError as error:
        return [_failure(name, error)]
    except TimeoutError:
        return [
            _failure(name, Unavailable(f"no answer in {SECONDS:.0f} s; check the network between here and the mesh"))
        ]
    except OSError as error:
        return [_failure(name, from_os_error(error))]


def _failure(name: str, error: LoupeError) -> Check:
    return Check(name, Mark.FAIL, error.message, advice(error), int(exit_code(error)))


def _skipped(name: str, why: str) -> Check:
    return Check(name, Mark.SKIP, f"not tried: {why}")


def _certificate_end(door: Door, seen: str, now: float) -> Check:
    ends = door.certificate_ends
    if ends is not None and ends - datetime.fromtimestamp(now, UTC) < timedelta(days=1):
        right = "if it is not renewed by itself, tell whoever runs the mesh"
        return Check("server", Mark.WARN, f"{seen}; its certificate ends {ends:%Y-%m-%d %H:%M} UTC", right)
    return Check("server", Mark.OK, seen)


def issued_at(token: str) -> float | None:
    """Return when a JWT was issued, seconds since 1970 by the mesh's clock; None for a token of another kind."""
    with contextlib.suppress(ValueError, IndexError, TypeError, KeyError):
        body = token.split(".")[1]
        issued = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))["iat"]
        return float(issued)
    return None


def _clock_check(issued: float | None, began: float, ended: float) -> Check:
    """Compare the time at which a token was issued with the time here around it."""
    if issued is None:
        return _skipped("clock", "the token does not say when it was issued")
    # Whole seconds are what a token has.
    skew = began - (issued + 1) if issued + 1 < began else max(0.0, issued - ended)
    ahead = issued < began
    seen = f"{skew:.0f} s {'ahead of' if ahead else 'behind'} the mesh's" if skew >= 1 else "as the mesh's"
    right = "set this machine's clock, for example by NTP"
    if skew >= TOO_MUCH_SKEW_SECONDS:
        error = FailedPrecondition("clock")
        return Check("clock", Mark.FAIL, f"{seen}: tokens seem to end at the wrong time", right, int(exit_code(error)))
    return Check("clock", Mark.WARN if skew >= SKEW_SECONDS else Mark.OK, seen, right if skew >= SKEW_SECONDS else "")
