"""The SDK's face: one object per login, with a noun for everything that a terminal does."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from loupe.auth.v1 import session_service_pb2 as sessions
from loupe.terminal.administration import Accounts, Groups, Policy, Projects
from loupe.terminal.algorithms import Algorithms
from loupe.terminal.audit import Audit
from loupe.terminal.blobs import Blobs
from loupe.terminal.connection import RETRY_SECONDS, Connection
from loupe.terminal.datasets import Datasets
from loupe.terminal.jobs import Clusters, Jobs
from loupe.terminal.models import Models
from loupe.terminal.profile import ProfileStore
from loupe.terminal.sessions import Sessions
from loupe.terminal.tokens import TokenKeeper


class Terminal:
    """Speaks to one mesh as one account. Every method raises LoupeError for what can be acted on.

    It opens with `Terminal.connect`, which needs a profile with the server and its authority; `sessions.login` fills
    in the tokens, and later terminals with the same profile are logged in.
    """

    def __init__(self, connection: Connection, store: ProfileStore) -> None:
        keeper = TokenKeeper(store, self._refresh)
        connection.tokens = keeper
        self._connection = connection
        self.sessions = Sessions(connection, store, keeper)
        self.accounts = Accounts(connection)
        self.groups = Groups(connection)
        self.policy = Policy(connection)
        self.projects = Projects(connection)
        self.datasets = Datasets(connection)
        self.blobs = Blobs(connection)
        self.algorithms = Algorithms(connection)
        self.jobs = Jobs(connection)
        self.clusters = Clusters(connection)
        self.models = Models(connection)
        self.audit = Audit(connection)

    @classmethod
    @contextlib.asynccontextmanager
    async def connect(
        cls, store: ProfileStore | None = None, *, retry_seconds: float = RETRY_SECONDS
    ) -> AsyncIterator[Terminal]:
        """Open a terminal with the profile of `store` and close its connections at the end.

        retry_seconds: how long a call waits for a service that is away. Raises Unauthenticated without a profile.
        """
        store = store or ProfileStore()
        profile = store.load()
        connection = Connection(profile.server, profile.ca.encode(), retry_seconds=retry_seconds)
        try:
            yield cls(connection, store)
        finally:
            await connection.aclose()

    async def _refresh(self, refresh_token: str, request_id: str) -> sessions.Tokens:
        request = sessions.RefreshRequest(refresh_token=refresh_token, request_id=request_id)
        return (await self._connection.anonymous.call(lambda stub: stub.Refresh, request)).tokens
