"""The policy in memory: every decision is made here without a look at the database, which stays the truth.

Changes, one's own and those of another process on the same database, come in by revision. What cannot be confirmed
against the database for some seconds, or was found damaged, allows nothing.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Protocol

import structlog

from loupe.access import DEFAULT_THRESHOLDS, Decision
from loupe.errors import DataLoss, LoupeError, Unavailable
from loupe.names import SYSTEM, AccountName, ProjectName
from loupe.notifier import Notifier, wait_for
from services.auth.database.session import Database, Session
from services.auth.policy.project_policy import ProjectPolicy, build_policies
from services.auth.policy.store import ChangeTable, PolicyChange, RuleTable, ThresholdTable

log = structlog.get_logger(__name__)

POLL_SECONDS = 1.0
CONFIRMED_SECONDS = 4.0
"""How long a policy holds without having been compared with the database."""

GROUPS_ADMIN = "groups.admin"
"""The system-wide right to manage the groups of every project."""
SYSTEM_REACHES = frozenset({"groups.read", "groups.write", "accounts.create"})
"""Actions that GROUPS_ADMIN allows in projects that the account is not in."""


class AccountStates(Protocol):
    """Who may act at all, as the accounts' own room stores it."""

    async def enabled(self, names: Sequence[str] | None = None) -> set[str]:
        """Return which of the accounts (None: of all) exist and are neither disabled nor deleted."""

    async def revoked_logins(self, since: float, name: str | None = None) -> dict[str, float]:
        """Return the logins (of an account) that were revoked since a time, with that time."""


