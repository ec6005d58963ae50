"""algorithm.toml and the parameters of jobs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from loupe.algorithm.manifest import BadManifest, InvalidParameter, parse_manifest, read_manifest, resolve_parameters
from loupe.errors import InvalidArgument
from loupe.names import AlgorithmVersionName

IMAGES = Path(__file__).parents[2] / "services" / "trainer" / "algorithms"
HEAD = """
name = "probe"
version = "1.0.0"
task = "classification"
entry = "main:train"
licence = "MIT"
summary = "A probe."
"""


def manifest(parameters: str = ""):
    return parse_manifest(HEAD + parameters)


def test_built_in_manifests_are_right_and_their_defaults_resolve() -> None:
    for name in ("finetune", "scratch"):
        built_in = read_manifest(IMAGES / name)
        assert built_in.name == name
        assert set(resolve_parameters(built_in, {})) == set(built_in.parameters)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name = ", "not TOML"),
        (HEAD.replace('"main:train"', '"main"'), "entry"),
        (HEAD.replace('"main:train"', '"os.system(1):x"'), "entry"),
        (HEAD.replace('"classification"', '"poetry"'), "task"),
        (HEAD.replace('"probe"', '"Probe!"'), "name"),
        (HEAD.replace('summary = "A probe."', ""), "summary"),
        (HEAD + 'colour = "red"', "colour"),
        (HEAD + '[parameters.x]\ntype = "int"', "default"),
        (HEAD + '[parameters.x]\ntype = "int"\ndefault = 11\nmax = 10', "11"),
        (HEAD + '[parameters.x]\ntype = "int"\ndefault = 3\nmin = 5\nmax = 2', "above max"),
        (HEAD + '[parameters.x]\ntype = "choice"\ndefault = "a"', "choices"),
        (HEAD + '[parameters.x]\ntype = "string"\ndefault = "a"\nmin = 1', "min and max"),
        (HEAD + '[parameters.x]\ntype = "file"\ndefault = "a"', "no default"),
        (HEAD + '[parameters."X y"]\ntype = "bool"\ndefault = true', "X y"),
        (HEAD + "[resources]\nmin_memory_mb = -1", "min_memory_mb"),
        (b"\xff\xfe", "not TOML"),
        ("a = " + "[" * 30_000, "not TOML"),
    ],
)
def test_a_wrong_manifest_is_refused_with_the_place(text: str | bytes, said: str) -> None:
    with pytest.raises(BadManifest, match=said):
        parse_manifest(text)


@pytest.mark.parametrize("given", [3, 3.0, "3", " 3 "])
def test_a_whole_number_may_come_as_json_or_shells_have_it(given: object) -> None:
    resolved = resolve_parameters(manifest('[parameters.x]\ntype = "int"\ndefault = 1'), {"x": given})
    assert resolved == {"x": 3}
    assert type(resolved["x"]) is int


@pytest.mark.parametrize(
    ("kind", "given"),
    [
        ('type = "int"\ndefault = 1\nmin = 1\nmax = 5', 6),
        ('type = "int"\ndefault = 1', 2.5),
        ('type = "int"\ndefault = 1', True),
        ('type = "int"\ndefault = 1', "three"),
        ('type = "float"\ndefault = 1.0', float("nan")),
        ('type = "float"\ndefault = 1.0', "inf"),
        ('type = "float"\ndefault = 1.0\nmin = 0', -0.1),
        ('type = "bool"\ndefault = true', 1),
        ('type = "bool"\ndefault = true', "yes"),
        ('type = "string"\ndefault = ""', 5),
        ('type = "string"\ndefault = ""', "x" * 1001),
        ('type = "choice"\ndefault = "a"\nchoices = ["a", "b"]', "c"),
        ('type = "int"\ndefault = 1', [1]),
    ],
)
def test_a_wrong_value_is_refused_by_name_with_what_is_allowed(kind: str, given: object) -> None:
    asked = manifest(f"[parameters.depth]\n{kind}")
    with pytest.raises(InvalidParameter, match="'depth'") as caught:
        resolve_parameters(asked, {"depth": given})
    assert caught.value.parameter == "depth"
    assert asked.parameters["depth"].allowed() in str(caught.value)


def test_an_unknown_parameter_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(InvalidParameter, match="did you mean 'epochs'"):
        resolve_parameters(manifest('[parameters.epochs]\ntype = "int"\ndefault = 1'), {"epoch": 3})


def test_a_required_parameter_must_be_given_and_a_file_may_be_left_out() -> None:
    asked = manifest('[parameters.x]\ntype = "int"\nrequired = true\n[parameters.w]\ntype = "file"')
    with pytest.raises(InvalidParameter, match="'x'"):
        resolve_parameters(asked, {})
    assert resolve_parameters(asked, {"x": 1}) == {"x": 1, "w": None}


@pytest.mark.parametrize(("name", "version"), [("a", "1"), ("a" * 63, "1.0.0+build-7"), ("a-1", "v" * 32)])
def test_what_a_manifest_may_be_called_a_resource_name_can_say(name: str, version: str) -> None:
    image = parse_manifest(HEAD.replace("probe", name, 1).replace("1.0.0", version))
    assert str(AlgorithmVersionName(image.name, image.version)) == f"algorithms/{name}/versions/{version}"
    assert AlgorithmVersionName.parse(f"algorithms/{name}/versions/{version}") == AlgorithmVersionName(name, version)


@pytest.mark.parametrize(("name", "version"), [("a", "v" * 33), ("a" * 64, "1"), ("a-", "1"), ("a", "1-"), ("a", "")])
def test_an_image_that_no_resource_name_could_name_is_refused(name: str, version: str) -> None:
    """Storage would take it, and nobody could ask for it."""
    with pytest.raises(BadManifest, match="should match pattern"):
        parse_manifest(HEAD.replace("probe", name, 1).replace("1.0.0", version))
    with pytest.raises(InvalidArgument):
        AlgorithmVersionName.parse(f"algorithms/{name}/versions/{version}")


def test_manifests_and_images_need_no_torch() -> None:
    """The scheduler and storage import both and have no torch installed."""
    code = "import sys, loupe.algorithm.manifest, loupe.algorithm.image; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_what_a_run_imports_needs_neither_grpc_nor_protobuf() -> None:
    """A sandbox may have no more than an algorithm needs."""
    code = (
        "import sys, loupe.algorithm.pipe, loupe.algorithm.training\n"
        "sys.exit(bool({'grpc', 'google.protobuf'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
