"""What a model drafted and nobody verified: said in two attributes, where a format has any."""

from __future__ import annotations

from typing import Any

from loupe.annotations import BadAnnotation, Provenance
from loupe.terminal.formats.documents import number

MODEL, CONFIDENCE = "loupe_model", "loupe_confidence"


def draft_attributes(provenance: Provenance) -> dict[str, Any]:
    """Return the member "attributes" of a draft; nothing for what a person made or verified."""
    if not provenance.open:
        return {}
    return {"attributes": {MODEL: provenance.model, CONFIDENCE: provenance.confidence}}


def provenance_of(attributes: object) -> Provenance:
    """Return where an annotation comes from; attributes of other tools say nothing of it. Raises BadAnnotation."""
    if not isinstance(attributes, dict) or not attributes.get(MODEL):
        return Provenance()
    return draft(str(attributes[MODEL]), attributes.get(CONFIDENCE, 0))


def draft(model: str, confidence: object) -> Provenance:
    """Return the provenance of a draft. Raises BadAnnotation for a confidence that is none."""
    if not 0 <= (sure := number(confidence, "the confidence")) <= 1:
        raise BadAnnotation(f"the confidence is {sure:g}; 0 to 1 would be right")
    return Provenance(model=model, confidence=sure)