class Authority:
    """Decides, from the policy that it keeps in memory.

    accounts: reads who may act, in a session. revoked_seconds: how long a revoked login is remembered; longer than any
    access token lives.
    """

    def __init__(
        self,
        database: Database,
        accounts: Callable[[Session], AccountStates],
        *,
        revoked_seconds: float,
        now: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self._accounts = accounts
        self._revoked_seconds = revoked_seconds
        self._now = now
        self._monotonic = monotonic
        self._lock = asyncio.Lock()
        self._changed = Notifier()
        self._confirmed = float("-inf")
        self.revision = -1
        self._policies: dict[str, ProjectPolicy] = {}
        self._thresholds: dict[str, int] = dict(DEFAULT_THRESHOLDS)
        self._enabled: set[str] = set()
        self._revoked: dict[str, float] = {}

    @property
    def ready(self) -> bool:
        """Whether the policy in memory is whole and was compared with the database just now."""
        return self._monotonic() - self._confirmed < CONFIRMED_SECONDS

    @property
    def thresholds(self) -> Mapping[str, int]:
        """What every action needs."""
        return self._thresholds

    def changed(self) -> asyncio.Event:
        """Return the event that is set, and replaced by a new one, when earlier decisions may no longer hold."""
        return self._changed.next()

    async def decide(self, account: AccountName, project: ProjectName, action: str, login: str) -> Decision:
        """Answer what Casbin decides for the action's threshold. Raises Unavailable while not ready.

        Actions of SYSTEM_REACHES are allowed in every project to who may do GROUPS_ADMIN in the system.
        """
        self._require_ready()
        decision = self._decide(account.account, project.project, action, login)
        if decision.allowed or action not in SYSTEM_REACHES:
            return decision
        system = self._decide(account.account, SYSTEM, GROUPS_ADMIN, login)
        return system if system.allowed else decision

    def _decide(self, account: str, project: str, action: str, login: str) -> Decision:
        policy = self._policies.get(project)
        need = self._thresholds.get(action, 0)
        group = policy.members.get(account) if policy else None
        active = account in self._enabled and login not in self._revoked
        return Decision(
            allowed=active and policy is not None and policy.allows(account, need),
            member=group is not None,
            group=policy.names.get(group, "") if policy and group else "",
            parameter=policy.levels.get(group, 0) if policy and group else 0,
            threshold=need,
            active=active,
        )

    def is_active(self, account: AccountName, login: str) -> bool:
        """Tell whether the account is enabled and the login has not ended. Raises Unavailable."""
        self._require_ready()
        return account.account in self._enabled and login not in self._revoked

    def memberships(self, account: AccountName) -> list[ProjectName]:
        """Return the projects that an account is in, by id. Raises Unavailable while not ready."""
        self._require_ready()
        found = (project for project, policy in self._policies.items() if account.account in policy.members)
        return [ProjectName(project) for project in sorted(found)]

    def allowed_projects(self, account: AccountName, action: str, login: str) -> list[ProjectName]:
        """Return the projects in which the account may do an action, without the system."""
        projects = (project for project in self.memberships(account) if project.project != SYSTEM)
        return [one for one in projects if self._decide(account.account, one.project, action, login).allowed]

    def _require_ready(self) -> None:
        if not self.ready:
            raise Unavailable("auth cannot vouch for its policy now; nothing is allowed meanwhile", dependency="policy")

    async def refresh(self) -> None:
        """Bring memory up to the database's revision. Raises Unavailable, or DataLoss: then nothing holds."""
        async with self._lock:
            asked = self._monotonic()
            try:
                async with self._database.read() as session:
                    await self._follow(session)
            except DataLoss:
                self._confirmed = float("-inf")
                self.revision = -1
                raise
            self._confirmed = asked
            if session.revision != self.revision:
                self.revision = session.revision
                self._changed.notify()

    async def _follow(self, session: Session) -> None:
        changes = await self._pending(session)
        if changes is None:
            await self._load(session)
        else:
            for change in changes:
                await self._apply(session, change)

    async def _pending(self, session: Session) -> list[PolicyChange] | None:
        if session.revision == self.revision:
            return []
        if self.revision < 0 or session.revision < self.revision:
            return None
        return await ChangeTable(session).after(self.revision) or None

    async def _load(self, session: Session) -> None:
        accounts = self._accounts(session)
        policies = await asyncio.to_thread(build_policies, await RuleTable(session).all())
        thresholds = await ThresholdTable(session).all()
        enabled = await accounts.enabled()
        revoked = await accounts.revoked_logins(self._now() - self._revoked_seconds)
        self._policies, self._enabled, self._revoked = policies, enabled, revoked
        self._thresholds = {**DEFAULT_THRESHOLDS, **thresholds}

    async def _apply(self, session: Session, change: PolicyChange) -> None:
        project, key = change.project, change.key
        match change.kind:
            case "group":
                level = await RuleTable(session).level(project, key)
                self._policies[project] = self._policy(project).with_level(key, level)
            case "member":
                group = await RuleTable(session).group_of(project, key)
                self._policies[project] = self._policy(project).with_member(key, group)
            case "project":
                self._policies.pop(project, None)
            case "threshold":
                self._thresholds = {**DEFAULT_THRESHOLDS, **await ThresholdTable(session).all()}
            case "account":
                self._enabled = (self._enabled - {key}) | await self._accounts(session).enabled([key])
            case "logins":
                since = self._now() - self._revoked_seconds
                remembered = {login: at for login, at in self._revoked.items() if at >= since}
                self._revoked = remembered | await self._accounts(session).revoked_logins(since, key)
            case _:
                await self._load(session)

    def _policy(self, project: str) -> ProjectPolicy:
        return self._policies.get(project) or ProjectPolicy(project, {}, {})

    async def revisions(self) -> AsyncIterator[int]:
        """Yield the revision at once, at changes and every second. Raises Unavailable while not ready."""
        while True:
            changed = self._changed.next()
            self._require_ready()
            yield self.revision
            await wait_for(changed, POLL_SECONDS)

    async def poll(self) -> None:
        """Refresh every second, for ever: a change by another process holds within two seconds here."""
        was_ready = self.ready
        while True:
            try:
                await self.refresh()
            except LoupeError as error:
                log.warning("the policy could not be confirmed", error=error.message)
            if was_ready and not self.ready:
                self._changed.notify()
            was_ready = self.ready
            await asyncio.sleep(POLL_SECONDS)
