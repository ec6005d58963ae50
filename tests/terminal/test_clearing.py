"""Old versions are cleared away after a new one answers, but none that somebody uses, named, or took unreleased."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from loupe import errors
from loupe.terminal.classifier import Classifier
from loupe.terminal.client import Terminal
from loupe.terminal.installed import MODEL_FILE
from loupe.terminal.locks import Use, unused
from loupe.terminal.profile import ProfileStore
from tests.terminal.test_classify import running

NAME = "projects/line-7/models/screws/versions/{}"


def here(data_folder: Path) -> list[str]:
    """What stands in the model's folder, without the locks."""
    found = (one.name for one in (data_folder / "line-7" / "screws").iterdir())
    return sorted(one for one in found if not one.endswith(".lock"))


@pytest.fixture
def followed(command_line: Callable[..., Any], add_version: Callable[..., Any]) -> Callable[..., Any]:
    """Releases versions, each followed without anything being removed."""

    def follow(*numbers: int) -> None:
        for number in numbers:
            add_version(number)
            assert command_line("follow", "--once").exit_code == 0

    return follow


def test_the_newest_stay_and_older_ones_go_with_their_records(
    command_line: Callable[..., Any], add_version: Callable[..., Any], followed: Callable[..., Any], data_folder: Path
) -> None:
    followed(8, 9, 10)
    assert here(data_folder) == [".10.json", ".8.json", ".9.json", "10", "8", "9"]
    add_version(11)
    result = command_line("follow", "--once", "--keep", "2")
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[1:] == [f"removed {NAME.format(9)}", f"removed {NAME.format(8)}"]
    assert here(data_folder) == [".10.json", ".11.json", "10", "11"]
    (machine,) = command_line("follow", "--once", "--keep", "1", "--json").stdout.splitlines()
    value = json.loads(machine)
    assert (value["fresh"], value["removed"], value["not_removed"]) == (False, [NAME.format(10)], {})
    assert command_line("follow", "--once", "--keep", "0").exit_code == 2


def test_nothing_goes_for_a_version_that_does_not_arrive(
    command_line: Callable[..., Any], make_model: Callable[..., Path], add_version: Callable[..., Any],
    followed: Callable[..., Any], data_folder: Path,
) -> None:  # fmt: skip
    followed(1, 2)
    add_version(3, folder=make_model("bad", golden_shift=0.002))
    assert command_line("follow", "--once", "--keep", "1").exit_code == 3
    assert here(data_folder) == [".1.json", ".2.json", "1", "2"]


def test_what_was_named_or_is_not_released_stays(
    command_line: Callable[..., Any], add_version: Callable[..., Any], followed: Callable[..., Any], data_folder: Path,
    folder: Path,
) -> None:  # fmt: skip
    followed(1, 2, 3)
    add_version(4, released=False)
    assert command_line("model", "pull", "screws/versions/1").exit_code == 0  # it is here already
    assert command_line("classify", "screws/versions/2", folder / "scratch" / "02.png").exit_code == 0
    assert command_line("model", "pull", "screws/versions/4", "--allow-below-target").exit_code == 0
    followed(5, 6)
    assert command_line("follow", "--once", "--keep", "1").exit_code == 0
    assert [one for one in here(data_folder) if one.isdigit()] == ["1", "2", "4", "6"]


def test_what_a_running_classify_uses_stays_until_the_next_time(
    command_line: Callable[..., Any], store: ProfileStore, followed: Callable[..., Any], data_folder: Path, folder: Path
) -> None:
    followed(1)
    environment = {"LOUPE_PROFILE": str(store.path), "XDG_DATA_HOME": str(data_folder.parents[1])}
    picture = f"{folder / 'scratch' / '02.png'}\n"
    with running("classify", "screws", "-", **environment) as process:
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(picture)
        process.stdin.flush()
        assert process.stdout.readline().split("\t")[1] == "dark"
        followed(2)
        result = command_line("follow", "--once", "--keep", "1")
        assert result.exit_code == 0 and "removed" not in result.stdout
        assert f"{NAME.format(1)} was not removed: it is in use" in " ".join(result.stderr.split())
        assert "1" in here(data_folder)
        process.stdin.write(picture)
        process.stdin.flush()
        assert process.stdout.readline().split("\t")[1] == "dark"
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 130
    assert f"removed {NAME.format(1)}" in command_line("follow", "--once", "--keep", "1").stdout
    assert here(data_folder) == [".2.json", "2"]


def test_a_classifier_uses_its_model_for_as_long_as_it_lives(make_model: Callable[..., Path]) -> None:
    model = make_model()
    classifier = Classifier(model)
    with unused(model / MODEL_FILE) as free:
        assert not free
    del classifier
    with unused(model / MODEL_FILE) as free:
        assert free
        with pytest.raises(errors.NotFound, match=r"is being removed; use a newer version"):
            Classifier(model)
    Use(model / MODEL_FILE)


async def test_a_program_that_follows_keeps_as_many(
    store: ProfileStore, add_version: Callable[..., Any], data_folder: Path
) -> None:
    removed = []
    async with Terminal.connect(store) as loupe:
        for number in (1, 2, 3):
            add_version(number)
            (arrived,) = [one async for one in loupe.models.follow("projects/line-7", once=True, keep=2)]
            removed.append([one.number for one in arrived.cleared.removed])
        assert removed == [[], [], ["1"]]
        with pytest.raises(errors.InvalidArgument, match="keep is 0; expected 1 or more"):
            loupe.models.follow("projects/line-7", keep=0)
