"""A small project in which the whole job has run, and copies of it, for the tests of the pipeline."""

import shutil
from pathlib import Path

import pytest
from small_study import study_in, write_project

from active_reading.flows.pipeline import run_plain


@pytest.fixture(scope="session")
def finished(tiny_model, tmp_path_factory) -> Path:
    """A project folder in which the whole job has run once; never changed by a test."""
    folder = write_project(tmp_path_factory.mktemp("project"))
    page = run_plain(study_in(folder, tiny_model), "report")
    assert page == folder / "out" / "index.html"
    return folder


@pytest.fixture
def project(finished, tmp_path) -> Path:
    """A copy of the finished project at another place, times of files included."""
    return Path(shutil.copytree(finished, tmp_path / "moved"))
