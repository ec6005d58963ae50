"""The auth service as its callers see it: real gRPC, real TLS, a database in a file."""

from __future__ import annotations

from loupe.auth.v1 import policy_service_pb2, session_service_pb2


async def test_the_first_administrator_logs_in_and_is_named(auth):
    """The password that was written at the first start opens accounts/admin."""
    admin = await auth.administrator()
    me = await admin.sessions.WhoAmI(session_service_pb2.WhoAmIRequest())
    assert me.account.name == "accounts/admin"
    assert list(me.account.groups) == ["projects/system/groups/administrators"]


async def test_authorize_answers_a_service(auth):
    """Storage learns who may do what, with group, parameter and threshold."""
    storage = auth.service("storage")
    answer = await storage.policy.Authorize(
        policy_service_pb2.AuthorizeRequest(
            account="accounts/admin", project="projects/system", action="projects.create"
        )
    )
    assert answer.decision.allowed
    assert answer.decision.group == "projects/system/groups/administrators"
    assert answer.revision > 0
