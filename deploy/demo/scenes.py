"""The demo's scenes: what people at their terminals do one after the other, through the SDK and the real mesh."""

from __future__ import annotations

import secrets
import time

from deploy.demo.answering import ANSWERS
from deploy.demo.story import Story
from loupe.errors import PermissionDenied
from loupe.names import DatasetName
from loupe.scheduler.v1 import training_job_pb2
from loupe.storage.v1 import dataset_pb2
from loupe.tasks.objective import spoken
from loupe.terminal.client import Terminal
from loupe.terminal.datasets import PushReport
from loupe.terminal.formats.sources import read_source
from loupe.terminal.live import JobView, job_display
from loupe.terminal.picture_source import Collection
from loupe.terminal.tables import percent
from loupe.terminal.targets import objective_of
from loupe.terminal.verdict import render_result

PROJECT = "line-7"
DATASET = "parts"
SEED = 7


async def play(story: Story) -> training_job_pb2.TrainingJob:
    """Run all scenes and return the finished job."""
    passwords = {"erin": secrets.token_urlsafe(12), "vera": secrets.token_urlsafe(12)}
    async with story.terminal("admin", story.endpoints.admin_password) as administrator:
        await hire(story, administrator, passwords)
    async with story.terminal("vera", passwords["vera"]) as viewer:
        await be_refused(story, viewer)
    async with story.terminal("erin", passwords["erin"]) as engineer:
        collection = read_source(story.pictures)
        report = await upload(story, engineer, collection)
        job = await train(story, engineer, report.version.name)
        await answer(story, engineer, collection, report.version.name, job)
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
    story.say(f"accounts/erin uploads {len(collection.pictures)} pictures with what is in them")
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
        counts = (label.train_count, label.validation_count, label.test_count)
        boxes = ""
        if story.task.regions:
            counts, boxes = (label.train_regions, label.validation_regions, label.test_regions), "boxes of "
        story.console.print(
            f"    {boxes}{label.label}: {counts[0]} to train, {counts[1]} to validate, {counts[2]} held out",
            highlight=False,
            markup=False,
        )
    for line in report.warnings:
        story.console.print(f"  {line}", style="yellow", markup=False)
    return report


async def train(story: Story, engineer: Terminal, version: str) -> training_job_pb2.TrainingJob:
    """Submit the job and follow it over NATS until its end."""
    metric = next(iter(story.task.metrics))
    story.say(f"accounts/erin asks for a model with {percent(story.target)} {spoken(metric)}")
    began = time.perf_counter()
    job = await engineer.jobs.submit(version, target=f"{metric}={story.target}", seed=SEED)
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


async def answer(
    story: Story, engineer: Terminal, collection: Collection, version: str, job: training_job_pb2.TrainingJob
) -> None:
    """Pull the model and let it answer every held-out picture on the terminal."""
    if not job.result.model_version:
        return
    story.say(f"The terminal pulls {job.result.model_version} and looks at the pictures that were held out")
    began = time.perf_counter()
    pulled = await engineer.models.pull(job.result.model_version, story.folder / "model", allow_below_target=True)
    story.seconds["pull"] = time.perf_counter() - began
    paths = {picture.filename: picture.path for picture in collection.pictures}
    held_out = [
        (paths[item.filename], item)
        async for item in engineer.datasets.items(version)
        if item.split == dataset_pb2.SPLIT_TEST
    ]
    story.test_images = len(held_out)
    await ANSWERS[story.task.command](story, pulled.folder, held_out)
