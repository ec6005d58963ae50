"""Projects: made once, finished after a cut, listed to those who are in them."""

from __future__ import annotations

import pytest

from loupe.errors import (
    AlreadyExists,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    RequestIdReused,
    Unavailable,
)
from loupe.storage.v1 import project_service_pb2 as messages
from services.storage.app import Storage
from services.storage.settings import StorageSettings
from tests.storage.house import Client, House, MadeUpAuth, open_house


def request(project_id: str, display_name: str = "", request_id: str = "") -> messages.CreateProjectRequest:
    return messages.CreateProjectRequest(
        project_id=project_id, project={"display_name": display_name}, request_id=request_id
    )


async def test_a_project_has_its_creator_as_owner(anna: Client, house: House) -> None:
    """It can be read at once by who made it, and by nobody else."""
    made = (await anna.projects.CreateProject(request("press-3", "Press 3"))).project
    assert (made.name, made.display_name) == ("projects/press-3", "Press 3")
    assert house.auth.owners["press-3"] == (made.uid, "anna")
    assert (await anna.projects.GetProject(messages.GetProjectRequest(name="projects/press-3"))).project == made
    for name in ("projects/press-3", "projects/absent"):
        with pytest.raises(NotFound):
            await house.client("eve").projects.GetProject(messages.GetProjectRequest(name=name))


async def test_an_id_is_taken_once(anna: Client, eve: Client) -> None:
    """Twice by another request, or by somebody else: AlreadyExists. The same request: the same answer."""
    made = await anna.projects.CreateProject(request("press-3", request_id="r1"))
    assert await anna.projects.CreateProject(request("press-3", request_id="r1")) == made
    with pytest.raises(AlreadyExists):
        await anna.projects.CreateProject(request("press-3"))
    with pytest.raises(AlreadyExists):
        await eve.projects.CreateProject(request("press-3"))
    with pytest.raises(RequestIdReused):
        await anna.projects.CreateProject(request("press-4", request_id="r1"))


async def test_a_creation_that_was_cut_is_finished_by_trying_again(anna: Client, eve: Client, house: House) -> None:
    """With auth away the call fails and the project is not there; the same call later goes on, with one uid."""
    house.auth.away = True
    with pytest.raises(Unavailable):
        await anna.projects.CreateProject(request("press-3", request_id="r1"))
    house.auth.away = False
    house.auth.levels["anna", "press-3"] = 40
    with pytest.raises(NotFound):
        await anna.projects.GetProject(messages.GetProjectRequest(name="projects/press-3"))
    with pytest.raises(AlreadyExists):
        await eve.projects.CreateProject(request("press-3"))
    first = (await anna.projects.CreateProject(request("press-3"))).project
    again = (await anna.projects.CreateProject(request("press-3", request_id="r1"))).project
    assert first.uid == again.uid == house.auth.owners["press-3"][0]


@pytest.mark.parametrize("project_id", ["system", "", "Line", "a/b", "a" * 64, "-a", "line_7"])
async def test_an_id_that_cannot_be_is_refused(anna: Client, project_id: str) -> None:
    """system stands for the whole mesh; the rest breaks the pattern."""
    with pytest.raises(InvalidArgument) as caught:
        await anna.projects.CreateProject(request(project_id))
    assert caught.value.metadata["field"] == "project_id"


async def test_below_the_threshold_no_project_is_made(house: House) -> None:
    """Making projects is a system-wide right."""
    with pytest.raises(PermissionDenied):
        await house.client("vera").projects.CreateProject(request("press-3"))


async def test_one_sees_the_projects_that_one_is_in(anna: Client) -> None:
    """By id, page by page, without eve's."""
    for name in ("c", "a", "b"):
        await anna.projects.CreateProject(request(name))
    page = await anna.projects.ListProjects(messages.ListProjectsRequest(page_size=3))
    assert [each.name for each in page.projects] == ["projects/a", "projects/b", "projects/c"]
    page = await anna.projects.ListProjects(messages.ListProjectsRequest(page_token=page.next_page_token))
    assert [each.name for each in page.projects] == ["projects/line-7"]
    assert not page.next_page_token


async def test_two_processes_never_work_in_one_folder(storage_settings: StorageSettings) -> None:
    """The second one does not start: it would write over the first one's packs."""
    async with open_house(storage_settings):
        second = Storage(storage_settings, MadeUpAuth())
        with pytest.raises(FailedPrecondition):
            await second.start()
        await second.stop()
