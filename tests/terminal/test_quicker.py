"""The quicker of a model's files: tried once on a machine, remembered with its CPU, and never a damaged one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from loupe import errors
from loupe.terminal import quicker as module
from loupe.terminal.classifier import Classifier
from loupe.terminal.classifier_folder import INT8_FILE, read_classifier_folder
from loupe.terminal.precision import Precision
from loupe.terminal.quicker import DECISION_FILE, cpu_name, quicker

MakeModel = Callable[..., Path]


class Trials:
    """Counts how often the two files are tried, and says how fast they are."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        self.rates = (100.0, 200.0)
        monkeypatch.setattr(module, "_rates", self._tried)

    def _tried(self, *_: object) -> tuple[float, float]:
        self.count += 1
        return self.rates


@pytest.fixture
def trials(monkeypatch: pytest.MonkeyPatch) -> Trials:
    return Trials(monkeypatch)


def test_the_quicker_file_answers_and_is_tried_once(make_model: MakeModel, trials: Trials) -> None:
    folder = make_model(int8=True)
    assert Classifier(folder).precision is Precision.INT8
    trials.rates = (200.0, 100.0)
    assert Classifier(folder).precision is Precision.INT8
    assert trials.count == 1


@pytest.mark.parametrize("rates", [(200.0, 100.0), (100.0, 104.0)])
def test_int8_that_is_not_clearly_quicker_is_not_used(
    make_model: MakeModel, trials: Trials, rates: tuple[float, float]
) -> None:
    trials.rates = rates
    assert Classifier(make_model(int8=True)).precision is Precision.FP32


def test_another_cpu_decides_anew(make_model: MakeModel, trials: Trials, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_model(int8=True)
    assert Classifier(folder).precision is Precision.INT8
    trials.rates = (200.0, 100.0)
    monkeypatch.setattr(module, "cpu_name", lambda: "another CPU")
    assert Classifier(folder).precision is Precision.FP32
    assert json.loads((folder / DECISION_FILE).read_text())["cpu"] == "another CPU"
    assert trials.count == 2


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"precision": "auto"}', '{"precision": "int4", "cpu": ""}'])
def test_a_damaged_decision_is_made_anew(make_model: MakeModel, trials: Trials, text: str) -> None:
    folder = make_model(int8=True)
    (folder / DECISION_FILE).write_text(text)
    assert Classifier(folder).precision is Precision.INT8
    assert trials.count == 1


def test_the_trial_times_both_files(make_model: MakeModel) -> None:
    """Whichever is quicker here."""
    folder = make_model(int8=True)
    precision = quicker(read_classifier_folder(folder), threads=1)
    decision = json.loads((folder / DECISION_FILE).read_text())
    assert decision["precision"] == precision and decision["fp32"] > 0 and decision["int8"] > 0
    assert (precision is Precision.INT8) == (decision["int8"] >= module.WORTHWHILE * decision["fp32"]) or (
        decision["int8"] == pytest.approx(module.WORTHWHILE * decision["fp32"], rel=0.01)
    )


def test_a_cpu_that_computes_int8_otherwise_uses_fp32(make_model: MakeModel, trials: Trials) -> None:
    folder = make_model(int8=True, int8_shift=0.2)
    assert Classifier(folder).precision is Precision.FP32
    assert trials.count == 0
    with pytest.raises(errors.GateFailed, match="answers its golden pictures differently"):
        Classifier(folder, precision=Precision.INT8)


@pytest.mark.parametrize("precision", [Precision.AUTO, Precision.INT8])
def test_a_damaged_int8_file_is_refused(make_model: MakeModel, trials: Trials, precision: Precision) -> None:
    """Also one that onnxruntime would load."""
    folder = make_model(int8=True)
    whole = (folder / INT8_FILE).read_bytes()
    (folder / INT8_FILE).write_bytes(whole.replace(np.array(120.0, "<f4").tobytes(), np.array(121.0, "<f4").tobytes()))
    with pytest.raises(errors.DataLoss, match=r"its sha256 is not the one in model\.json"):
        Classifier(folder, precision=precision)
    (folder / INT8_FILE).unlink()
    with pytest.raises(errors.DataLoss, match="cannot be loaded"):
        Classifier(folder, precision=precision)


