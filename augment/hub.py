"""Hub: a version of a data set -> a repository on the Hugging Face hub, whose tags are the versions.

What goes up is what the version lists, and nothing that lies beside it. The token is the one that
`hf auth login` or the environment gives to huggingface_hub; none is ever read here, written or shown.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from active_reading.augment.changes import describe_changes
from active_reading.augment.versions import MANIFEST, Version, check_files

OURS = ("data/", "templates/")  # an older version's files below these are deleted where the new one has none


@dataclass(frozen=True)
class Upload:
    """What a push sends: `files` are paths below the version's folder, with their bytes."""

    version: Version
    repository: str
    private: bool
    files: dict[str, int]
    message: str


def plan_upload(version: Version, repository: str, private: bool) -> Upload:
    """All that a push would send; needs no network.

    Raises ValueError when a file is not what it was, and for a name that no repository can have.
    """
    from huggingface_hub.utils import validate_repo_id

    validate_repo_id(repository)
    check_files(version)
    files = {name: (version.folder / name).stat().st_size for name in version.files}
    message = f"{version.name}: {describe_changes(version.manifest['changes'])}"
    return Upload(version, repository, private, files, message)


def describe_upload(upload: Upload) -> str:
    """The plan in lines, one for each file."""
    access = "private" if upload.private else "public"
    width = len(f"{max(upload.files.values()):,}")
    owner = "" if "/" in upload.repository else " (of the account that is logged in)"
    total = sum(upload.files.values())
    return "\n".join(
        [
            f"repository  {upload.repository}{owner}, {access} if it is new",
            f"commit      {upload.message}",
            f"tag         {upload.version.name}",
            f"delete      files below {' and '.join(OURS)} that are not listed here",
            f"upload      {len(upload.files)} files, {total:,} bytes, from {upload.version.folder}",
            *(f"  {size:>{width},}  {name}" for name, size in upload.files.items()),
        ]
    )


def push(upload: Upload) -> str:
    """Send it; returns the address of the commit. A repository that exists stays as private as it is.

    Raises ValueError when the repository has other rows under this version's tag, when somebody else pushed at the
    same time, and for whatever the hub refuses.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
    from huggingface_hub.errors import HfHubHTTPError, HTTPError, LocalTokenNotFoundError

    api = HfApi()
    kind: Any = {"repo_type": "dataset"}
    name = upload.version.name
    try:
        repository = api.create_repo(upload.repository, private=upload.private, exist_ok=True, **kind).repo_id
        _check_tag(api, repository, upload.version)
        info = api.dataset_info(repository)
        there = [sibling.rfilename for sibling in info.siblings or []]
        stale = [path for path in there if path.startswith(OURS) and path not in upload.files]
        operations: list[Any] = [
            CommitOperationAdd(path, str(upload.version.folder / path)) for path in upload.files
        ]
        operations += [CommitOperationDelete(path) for path in stale]
        commit = api.create_commit(
            repository, operations, commit_message=upload.message, parent_commit=info.sha, **kind
        )
        api.create_tag(repository, tag=name, revision=commit.oid, exist_ok=True, **kind)
    except LocalTokenNotFoundError as error:
        raise ValueError("no Hugging Face token: run `hf auth login`, or set HF_TOKEN") from error
    except HfHubHTTPError as error:
        status = error.response.status_code
        if status == 401:
            raise ValueError(f"{upload.repository}: not logged in: run `hf auth login`, or set HF_TOKEN") from error
        if status == 412:
            raise ValueError(f"{upload.repository} was changed by another push meanwhile: push again") from error
        raise ValueError(f"{upload.repository}: the hub refuses it ({' '.join(str(error).split())})") from error
    except HTTPError as error:
        raise ValueError(f"the hub cannot be reached ({error}): nothing was pushed") from error
    return str(commit.commit_url)


def _check_tag(api: Any, repository: str, version: Version) -> None:
    refs = api.list_repo_refs(repository, repo_type="dataset")
    if version.name not in [tag.name for tag in refs.tags]:
        return
    path = api.hf_hub_download(repository, MANIFEST, revision=version.name, repo_type="dataset")
    there = json.loads(Path(path).read_text(encoding="utf-8"))
    if there.get("digest") != version.manifest["digest"]:
        raise ValueError(
            f"{repository} has other rows as {version.name}: push to another repository with --repo, or make the "
            "versions there and here one history"
        )
