"""Runs on the Hugging Face hub, which `hf://NAME` and `hf://NAME@revision` stand for.

Tokens are left to huggingface_hub: this module neither stores nor prints one.
"""

from __future__ import annotations

import os
import re
import ssl
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from ssss_zoo.errors import UserError, cannot_write
from ssss_zoo.text import brief

HUB_PREFIX = "hf://"
HUB_CHECKPOINTS = ("best", "last")  # the folders that may hold weights, the preferred one first
HUB_CONFIG = "config.yaml"  # by which a repository is known as a run
# Nothing else of a repository is downloaded. state.pt is read with weights_only.
HUB_PATTERNS = (
    *(HUB_CONFIG, "README.md", "classes.txt"),
    *(f"{folder}/{file}" for folder in HUB_CHECKPOINTS for file in ("*.safetensors", "state.pt", "digests.json")),
)
LOGIN_ADVICE = "set HF_TOKEN, or log in with `hf auth login`"
OFFLINE_VALUES = {"1", "ON", "YES", "TRUE"}  # of HF_HUB_OFFLINE, as huggingface_hub reads it
STATUS_MESSAGES = {
    401: f"the hub does not know this token, which may have expired: {LOGIN_ADVICE}",
    403: f"the token has no permission for this; with one that has write access, {LOGIN_ADVICE}",
}
REASON_LENGTH = 200  # characters of the hub's own explanation in a message (our choice)


@dataclass(frozen=True)
class HubName:
    """The name of a repository of models, and perhaps a revision: a branch, a tag, or a commit."""

    repository: str
    revision: str | None = None

    def __str__(self) -> str:
        return f"{HUB_PREFIX}{self.repository}" + (f"@{self.revision}" if self.revision else "")


def is_hub_name(run: str | Path) -> bool:
    return str(run).startswith(HUB_PREFIX)


def parse_hub_name(text: str) -> HubName:
    """`hf://NAME@revision`, the first and the last part optional. Raises UserError for a name that the hub refuses."""
    hub = import_hub()
    repository, mark, revision = text.removeprefix(HUB_PREFIX).partition("@")
    try:
        hub.utils.validate_repo_id(repository)
    except hub.errors.HFValidationError:
        expected = "give OWNER/NAME of letters, digits, '-', '_', '.'"
        raise UserError(f"'{brief(text)}' is not the name of a repository on the hub: {expected}") from None
    if mark and (not re.fullmatch(r"[\w./-]+", revision) or ".." in revision):
        raise UserError(f"'{brief(text)}' names no revision after the '@': give a branch, a tag or a commit")
    return HubName(repository, revision or None)


def import_hub() -> ModuleType:
    """The client of the hub, which shows progress on a terminal alone, and no advice of its own. Raises UserError where
    it is missing."""
    try:
        import huggingface_hub
        import huggingface_hub.errors
        import huggingface_hub.utils
    except ImportError:
        raise UserError("the hub needs another package: pip install 'ssss-zoo[hub]'") from None
    huggingface_hub.utils.logging.set_verbosity_error()
    if not sys.stderr.isatty():
        huggingface_hub.utils.disable_progress_bars()
    return huggingface_hub


# --- download -------------------------------------------------------------------------------------------------------


def download_run(text: str) -> Path:
    """The folder of a run on the hub, in the cache of this machine, where a run that was downloaded before stays.

    Without the hub, what the cache has of it counts. Raises UserError for a wrong name, a repository that does not
    exist, may not be read or holds no run, and where neither hub nor cache has it.
    """
    name, hub = parse_hub_name(text), import_hub()
    with readable_errors(str(name)):
        folder = Path(
            hub.snapshot_download(
                name.repository,
                revision=name.revision,
                allow_patterns=list(HUB_PATTERNS),
                local_files_only=hub_is_forbidden() or not hub_answers(),
            )
        )
    if not (folder / HUB_CONFIG).is_file():
        raise UserError(f"{name} holds no run of ssss-zoo (no {HUB_CONFIG}); `ssss push` uploads one")
    return folder


