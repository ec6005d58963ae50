"""Annotations: what is refused and what it says, the form in which they are kept, and what makes two alike."""

from __future__ import annotations

import itertools
import json
import math
import random
import re
import time
from collections.abc import Sequence

import pytest

from loupe.annotations import (
    MAX_CORNERS,
    MAX_POINTS,
    MAX_REGIONS,
    NOTHING_THERE,
    UNLABELLED,
    BadAnnotation,
    Point,
    Provenance,
    box,
    identity,
    labels_of,
    normalise,
    polygon,
    read,
    regions_of,
    write,
)

ANNA = Provenance("accounts/anna")
MODEL = Provenance("accounts/anna", "projects/p/models/m/versions/3", 0.75)
VERIFIED = Provenance("accounts/anna", MODEL.model, 0.75, "accounts/vera", 1_700_000_000.5)
LEFT, TRIANGLE = (0.0, 0.0, 0.5, 0.5), [(0.1, 0.1), (0.5, 0.2), (0.3, 0.6)]


def star(corners: int, *, crossed: bool = False) -> list[Point]:
    """star goes once around, with long and short rays in turns; crossed: two corners change places."""
    turn = 2 * math.pi / corners
    lengths = (0.2 if number % 2 else 0.45 for number in range(corners))
    rays = [
        (0.5 + length * math.cos(turn * number), 0.5 + length * math.sin(turn * number))
        for number, length in enumerate(lengths)
    ]
    if crossed:
        rays[1], rays[corners // 2] = rays[corners // 2], rays[1]
    return rays


@pytest.mark.parametrize(
    ("corners", "said"),
    [
        ((0.1, 0.1, 1.1, 0.5), "1.1 lies outside"),
        ((-0.1, 0.1, 0.5, 0.5), "-0.1 lies outside"),
        ((0.1, 0.1, 0.1, 0.5), "inverted or empty"),
        ((0.1, 0.1, 0.1000001, 0.5), "inverted or empty"),
        ((0.5, 0.1, 0.1, 0.5), "inverted or empty"),
        ((0.1, 0.5, 0.5, 0.1), "inverted or empty"),
        ((math.nan, 0.1, 0.5, 0.5), "nan lies outside"),
        ((0.1, 0.1, math.inf, 0.5), "inf lies outside"),
        ((0.1, 0.1, 0.5), "4 numbers"),
    ],
)
def test_a_box_that_cannot_be_is_refused_in_clear_words(corners: Sequence[float], said: str) -> None:
    """Outside, empty, inverted, no numbers, too few."""
    with pytest.raises(BadAnnotation, match=said):
        box("dent", corners)


@pytest.mark.parametrize(
    ("points", "said"),
    [
        ([(0.1, 0.1), (0.5, 0.5)], "2 different corners"),
        ([(0.1, 0.1), (0.5, 0.5), (0.5, 0.5), (0.1, 0.1)], "2 different corners"),
        (star(MAX_POINTS + 1), "1001 different corners"),
        ([(0.1, 0.1), (0.2, 0.2), (0.3, 0.3)], "without area"),
        ([(0.1, 0.1), (0.5, 0.1), (1.2, 0.5)], "1.2 lies outside"),
        ([(0.1, 0.1), (0.5, math.nan), (0.2, 0.5)], "nan lies outside"),
        ([(0.1, 0.1), (0.5, 0.7), (0.5, 0.1), (0.1, 0.5)], "cross or touch"),
        ([(0, 0), (0.5, 0), (0.5, 0.5), (0.25, 0), (0, 0.5)], "cross or touch"),  # a corner on an edge
        ([(0, 0), (0.4, 0.2), (0.8, 0), (0.8, 0.4), (0.4, 0.2), (0, 0.4)], "cross or touch"),  # a corner twice
        ([(0, 0), (0.5, 0), (0.2, 0), (0.2, 0.5)], "cross or touch"),  # an edge back along the one before it
        ([(0.2, 0), (0.5, 0), (0.1, 0), (0.2, 0.5)], "cross or touch"),  # and beyond it
        ([(0, 0), (0.6, 0), (0.6, 0.3), (0.5, 0.3), (0.5, 0), (0.3, 0), (0.3, 0.3), (0, 0.3)], "cross or touch"),
        (star(MAX_POINTS, crossed=True), "cross or touch"),
    ],
)
def test_a_polygon_that_cannot_be_is_refused_in_clear_words(points: Sequence[Point], said: str) -> None:
    """Too few or too many corners, no area, outside, edges that cross, touch, or lie upon each other."""
    with pytest.raises(BadAnnotation, match=said):
        polygon("dent", points)


@pytest.mark.parametrize("label", ["", " ", " dent", "dent ", "de\nnt", "a\u202eb", "x" * 129])
def test_a_class_that_cannot_be_is_refused(label: str) -> None:
    """By the rule of all labels; the sentence names it."""
    for make in (lambda: box(label, LEFT), lambda: polygon(label, TRIANGLE)):
        with pytest.raises(BadAnnotation, match=re.escape(f"the class {label!r}")):
            make()


def test_one_class_typed_in_two_ways_is_one() -> None:
    """Labels are composed."""
    assert box("e\u0301", LEFT) == box("\u00e9", LEFT)


def test_what_is_just_beyond_the_edge_is_put_on_it() -> None:
    """As rounding whole pixels puts it; six digits are kept, and there is no -0."""
    made = box("dent", (-0.0009, -0.0, 0.12345678, 1.0009))
    assert made.points == ((0.0, 0.0), (0.123457, 1.0))
    assert all(math.copysign(1, value) == 1 for point in made.points for value in point)
    with pytest.raises(BadAnnotation, match="lies outside"):
        box("dent", (0, 0, 0.5, 1.0011))


def test_a_corner_that_is_repeated_counts_once() -> None:
    """Also the first one at the end, as many formats write it; the order stays."""
    assert polygon("dent", [*TRIANGLE, TRIANGLE[0]]).points == tuple(TRIANGLE)
    assert polygon("dent", [TRIANGLE[0], *TRIANGLE[:2], (0.5000001, 0.2), TRIANGLE[2]]).points == tuple(TRIANGLE)
    assert len(polygon("dent", [*star(MAX_POINTS), star(MAX_POINTS)[0]]).points) == MAX_POINTS


def touching(points: Sequence[Point]) -> bool:
    """touching says by whole numbers, pair by pair, whether edges that are no neighbours have a point in common."""
    whole = [(round(x * 10**6), round(y * 10**6)) for x, y in points]
    edges = list(itertools.pairwise([*whole, whole[0]]))

    def side(a: tuple[int, int], b: tuple[int, int], c: tuple[int, int]) -> int:
        product = (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])
        return (product > 0) - (product < 0)

    def on(a: tuple[int, int], b: tuple[int, int], c: tuple[int, int]) -> bool:
        inside = all(min(a[axis], b[axis]) <= c[axis] <= max(a[axis], b[axis]) for axis in (0, 1))
        return not side(a, b, c) and inside

    def meet(one: Sequence[tuple[int, int]], other: Sequence[tuple[int, int]]) -> bool:
        (a, b), (c, d) = one, other
        crossing = side(a, b, c) * side(a, b, d) < 0 and side(c, d, a) * side(c, d, b) < 0
        return crossing or on(a, b, c) or on(a, b, d) or on(c, d, a) or on(c, d, b)

    pairs = itertools.combinations(range(len(edges)), 2)
    return any(meet(edges[i], edges[j]) for i, j in pairs if 1 < j - i < len(edges) - 1)