def test_a_model_without_int8_answers_in_fp32(make_model: MakeModel, trials: Trials) -> None:
    folder = make_model()
    assert Classifier(folder).precision is Precision.FP32
    assert not (folder / DECISION_FILE).exists() and trials.count == 0
    with pytest.raises(errors.InvalidArgument, match="has no INT8 model"):
        Classifier(folder, precision=Precision.INT8)


def test_an_int8_member_of_another_loupe_is_left_alone(make_model: MakeModel, trials: Trials) -> None:
    folder = make_model()
    document = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    for told in ("later", {"file": "../elsewhere.onnx"}, {"file": 7}):
        (folder / "model.json").write_text(json.dumps(document | {"int8": told}))
        assert Classifier(folder).precision is Precision.FP32


def test_both_files_give_thresholds_the_same_meaning(make_model: MakeModel, trials: Trials) -> None:
    folder = make_model(int8=True)
    pictures = np.full((2, 8, 8, 3), 240, np.uint8)
    fp32, int8 = (Classifier(folder, precision=each) for each in (Precision.FP32, Precision.INT8))
    np.testing.assert_allclose(int8.probabilities(pictures), fp32.probabilities(pictures), atol=0.05)


def test_what_multiplies_bytes_is_in_a_cpu_s_name(tmp_path: Path) -> None:
    described = tmp_path / "cpuinfo"
    described.write_text("model name\t: A CPU\nflags\t\t: fpu avx2 avx_vnni\n\nmodel name\t: A CPU\nflags\t\t: fpu\n")
    assert cpu_name(described) == "A CPU avx_vnni"
    described.write_text("CPU implementer\t: 0x41\nCPU part\t: 0xd0c\nFeatures\t: fp asimddp\n")
    assert cpu_name(described) == "0x41 0xd0c asimddp"
    assert cpu_name(tmp_path / "nowhere")


def test_a_pulled_model_has_been_tried(
    make_model: MakeModel, add_version: Callable[..., Any], command_line: Callable[..., Any], data_folder: Path
) -> None:
    add_version(1, folder=make_model(int8=True))
    assert command_line("model", "pull", "screws", "--project", "line-7").exit_code == 0
    assert (data_folder / "line-7" / "screws" / "1" / DECISION_FILE).is_file()


def test_a_version_with_an_altered_int8_file_is_not_installed(
    make_model: MakeModel, add_version: Callable[..., Any], command_line: Callable[..., Any], data_folder: Path
) -> None:
    """Also where the library's digest is of the altered file."""
    folder = make_model(int8=True)
    (folder / INT8_FILE).write_bytes((folder / "golden.npz").read_bytes())
    add_version(1, folder=folder)
    pulled = command_line("model", "pull", "screws", "--project", "line-7")
    assert pulled.exit_code == 6 and INT8_FILE in pulled.stderr
    assert not (data_folder / "line-7" / "screws" / "1").exists()


@pytest.mark.parametrize("precision", ["fp32", "int8", "auto"])
def test_the_command_line_takes_a_precision(
    *,
    make_model: MakeModel,
    folder: Path,
    trials: Trials,
    command_line: Callable[..., Any],
    tmp_path: Path,
    precision: str,
) -> None:
    """Answers, thresholds and explanations are there with each."""
    explained = ("--explain", tmp_path / "explained", "--min-confidence", "0.5")
    told = command_line("classify", make_model(int8=True), folder, "--precision", precision, *explained)
    assert told.exit_code == 0, told.stderr
    assert f"its {'FP32' if precision == 'fp32' else 'INT8'} model answers" in told.stderr
    assert trials.count == (precision == "auto")
    assert len(told.stdout.splitlines()) == len(list((tmp_path / "explained").iterdir())) == 12


def test_a_precision_that_there_is_not_is_told(make_model: MakeModel, folder: Path, command_line: Any) -> None:
    assert command_line("classify", make_model(), folder, "--precision", "int4").exit_code == 2
    told = command_line("classify", make_model("plain"), folder, "--precision", "int8")
    assert told.exit_code == 6 and "has no INT8 model" in told.stderr