def hub_is_forbidden() -> bool:
    """Whether HF_HUB_OFFLINE allows no request."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in OFFLINE_VALUES


def hub_answers(timeout: float = 5.0) -> bool:
    """Whether the hub can be reached within `timeout` seconds. Any answer counts, even a refusal. The hub's own client
    would retry for a minute first."""
    from huggingface_hub import constants

    request = urllib.request.Request(constants.ENDPOINT, method="HEAD")
    try:
        urllib.request.urlopen(request, timeout=timeout).close()
    except urllib.error.HTTPError:
        return True
    except urllib.error.URLError as error:  # the hub's client may trust a certificate that Python rejects
        return isinstance(error.reason, ssl.SSLError)
    except OSError:
        return False
    return True


# --- upload ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Upload:
    """What an upload did. name: the repository with its owner; revision: the commit; private: whether others cannot see
    it."""

    name: str
    revision: str
    private: bool


def upload_run(folder: Path, name: HubName, *, private: bool) -> Upload:
    """Upload all files in `folder` as one commit; a repository that does not exist is created.

    A checkpoint that an earlier upload left under another name is removed in the same commit. Raises UserError without
    a token or a permission, where the hub cannot be reached, for a repository that holds something else than a run, and
    for a public one with `private`.
    """
    hub = import_hub()
    if hub.get_token() is None:
        raise UserError(f"repo={name.repository}: uploading needs a token with write access: {LOGIN_ADVICE}")
    if hub_is_forbidden() or not hub_answers():
        raise UserError(f"repo={name.repository}: {unreachable_hub()}; check the network")
    api = hub.HfApi()
    files = sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file())
    with readable_errors(f"repo={name.repository}"):
        repository = api.create_repo(name.repository, private=private, exist_ok=True).repo_id
        info = api.model_info(repository)
        there = [sibling.rfilename for sibling in info.siblings or []]
        check_target(repository, there, is_private=bool(info.private), private=private)
        stale = [file for file in there if file.startswith(tuple(f"{one}/" for one in HUB_CHECKPOINTS))]
        commit = api.create_commit(
            repository,
            [
                *(hub.CommitOperationAdd(path_in_repo=file, path_or_fileobj=folder / file) for file in files),
                *(hub.CommitOperationDelete(path_in_repo=file) for file in stale if file not in files),
            ],
            commit_message="Upload a run of ssss-zoo",
        )
    return Upload(repository, commit.oid, private=bool(info.private))


def check_target(repository: str, files: list[str], *, is_private: bool, private: bool) -> None:
    """Raise UserError for a repository that should not get the run. files: in it; private: as the person wants it."""
    if private and not is_private:
        raise UserError(f"repo={repository} is public: add private=false to upload there, or choose another name")
    if HUB_CONFIG not in files and set(files) - {".gitattributes", "README.md"}:
        raise UserError(
            f"repo={repository} holds files that are not of a run, such as {files[-1]}: choose another name"
        )


# --- errors ---------------------------------------------------------------------------------------------------------


@contextmanager
def readable_errors(subject: str) -> Iterator[None]:
    """Within, errors of the hub's client become a UserError of one line, without its cause: that may hold the token.
    subject: the repository, as the person named it."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # the client raises errors of several libraries
        raise hub_error(error, subject) from None


def hub_error(error: Exception, subject: str) -> UserError:
    """The error of the hub's client in our words."""
    errors = import_hub().errors
    answers = [getattr(one, "response", None) for one in (error, error.__cause__)]  # a missing copy has a cause
    status = next((answer.status_code for answer in answers if answer is not None), None)
    kinds = {kind.__name__ for kind in type(error).__mro__}  # httpx has another name in other versions of the client
    if isinstance(error, errors.GatedRepoError):
        return UserError(f"{subject}: its owner grants access on its page; ask there, then {LOGIN_ADVICE}")
    if isinstance(error, errors.RepositoryNotFoundError):
        hidden = "or a private one that this token, if there is one, may not see"
        return UserError(f"{subject}: the hub has no such repository, {hidden}: check the name; {LOGIN_ADVICE}")
    if isinstance(error, errors.RevisionNotFoundError):
        return UserError(f"{subject}: the repository has no such revision")
    if status in STATUS_MESSAGES:
        return UserError(f"{subject}: {STATUS_MESSAGES[status]}")
    if "LocalProtocolError" in kinds or isinstance(error, UnicodeEncodeError):
        return UserError(f"{subject}: the token has characters that no request can carry: {LOGIN_ADVICE}")
    if "Consistency check failed" in str(error) or "RemoteProtocolError" in kinds:
        return UserError(f"{subject}: the connection broke off and a file came cut short; the same command tries again")
    if status is not None:
        return UserError(f"{subject}: the hub answers with an error ({status}, {reason_of(error)}); try again later")
    if isinstance(error, errors.LocalEntryNotFoundError) or kinds & {"TransportError", "OfflineModeIsEnabled"}:
        return UserError(f"{subject}: {unreachable_hub()}, and no whole copy is in its cache; check the network")
    if isinstance(error, OSError) and error.errno is not None:
        return cannot_write(Path(str(error.filename or "the cache of the hub")), error)
    return UserError(f"{subject}: the hub or its client refuses this: {reason_of(error)}")


def unreachable_hub() -> str:
    from huggingface_hub import constants

    reason = "HF_HUB_OFFLINE is set" if hub_is_forbidden() else "it does not answer"
    return f"the hub ({constants.ENDPOINT}) cannot be reached, because {reason}"


def reason_of(error: Any) -> str:
    """The client's text on one line, without the token."""
    token = import_hub().get_token()
    text = " ".join(str(getattr(error, "server_message", None) or error).split())
    hidden = re.sub("Bearer .*", "Bearer (token)", text.replace(token, "(token)") if token else text)
    return brief(hidden, REASON_LENGTH)