@pytest.mark.parametrize("grid", [3, 5, 40, 10**6])
def test_crossings_are_found_as_pair_by_pair(grid: int) -> None:
    """Polygons at random, on coarse grids too, where corners lie on edges and edges on each other."""
    rng = random.Random(grid)
    found = []
    for _ in range(400):
        points = [(rng.randint(0, grid) / grid, rng.randint(0, grid) / grid) for _ in range(rng.randint(3, 7))]
        if any(one == other for one, other in itertools.pairwise([*points, points[0]])):
            continue
        try:
            polygon("dent", points)
            said = ""
        except BadAnnotation as error:
            said = str(error)
        if "area" not in said:
            assert bool(said) == touching(points), points
            found.append(bool(said))
    assert {True, False} == set(found)


def test_the_check_of_a_large_polygon_is_quick() -> None:
    """1,000 corners take milliseconds: pair by pair in Python they take most of a second."""
    points = star(MAX_POINTS)
    begun = time.process_time()
    for _ in range(10):
        polygon("dent", points)
    assert time.process_time() - begun < 1


def test_a_picture_has_at_most_so_many_regions_and_corners() -> None:
    """1,000 regions are taken and 1,001 are not, each region of a class counting once; so many corners altogether."""
    many = [box("dent", (0, 0, 0.5, (number + 1) / 2000)) for number in range(MAX_REGIONS + 1)]
    assert len(read(write(many[:-1]))) == MAX_REGIONS
    assert len(read(write([*many[:-1], many[0]]))) == MAX_REGIONS
    with pytest.raises(BadAnnotation, match="1001 annotations"):
        write(many)
    large = polygon("dent", star(MAX_POINTS))
    crowd = [type(large)(f"dent {number}", large.points) for number in range(MAX_CORNERS // MAX_POINTS)]
    assert len(normalise(crowd)) == len(crowd)
    with pytest.raises(BadAnnotation, match="100003 corners"):
        normalise([*crowd, polygon("dent", TRIANGLE)])


def test_what_is_written_is_read_again() -> None:
    """In one order, whatever the order was, with where it comes from; unlabelled is not the same as nothing there."""
    nasty = 'a "b],[["c",{"regions":\\ ,"provenance":} größe'
    made = [
        box("dent", LEFT, MODEL),
        polygon("dent", TRIANGLE, VERIFIED),
        box(nasty, (0.1, 0.1, 1, 1), ANNA),
        box("a", LEFT),
    ]
    text = write(made)
    assert text == write(reversed(made))
    assert read(text) == normalise(made)
    assert set(read(text)) == set(made)
    assert json.loads(text).keys() == {"regions", "provenance"}
    assert sorted(labels_of(text)) == sorted(each.label for each in made)
    assert json.loads(regions_of(text)) == [[each.label, [[*point] for point in each.points]] for each in read(text)]
    assert (write([]), read(NOTHING_THERE), read(UNLABELLED)) == (NOTHING_THERE, (), ())
    assert labels_of(NOTHING_THERE) == labels_of(UNLABELLED) == []


def test_the_identity_is_what_is_to_be_seen() -> None:
    """Who put a region in is left out; that a model made it and nobody looked is not; nothing there is no silence."""
    plain = identity(write([box("dent", LEFT)]))
    assert plain == '[["dent",[[0.0,0.0],[0.5,0.5]]]]'
    assert identity(write([box("dent", LEFT, ANNA)])) == plain
    assert identity(write([box("dent", LEFT, VERIFIED)])) == plain
    opened = identity(write([box("dent", LEFT, MODEL)]))
    assert opened == '[["dent",[[0.0,0.0],[0.5,0.5]],"projects/p/models/m/versions/3",0.75]]'
    assert regions_of(write([box("dent", LEFT, MODEL)])) == plain
    assert identity(write([box("hole", LEFT)])) != plain
    assert (identity(NOTHING_THERE), identity(UNLABELLED)) == ("[]", "")
    assert identity(write([box('"model":', LEFT)])) == '[["\\"model\\":",[[0.0,0.0],[0.5,0.5]]]]'
