"""A temporary bare repository through which a site reaches a branch of another one.

The target's working tree and index are never touched, and no git setting outside the temporary
repository is read to be changed or changed. `ghp-import` makes the commit.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from mkhspc.errors import InputError, UsageError

FALLBACK_IDENTITY = {"name": "mkhspc", "email": "mkhspc@localhost"}
"""The author of commits where git has no user configured."""

_OWN_REPOSITORY = (
    "GIT_DIR",
    "GIT_WORK_TREE",
    "GIT_INDEX_FILE",
    "GIT_OBJECT_DIRECTORY",
    "GIT_COMMON_DIR",
    "GIT_ALTERNATE_OBJECT_DIRECTORIES",
    "GIT_NAMESPACE",
    "GIT_PREFIX",
)
"""Variables of git that a hook or an alias sets, and that would point it to another repository."""


@dataclass(frozen=True)
class Changes:
    """How many files differ between two commits."""

    added: int
    changed: int
    removed: int


class TargetBranch:
    """A branch of a repository elsewhere, seen from a temporary repository."""

    def __init__(self, directory: Path, repo: str, branch: str) -> None:
        self._directory = directory
        self._repo = repo
        self._branch = branch
        self._ref = f"refs/heads/{branch}"
        self._tracking = f"refs/remotes/origin/{branch}"
        self._environment = _environment()
        if self._try("check-ref-format", "--branch", branch).returncode:
            raise UsageError(
                f"'{branch}' is not a name that git allows", where="--branch", fix="give one such as gh-pages"
            )
        local = _local_repository(repo)
        self._environment |= self._identity(local or directory)
        self._run("init", "--quiet", "--bare", ".")
        self._run("remote", "add", "--", "origin", str(local or repo))

    def fetch(self) -> str | None:
        """The branch's last commit, fetched without its files or history; None if there is no branch."""
        if not self._run("ls-remote", "origin", self._ref).strip():
            return None
        refspec = f"{self._ref}:{self._tracking}"
        self._run("fetch", "--quiet", "--depth=1", "--filter=blob:none", "--no-tags", "origin", refspec)
        return self._run("rev-parse", self._tracking).strip()

    def has_file(self, commit: str, path: str) -> bool:
        return bool(self._run("ls-tree", "--name-only", commit, "--", path).strip())

    def commit(self, site: Path, before: str | None, message: str, *, orphan: bool) -> str:
        """Commits the files of a site in the place of all that the branch held; returns the commit.

        A custom domain (the branch's CNAME) is kept. `orphan` starts a history of its own.
        """
        arguments = ["--no-jekyll", f"--branch={self._branch}", f"--message={message}"]
        arguments += ["--no-history"] if orphan else []
        if before is not None and self.has_file(before, "CNAME"):
            arguments.append(f"--cname={self._run('show', f'{before}:CNAME').strip()}")
        # -P: the repository's own files must not be imported as Python modules
        command = [sys.executable, "-P", "-m", "ghp_import", *arguments, str(site.resolve())]
        done = self._call(command)
        made = self._try("rev-parse", "--verify", "--quiet", self._ref).stdout.strip()
        if done.returncode or made in ("", before):
            raise InputError(
                f"ghp-import made no commit: {_reason(done.stderr)}",
                where=site,
                fix="run `git status` in the repository, or publish to a URL",
            )
        return made

    def same_files(self, commit: str, other: str) -> bool:
        return self._run("rev-parse", f"{commit}^{{tree}}") == self._run("rev-parse", f"{other}^{{tree}}")

    def changes(self, before: str | None, after: str) -> Changes:
        if before is None:
            return Changes(len(self._run("ls-tree", "-r", "--name-only", after).splitlines()), 0, 0)
        lines = self._run("diff-tree", "-r", "--name-status", "--no-renames", before, after).splitlines()
        kinds = [line[0] for line in lines]
        added, removed = kinds.count("A"), kinds.count("D")
        return Changes(added, len(kinds) - added - removed, removed)

    def push(self, before: str | None, *, orphan: bool) -> None:
        """Pushes the branch. Forced only for an orphan, and only over the commit that was seen."""
        force = [f"--force-with-lease={self._ref}:{before or ''}"] if orphan else []
        self._run("push", "--quiet", *force, "origin", f"{self._ref}:{self._ref}")

    def _identity(self, repository: Path) -> dict[str, str]:
        """Who commits: what the environment or git's settings say, never a change to either."""
        identity = {}
        for key, fallback in FALLBACK_IDENTITY.items():
            variable = f"GIT_COMMITTER_{key.upper()}"
            configured = self._try("-C", str(repository), "config", f"user.{key}").stdout.strip()
            identity[variable] = os.environ.get(variable) or configured or fallback
        return identity

    def _run(self, *arguments: str) -> str:
        done = self._try(*arguments)
        if done.returncode:
            reason = _reason(done.stderr)
            what = f"git {arguments[0]} failed: {reason}"
            raise InputError(what, where=redacted(self._repo), fix=_fix(reason))
        return done.stdout

    def _try(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self._call(["git", *arguments])

    def _call(self, command: list[str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, cwd=self._directory, env=self._environment, capture_output=True, text=True, check=False
        )


@contextmanager
def target_branch(repo: str, branch: str) -> Iterator[TargetBranch]:
    """Yields the branch `branch` of `repo`, a URL or a local repository.

    Raises:
        InputError: `repo` is neither, or git cannot reach it.
        UsageError: git does not allow the branch's name.
    """
    with tempfile.TemporaryDirectory(prefix="mkhspc-publish-") as directory:
        yield TargetBranch(Path(directory), repo, branch)


def redacted(text: str) -> str:
    """A text without the user name and password that a URL in it may carry."""
    return re.sub(r"//[^/@\s]*@", "//", text)


def _environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in _OWN_REPOSITORY}
    return {**kept, "LC_ALL": "C"}


def _local_repository(repo: str) -> Path | None:
    """The repository if it is a directory here, None if it is a URL."""
    path = Path(repo)
    if not path.exists():
        if "://" in repo or re.match(r"[\w.@-]+:", repo):
            return None
        raise InputError(
            "is neither a directory here nor a URL",
            where=repo,
            fix="give a URL or the path of a git repository",
        )
    path = path.resolve()
    # the ceiling keeps git from taking a repository further up for this one
    environment = {**_environment(), "GIT_CEILING_DIRECTORIES": str(path.parent)}
    command = ["git", "-C", str(path if path.is_dir() else path.parent), "rev-parse", "--git-dir"]
    asked = subprocess.run(command, env=environment, capture_output=True, check=False)
    if not path.is_dir() or asked.returncode:
        raise InputError(
            "is not a git repository",
            where=repo,
            fix="give the top of a work tree, a bare repository or a URL",
        )
    return path


def _reason(stderr: str) -> str:
    """The most informative line of git's error."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    informative = [line for line in lines if line.startswith("! ")] or [
        line for line in lines if line.startswith(("fatal:", "error:"))
    ]
    return redacted((informative or lines or ["no reason given"])[0])


def _fix(reason: str) -> str:
    if "checked out" in reason:
        return "check out another branch there, or publish to a bare repository or a URL"
    if "fetch first" in reason or "non-fast-forward" in reason or "stale info" in reason:
        return "somebody else has published meanwhile: look at what they did, then run it again"
    return ""
