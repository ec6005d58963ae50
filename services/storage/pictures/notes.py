"""What a person should know of how whole pictures were read, as it stands in the index and is told with a version."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

from services.storage.pictures.inspection import Inspected

_FRAMES = "several pages or frames, of which the first was taken"
_WIDE = "more than 8 bits, white is "
_OWN_RANGE = " by the picture's own range"
_KINDS_AT_MOST = 5
_NAMED_AT_MOST = 5


def written(told: Inspected) -> str:
    """Return a picture's notes, one a line, as the index keeps them; empty when there is nothing to say.

    >>> from loupe.picture import White
    >>> print(written(Inspected("", frames=3, white=White(4095, told=True))))
    several pages or frames, of which the first was taken
    more than 8 bits, white is 4095 as the file says
    """
    notes = [_FRAMES] if told.frames > 1 else []
    if told.white:
        notes.append(f"{_WIDE}{told.white.value:.10g}{' as the file says' if told.white.told else _OWN_RANGE}")
    return "\n".join(notes)


def summary(noted: Iterable[tuple[str, str]]) -> list[str]:
    """Return sentences over pictures and their notes: each kind of note once, the commonest first, with some names.

    noted: what a picture is called, and what the index keeps of it.
    """
    kinds: defaultdict[str, list[str]] = defaultdict(list)
    for name, notes in noted:
        for note in notes.splitlines():
            kinds[note].append(name)
    ordered = sorted(kinds.items(), key=lambda kind: (-len(kind[1]), kind[0]))
    told = [f"{note}: {_listed(names)}" for note, names in ordered[:_KINDS_AT_MOST]]
    if rest := ordered[_KINDS_AT_MOST:]:
        told.append(f"{len(rest)} more kinds of scaling: {_listed([name for _, names in rest for name in names])}")
    if sum(note.startswith(_WIDE) for note in kinds) > 1 and any(note.endswith(_OWN_RANGE) for note in kinds):
        told.append(
            "white is not the same in all pictures of more than 8 bits, so one grey is brighter in some than in others;"
            " where one camera took them, let the files say it: TIFF's MaxSampleValue, or PNG's sBIT"
        )
    return told


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(sorted(names)[:_NAMED_AT_MOST])
    more = f" and {len(names) - _NAMED_AT_MOST} more" if len(names) > _NAMED_AT_MOST else ""
    return f"{len(names)} picture{'' if len(names) == 1 else 's'} ({shown}{more})"
