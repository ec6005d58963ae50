"""Resource names and page tokens: parsed strictly, given back as they came."""

from __future__ import annotations

import pytest

from loupe import names, paging
from loupe.errors import BadPageToken, InvalidArgument


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (names.AccountName, "accounts/anna"),
        (names.GroupName, "projects/line-7/groups/owners"),
        (names.DatasetVersionName, "projects/line-7/datasets/screws/versions/12"),
        (names.DatasetVersionName, "projects/line-7/datasets/screws/versions/latest"),
        (names.AlgorithmVersionName, "algorithms/finetune/versions/1.0.0"),
        (names.ThresholdName, "thresholds/datasets.write"),
        (names.TrainerName, "clusters/north/trainers/a"),
    ],
)
def test_a_name_survives_parsing(kind: type[names.Name], text: str) -> None:
    assert str(kind.parse(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "projects/",
        "projects/A/jobs/j",
        "projects/p/jobs/../x",
        "projects/p/jobs/j/",
        "projects/p/jobs/j\n",
        "projects/p-/jobs/j",
        "projects/p1, x/jobs/j",
        "xprojects/p/jobs/j",
        "projects/" + "p" * 64 + "/jobs/j",
    ],
)
def test_what_is_no_job_name_is_refused_with_the_pattern(text: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        names.JobName.parse(text, "job")
    assert caught.value.metadata["field"] == "job"
    assert "projects/{project}/jobs/{job}" in caught.value.message


def test_the_project_of_a_name_is_its_first_id() -> None:
    assert names.project_of("projects/p/anything/at all") == names.ProjectName("p")
    with pytest.raises(InvalidArgument):
        names.project_of("projects/P")


def test_a_page_token_belongs_to_its_list() -> None:
    token = paging.encode("projects/p/jobs?states=", ["2026", 7])
    assert paging.decode("projects/p/jobs?states=", token) == ["2026", 7]
    for scope, bad in (("projects/q/jobs?states=", token), ("projects/p/jobs?states=", "x" + token)):
        with pytest.raises(BadPageToken):
            paging.decode(scope, bad)


def test_page_sizes_are_bounded() -> None:
    assert [paging.page_size(n) for n in (0, 7, 5000)] == [50, 7, 1000]
    with pytest.raises(InvalidArgument):
        paging.page_size(-1)
