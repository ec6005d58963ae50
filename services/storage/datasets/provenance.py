"""Where annotations come from: what was known of a region stays with it, however often its picture is annotated."""

from __future__ import annotations

from dataclasses import replace

from loupe.annotations import NOTHING_THERE, UNLABELLED, Annotation, Provenance, read, regions_of, write

_NOTHING = (UNLABELLED, NOTHING_THERE)


def carry_over(sent: str, before: str, now: float) -> str:
    """Return annotations that were sent, as they are kept.

    A region of the same class and points as before keeps where it came from; who says now that it is right becomes its
    verifier. before: the picture's annotations in the version before. now: wall-clock seconds.
    """
    if '"verifier":' not in sent:
        if regions_of(sent) == regions_of(before):
            return before
        if before in _NOTHING or sent in _NOTHING:
            return sent
    known = {(each.label, each.points): each.provenance for each in read(before)}
    return write(_carry_over(each, known.get((each.label, each.points)), now) for each in read(sent))


def _carry_over(annotation: Annotation, known: Provenance | None, now: float) -> Annotation:
    said = annotation.provenance
    kept = known or said
    if said.verifier:
        kept = replace(kept, verifier=said.verifier, verified_at=now)
    return replace(annotation, provenance=kept)
