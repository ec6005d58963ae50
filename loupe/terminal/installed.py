"""The model versions that stand on this machine: which there are, whether they were released, and the newest one.

A pulled version stands in `models/{project}/{model}/{number}` of the user's data folder. A record beside it,
`.{number}.json`, says what the library said of it; it is written before the version is, so that no version is here
without one.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from loupe.errors import InvalidArgument, NotFound
from loupe.names import ModelName, ModelVersionName
from loupe.terminal.whole_files import write_whole

if TYPE_CHECKING:
    from loupe.storage.v1.model_pb2 import ModelVersion

MODEL_FILE = "model.json"
"""The file without which a folder is no model."""


@dataclass(frozen=True)
class Installed:
    """A version that stands on this machine.

    released: it passed its gate, as the library said when it was pulled. named: somebody asked for this very version.
    """

    name: ModelVersionName
    folder: Path
    released: bool
    named: bool


class NotInstalled(NotFound):
    """No version of the model stands on this machine, or none that was released."""


def models_folder() -> Path:
    """Return where all pulled versions stand unless another folder is named."""
    import platformdirs

    return Path(platformdirs.user_data_dir("loupe")) / "models"


def default_folder(name: ModelVersionName) -> Path:
    """Return where a pulled version stands unless another folder is named: one for each in the user's data folder."""
    return models_folder() / name.project / name.model / name.number


def record(version: ModelVersion, *, named: bool = False) -> None:
    """Write what the library says of a version beside the place where it will stand: the old record or the new one.

    named: somebody asked for this very version; that is not forgotten.
    """
    folder = default_folder(ModelVersionName.parse(version.name))
    folder.parent.mkdir(parents=True, exist_ok=True)
    document = {"model": version.name, "uid": version.uid, "released": version.released}
    named = named or _recorded(folder).get("named") is True
    write_whole(record_of(folder), json.dumps(document | {"named": named}))


def record_named(name: ModelVersionName) -> None:
    """Write down that somebody asked for this very version, which stands here with a record."""
    folder = default_folder(name)
    document = _recorded(folder)
    if document and document.get("named") is not True:
        write_whole(record_of(folder), json.dumps(dict(document) | {"named": True}))


def installed_versions(model: ModelName) -> list[Installed]:
    """Return the versions of a model that stand here, newest first."""
    place = models_folder() / model.project / model.model
    numbers = [one.name for one in _folders(place) if one.name.isascii() and one.name.isdigit()]
    names = [ModelVersionName(model.project, model.model, each) for each in sorted(numbers, key=int, reverse=True)]
    return [_installed(one, place / one.number) for one in names]


def newest_installed(model: ModelName, *, allow_below_target: bool = False) -> Installed:
    """Return the newest version that stands here and was released; with allow_below_target, also one that was not.

    Raises NotInstalled, which says what to do.
    """
    found = installed_versions(model)
    for one in found:
        if one.released or allow_below_target:
            return one
    if found:
        only, number = "the only version" if len(found) == 1 else "the newest version", found[0].name.number
        raise NotInstalled(
            f"{only} of {model} on this machine is not released: `{model.model}/versions/{number}`; use it with "
            f"--allow-below-target, or get one that is with `loupe model pull {model.model} --project {model.project}`",
            resource=model,
        )
    raise NotInstalled(
        f"no version of {model} is installed on this machine; `loupe model pull {model.model} --project "
        f"{model.project}` brings the newest, `loupe follow {model.project}` each new one by itself",
        resource=model,
    )


def installed_model(model: str) -> ModelName:
    """Return the one model of this id that stands here, whatever its project.

    Raises NotInstalled where there is none, InvalidArgument where projects have one each.
    """
    found = [place.parent.name for place in sorted(models_folder().glob(f"*/{model}")) if any(_folders(place))]
    if not found:
        raise NotInstalled(
            f"no version of a model {model} is installed on this machine; `loupe model pull {model} --project ID` "
            "brings the newest",
            resource=model,
        )
    if len(found) > 1:
        raise InvalidArgument(
            f"models {model} of {len(found)} projects are installed here ({', '.join(found)}); choose one with "
            "--project ID",
            field="project",
            value=model,
        )
    return ModelName(found[0], model)


def record_of(folder: Path) -> Path:
    """Return the file that says of the version in this folder what the library said."""
    return folder.with_name(f".{folder.name}.json")


def _folders(place: Path) -> Iterator[Path]:
    """Yield the folders of a place that hold a model."""
    if place.is_dir():
        yield from (one for one in place.iterdir() if (one / MODEL_FILE).is_file())


def _installed(name: ModelVersionName, folder: Path) -> Installed:
    document = _recorded(folder)
    return Installed(name, folder, document.get("released") is True, document.get("named") is True)


def _recorded(folder: Path) -> Mapping[str, object]:
    """Return what the record says; without one, or with a damaged one, a version does not count as released."""
    try:
        document = json.loads(record_of(folder).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return document if isinstance(document, dict) else {}
