"""Pushing a version: against a hub of our own on this machine, which speaks what huggingface_hub asks of it."""

import base64
import json
import re
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import huggingface_hub.constants
import pytest

from active_reading.augment.hub import describe_upload, plan_upload, push
from active_reading.augment.versions import Version, publish

FACTS = {"study": "s", "views": {}}
TOKEN = "hf_a_secret_of_the_environment"


class Hub(ThreadingHTTPServer):
    """One repository `me/owls`: its files by path, its commits and its tags."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.created: list[dict[str, Any]] = []
        self.commits: list[str] = []
        self.tags: dict[str, dict[str, bytes]] = {}
        self.requests: list[tuple[str, str | None]] = []
        self.overtaken = False

    @property
    def head(self) -> str:
        return f"{len(self.commits):040x}"


class Handler(BaseHTTPRequestHandler):
    server: Hub

    def answer(self, value: Any, status: int = 200) -> None:
        body = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("ETag", f'"{self.server.head}"')
        self.send_header("X-Repo-Commit", self.server.head)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_GET(self) -> None:
        hub, path = self.server, urlsplit(self.path).path
        hub.requests.append((f"{self.command} {path}", self.headers.get("Authorization")))
        if path == "/api/datasets/me/owls/refs":
            tags = [{"name": tag, "ref": f"refs/tags/{tag}", "targetCommit": hub.head} for tag in hub.tags]
            self.answer({"branches": [], "tags": tags, "converts": []})
        elif path.startswith("/datasets/me/owls/resolve/"):
            _, tag, name = path.removeprefix("/datasets/me/owls/resolve").split("/", 2)
            self.answer(hub.tags[tag][name])
        else:
            siblings = [{"rfilename": name} for name in hub.files]
            self.answer({"id": "me/owls", "sha": hub.head, "siblings": siblings, "private": True})

    do_HEAD = do_GET

    def do_POST(self) -> None:
        hub, path = self.server, urlsplit(self.path).path
        hub.requests.append((f"POST {path}", self.headers.get("Authorization")))
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self.answer({"error": "Invalid credentials"}, 401)
        elif path == "/api/repos/create":
            hub.created.append(json.loads(body))
            self.answer({"url": f"http://127.0.0.1:{hub.server_port}/datasets/me/owls", "name": "me/owls"})
        elif path == "/api/validate-yaml":
            self.answer({"errors": [], "warnings": []})
        elif "/preupload/" in path:
            files = [{**file, "uploadMode": "regular", "shouldIgnore": False} for file in json.loads(body)["files"]]
            self.answer({"files": files})
        elif "/commit/" in path:
            self.commit([json.loads(line) for line in body.splitlines()])
        elif "/tag/" in path:
            hub.tags[json.loads(body)["tag"]] = dict(hub.files)
            self.answer({})
        else:
            self.answer({"error": f"no such address: {path}"}, 404)

    def commit(self, lines: list[dict[str, Any]]) -> None:
        hub = self.server
        if hub.overtaken or lines[0]["value"].get("parentCommit") != hub.head:
            self.answer({"error": "A commit has happened since."}, 412)
            return
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                hub.files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "deletedFile":
                del hub.files[value["path"]]
        hub.commits.append(lines[0]["value"]["summary"])
        url = f"http://127.0.0.1:{hub.server_port}/datasets/me/owls/commit/{hub.head}"
        self.answer({"commitUrl": url, "commitOid": hub.head})

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    server = Hub()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", address)
    template = address + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def version(write, tmp_path) -> Version:
    return publish_in(write(tmp_path / "made"), tmp_path / "dataset")


def publish_in(made: Path, root: Path) -> Version:
    (made / "README.md").write_text("---\npretty_name: Owls\n---\n\n# Owls\n")
    (made / "templates").mkdir(exist_ok=True)
    (made / "templates" / "a.j2").write_text("{{ text }}")
    files = sorted(path.relative_to(made).as_posix() for path in made.rglob("*") if path.is_file())
    return publish(root, made, files, FACTS)


def test_a_dry_run_tells_every_file_and_uses_no_network(version, monkeypatch):
    monkeypatch.setattr(socket.socket, "connect", lambda *_: pytest.fail("the network was used"))
    (version.folder / ".env").write_text("SECRET")
    upload = plan_upload(version, "me/owls", private=True)
    assert upload.files == {
        path.relative_to(version.folder).as_posix(): path.stat().st_size
        for path in version.folder.rglob("*")
        if path.is_file() and path.name != ".env"
    }
    text = describe_upload(upload)
    assert "repository  me/owls, private if it is new\n" in text
    assert "commit      v1: 6 added, 0 removed, 0 superseded, 0 relabelled\n" in text
    for name, size in upload.files.items():
        assert f"{size:,}  {name}" in text
    assert (
        f"upload      {len(upload.files)} files, {sum(upload.files.values()):,} bytes, from {version.folder}"
        in text
    )
    told = describe_upload(plan_upload(version, "owls", private=False))
    assert "repository  owls (of the account that is logged in), public if it is new\n" in told


def test_what_goes_up_is_what_the_dry_run_told_and_the_version_is_a_tag(version, hub):
    upload = plan_upload(version, "me/owls", private=True)
    address = push(upload)
    assert address.startswith(f"http://127.0.0.1:{hub.server_port}/datasets/me/owls/commit/")
    assert {name: len(content) for name, content in hub.files.items()} == upload.files
    assert all(content == (version.folder / name).read_bytes() for name, content in hub.files.items())
    assert hub.created[0]["type"] == "dataset"
    assert hub.created[0].get("private") is True or hub.created[0].get("visibility") == "private"
    assert hub.commits == [upload.message]
    assert hub.tags == {"v1": hub.files}
    assert not any(TOKEN.encode() in content for content in hub.files.values())


def test_the_next_version_replaces_the_files_and_keeps_what_is_not_ours(version, hub, write, tmp_path, distinct):
    push(plan_upload(version, "me/owls", private=True))
    hub.files |= {
        "data/text/train-00001-of-00002.parquet": b"stale",
        "notes.md": b"theirs",
        "templates/x.j2": b"old",
    }
    newer = publish_in(write(tmp_path / "newer", distinct=distinct.head(2)), tmp_path / "dataset")
    upload = plan_upload(newer, "me/owls", private=True)
    push(upload)
    assert set(hub.files) == {*upload.files, "notes.md"}
    assert list(hub.tags) == ["v1", "v2"]
    push(upload)  # again: the same rows under the same tag
    assert len(hub.commits) == 3


def test_other_rows_under_the_same_tag_are_refused(version, hub, write, tmp_path, distinct):
    push(plan_upload(version, "me/owls", private=True))
    other = publish_in(write(tmp_path / "other", distinct=distinct.head(1)), tmp_path / "another study")
    with pytest.raises(ValueError, match="me/owls has other rows as v1: push to another repository with --repo"):
        push(plan_upload(other, "me/owls", private=True))
    assert len(hub.commits) == 1


def test_of_two_pushes_at_once_one_wins_and_the_other_says_so(version, hub):
    hub.overtaken = True
    with pytest.raises(ValueError, match="me/owls was changed by another push meanwhile: push again"):
        push(plan_upload(version, "me/owls", private=True))
    assert (hub.files, hub.tags) == ({}, {})


def test_without_a_valid_token_the_cure_is_told(version, hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(ValueError, match="not logged in: run `hf auth login`, or set HF_TOKEN") as error:
        push(plan_upload(version, "me/owls", private=True))
    assert "hf_wrong" not in str(error.value)


def test_a_hub_out_of_reach_is_one_line(version, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with pytest.raises(ValueError, match="the hub cannot be reached"):
        push(plan_upload(version, "me/owls", private=True))


@pytest.mark.parametrize("name", ["-owls", "a/b/c", "o w l s", "me/\u00e9l\u00e9"])
def test_a_name_that_no_repository_can_have_is_told_before_anything_is_sent(version, name):
    with pytest.raises(ValueError, match=re.escape(name)):
        plan_upload(version, name, private=True)


def test_a_damaged_version_is_not_pushed(version):
    path = version.folder / next(iter(version.manifest["files"]))
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[::-1])
    with pytest.raises(ValueError, match="was changed after v1 was published"):
        plan_upload(version, "me/owls", private=True)
