"""The RPCs about accounts: unpack, call, pack."""

from __future__ import annotations

from typing import Any

import grpc

from loupe.auth.v1 import account_service_pb2 as rpc
from loupe.auth.v1.account_service_pb2_grpc import AccountServiceServicer
from loupe.identity import current_caller
from loupe.names import AccountName
from loupe.rpc.calls import acting_account, idempotent, peer_address
from services.auth.accounts.accounts import Accounts
from services.auth.accounts.deletion import AccountDeletion
from services.auth.accounts.messages import pack_account


class AccountServicer(AccountServiceServicer):
    """Serves loupe.auth.v1.AccountService."""

    def __init__(self, accounts: Accounts, deletion: AccountDeletion) -> None:
        self._accounts = accounts
        self._deletion = deletion

    async def CreateAccount(self, request: rpc.CreateAccountRequest, context: object) -> rpc.CreateAccountResponse:
        """Create an account that lands in a group."""
        account = await self._accounts.create(
            acting_account(),
            idempotent("CreateAccount", request, "password"),
            request.account_id,
            request.account.display_name,
            password=request.password,
            group=request.group,
        )
        return rpc.CreateAccountResponse(account=pack_account(account))

    async def GetAccount(self, request: rpc.GetAccountRequest, context: object) -> rpc.GetAccountResponse:
        """Return an account."""
        account = await self._accounts.get(AccountName.parse(request.name), show_deleted=request.show_deleted)
        return rpc.GetAccountResponse(account=pack_account(account))

    async def ListAccounts(self, request: rpc.ListAccountsRequest, context: object) -> rpc.ListAccountsResponse:
        """List all accounts, by id."""
        show_deleted = request.show_deleted
        page, token = await self._accounts.page(request.page_size, request.page_token, show_deleted=show_deleted)
        return rpc.ListAccountsResponse(accounts=map(pack_account, page), next_page_token=token)

    async def DisableAccount(self, request: rpc.DisableAccountRequest, context: object) -> rpc.DisableAccountResponse:
        """Refuse its logins and tokens from now on."""
        account = await self._accounts.set_disabled(acting_account(), AccountName.parse(request.name), True)
        return rpc.DisableAccountResponse(account=pack_account(account))

    async def EnableAccount(self, request: rpc.EnableAccountRequest, context: object) -> rpc.EnableAccountResponse:
        """Let it log in again."""
        account = await self._accounts.set_disabled(acting_account(), AccountName.parse(request.name), False)
        return rpc.EnableAccountResponse(account=pack_account(account))

    async def SetPassword(
        self, request: rpc.SetPasswordRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> rpc.SetPasswordResponse:
        """Change a password and end every login of the account."""
        await self._accounts.set_password(
            acting_account(),
            AccountName.parse(request.name),
            login=current_caller().login,
            old_password=request.old_password,
            new_password=request.new_password,
            peer=peer_address(context),
        )
        return rpc.SetPasswordResponse()

    async def DeleteAccount(self, request: rpc.DeleteAccountRequest, context: object) -> rpc.DeleteAccountResponse:
        """Refuse its logins and tokens and take it out of its groups."""
        once, name = idempotent("DeleteAccount", request), AccountName.parse(request.name)
        account = await self._deletion.delete(acting_account(), name, once)
        return rpc.DeleteAccountResponse(account=pack_account(account))

    async def UndeleteAccount(
        self, request: rpc.UndeleteAccountRequest, context: object
    ) -> rpc.UndeleteAccountResponse:
        """Restore an account that is deleted."""
        once, name = idempotent("UndeleteAccount", request), AccountName.parse(request.name)
        account = await self._deletion.restore(acting_account(), name, once)
        return rpc.UndeleteAccountResponse(account=pack_account(account))
