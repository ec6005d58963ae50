"""The demo's scenes: what people at their terminals do one after the other, through the SDK and the real mesh."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from deploy.local.endpoints import MeshEndpoints
from loupe.errors import PermissionDenied
from loupe.names import AccountName, DatasetName
from loupe.scheduler.v1 import training_job_pb2
from loupe.storage.v1 import dataset_pb2
from loupe.tasks.classification import BALANCED_ACCURACY, Scorer
from loupe.terminal.classifier import Classifier
from loupe.terminal.client import Terminal
from loupe.terminal.confusion import Confusion, ConfusionView
from loupe.terminal.datasets import PushReport
from loupe.terminal.live import JobView, job_display
from loupe.terminal.picture_source import Collection, read_pictures
from loupe.terminal.profile import Profile, ProfileStore
from loupe.terminal.tables import percent
from loupe.terminal.targets import objective_of
from loupe.terminal.verdict import render_result

PROJECT = "line-7"
DATASET = "parts"
SEED = 7


@dataclass
class Story:
    """What the scenes need and what they found out. Times in seconds."""

    console: Console
    endpoints: MeshEndpoints
    folder: Path
    pictures: Path
    target: float
    seconds: dict[str, float] = field(default_factory=dict)
    model: str = ""
    trainer: str = ""
    accuracy: float = 0.0
    balanced_accuracy: float = 0.0
    test_images: int = 0

    def say(self, text: str) -> None:
        """Print what happens."""
        self.console.print(f"\n[bold]{text}[/bold]", highlight=False)

    @asynccontextmanager
    async def terminal(self, account: str, password: str) -> AsyncIterator[Terminal]:
        """Log somebody in, with a profile of their own."""
        store = ProfileStore(self.folder / f"{account}.json")
        store.save(Profile(server=self.endpoints.auth, ca=self.endpoints.ca.read_text(encoding="utf-8")))
        async with Terminal.connect(store) as terminal:
            await terminal.sessions.login(AccountName(account), password)
            yield terminal


async def play(story: Story) -> training_job_pb2.TrainingJob:
    """Run all scenes and return the finished job."""
    passwords = {"erin": secrets.token_urlsafe(12), "vera": secrets.token_urlsafe(12)}
    async with story.terminal("admin", story.endpoints.admin_password) as administrator:
        await hire(story, administrator, passwords)
    async with story.terminal("vera", passwords["vera"]) as viewer:
        await be_refused(story, viewer)
    async with story.terminal("erin", passwords["erin"]) as engineer:
        collection = read_pictures(story.pictures)
        report = await upload(story, engineer, collection)
        job = await train(story, engineer, report.version.name)
        await classify(story, engineer, collection, report.version.name, job)
    return job


async def hire(story: Story, administrator: Terminal, passwords: dict[str, str]) -> None:
    """Create the project, and an account in each of two groups."""
    story.say(f"The administrator creates projects/{PROJECT} and two accounts")
    await administrator.projects.create(PROJECT, "Line 7")
    for account, group in (("erin", "engineers"), ("vera", "viewers")):
        name = f"projects/{PROJECT}/groups/{group}"
        await administrator.accounts.create(account, passwords[account], name)
        parameter = (await administrator.groups.get(name)).permission_parameter
        story.console.print(f"  accounts/{account} lands in {name}, permission parameter {parameter}", highlight=False)


async def be_refused(story: Story, viewer: Terminal) -> None:
    """Show that the group's parameter decides: a viewer's upload is not taken."""
    story.say("accounts/vera tries to upload a picture")
    try:
        await viewer.datasets.push(DatasetName(PROJECT, DATASET), story.pictures)
    except PermissionDenied as refusal:
        story.console.print(f"  refused: {refusal.message}", style="yellow", highlight=False)
        return
    raise AssertionError("a viewer's upload was taken")


async def upload(story: Story, engineer: Terminal, collection: Collection) -> PushReport:
    """Push the pictures and show the version that they became."""
    story.say(f"accounts/erin uploads {len(collection.pictures)} labelled pictures")
    began = time.perf_counter()
    report = await engineer.datasets.push(
        DatasetName(PROJECT, DATASET),
        collection,
        split=None if collection.given else dataset_pb2.SplitPolicy(seed=SEED),
    )
    story.seconds["upload"] = time.perf_counter() - began
    version = report.version
    rate = version.byte_count / 1e6 / story.seconds["upload"]
    story.console.print(
        f"  {version.name}: {version.picture_count} pictures, {version.byte_count / 1e6:.1f} MB "
        f"in {story.seconds['upload']:.1f} s ({rate:.0f} MB/s, checks and split included)",
        highlight=False,
    )
    for label in version.labels:
        story.console.print(
            f"    {label.label}: {label.train_count} to train, {label.validation_count} to validate, "
            f"{label.test_count} held out",
            highlight=False,
            markup=False,
        )
    for line in report.warnings:
        story.console.print(f"  {line}", style="yellow", markup=False)
    return report


async def train(story: Story, engineer: Terminal, version: str) -> training_job_pb2.TrainingJob:
    """Submit the job and follow it over NATS until its end."""
    story.say(f"accounts/erin asks for a model with {percent(story.target)} accuracy")
    began = time.perf_counter()
    job = await engineer.jobs.submit(version, target=story.target, seed=SEED)
    with job_display(story.console, JobView(objective_of(job))) as show:
        async for event in engineer.jobs.watch(job.name):
            show(event)
            if event.WhichOneof("event") == "progress":
                story.seconds.setdefault("submit_to_first_step", time.perf_counter() - began)
    story.seconds["train"] = time.perf_counter() - began
    job = await engineer.jobs.get(job.name)
    story.model, story.trainer = job.result.model_version, job.trainer
    story.console.print(render_result(job.result))
    return job


async def classify(
    story: Story, engineer: Terminal, collection: Collection, version: str, job: training_job_pb2.TrainingJob
) -> None:
    """Pull the model and classify every held-out picture with the terminal's own classifier."""
    if not job.result.model_version:
        return
    story.say(f"The terminal pulls {job.result.model_version} and classifies the pictures that were held out")
    began = time.perf_counter()
    pulled = await engineer.models.pull(job.result.model_version, story.folder / "model", allow_below_target=True)
    story.seconds["pull"] = time.perf_counter() - began
    paths = {picture.filename: picture.path for picture in collection.pictures}
    held_out = [item async for item in engineer.datasets.items(version) if item.split == dataset_pb2.SPLIT_TEST]
    classifier = await asyncio.to_thread(Classifier, pulled.folder)
    began = time.perf_counter()
    answers = await asyncio.to_thread(lambda: list(classifier.classify([paths[item.filename] for item in held_out])))
    seconds = time.perf_counter() - began
    truths = [item.label for item in held_out]
    said = [answer.label for answer in answers]
    story.test_images = len(held_out)
    story.accuracy = sum(map(str.__eq__, truths, said)) / max(1, len(truths))
    matrix = [[0] * len(classifier.labels) for _ in classifier.labels]
    for truth, answer in zip(truths, said, strict=True):
        matrix[classifier.labels.index(truth)][classifier.labels.index(answer)] += 1
    right = [row[index] for index, row in enumerate(matrix)]
    story.balanced_accuracy = Scorer(BALANCED_ACCURACY).of_counts(right, [sum(row) for row in matrix])
    story.console.print(ConfusionView(Confusion(classifier.labels, matrix)))
    story.console.print(
        f"  {story.accuracy:.2%} of {story.test_images} pictures right "
        f"({1e3 * seconds / max(1, len(truths)):.1f} ms a picture)",
        style="green" if story.accuracy >= story.target else "yellow",
    )
