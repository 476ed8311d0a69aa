"""A temporary bare repository through which a site reaches a branch of another one.

The target's working tree and index are never touched, and no git setting outside the temporary
repository is changed. `ghp-import` makes the commit.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from mkhspc.errors import InputError, UsageError
from mkhspc.gallery.publishing.git import Git
from mkhspc.gallery.publishing.remote import branch_name, is_url, redacted, redactor, refuse_helper

FALLBACK_IDENTITY = {"name": "mkhspc", "email": "mkhspc@localhost"}
"""The author of commits where git has no user configured."""


@dataclass(frozen=True)
class Changes:
    """How many files differ between two commits."""

    added: int
    changed: int
    removed: int


@dataclass(frozen=True)
class Onward:
    """Where a repository sends its branches.

    Attributes:
        url: that of the repository itself, or of a work tree's remote; None if there is none.
        remote: the name of a work tree's remote, None for other repositories and where there is none.
        work_tree: the work tree from which the branch is still to be pushed, or None.
    """

    url: str | None
    remote: str | None = None
    work_tree: Path | None = None


class TargetBranch:
    """A branch of a repository elsewhere, seen from a temporary repository.

    Attributes:
        name: the branch's name without `refs/heads/`.
    """

    def __init__(self, directory: Path, repo: str, branch: str) -> None:
        self.name = branch_name(branch)
        self._repo = repo
        self._local = Path(repo).resolve() if Path(repo).exists() else None
        redact = redacted if self._local else redactor(repo)
        self._git = Git(directory, redact, where=redact(repo))
        self._ref = f"refs/heads/{self.name}"
        self._tracking = f"refs/remotes/origin/{self.name}"
        self._check_branch(branch)
        self._git.run("init", "--quiet", "--bare", ".")
        self._url = self._find_target()
        self._git.add_to_environment(self._identity(self._local or directory))
        self._git.run("remote", "add", "--", "origin", self._url)

    def fetch(self) -> str | None:
        """The branch's last commit, fetched without its files or history; None if there is no branch."""
        if not self._git.run("ls-remote", "origin", self._ref).strip():
            return None
        refspec = f"{self._ref}:{self._tracking}"
        self._git.run("fetch", "--quiet", "--depth=1", "--filter=blob:none", "--no-tags", "origin", refspec)
        return self._git.run("rev-parse", self._tracking).strip()

    def files(self, commit: str) -> list[str]:
        listed = self._git.run("ls-tree", "-r", "-z", "--name-only", commit)
        return [name for name in listed.split("\0") if name]

    def read(self, commit: str, path: str) -> str:
        """The text of a file of a commit; nothing if there is no such file."""
        if not self._git.run("ls-tree", "--name-only", commit, "--", path).strip():
            return ""
        return self._git.run("show", f"{commit}:{path}")

    def commit(self, site: Path, message: str, *, domain: str = "", orphan: bool = False) -> str:
        """Commits the files of a site in the place of all that the branch held; returns the commit.

        Args:
            domain: is written to `CNAME`.
            orphan: starts a history of its own.
        """
        arguments = ["--no-jekyll", f"--branch={self.name}", f"--message={message}"]
        arguments += ["--no-history"] if orphan else []
        arguments += [f"--cname={domain}"] if domain else []
        # -P: the repository's own files must not be imported as Python modules
        command = [sys.executable, "-P", "-m", "ghp_import", *arguments, str(site.resolve())]
        before = self._git.attempt("rev-parse", "--verify", "--quiet", self._tracking).stdout.strip()
        done = self._git.call(command)
        made = self._git.attempt("rev-parse", "--verify", "--quiet", self._ref).stdout.strip()
        if done.returncode or made in ("", before):
            raise InputError(
                f"ghp-import made no commit: {self._git.reason(done)}",
                where=site,
                fix="run `git status` in the repository, or publish to a URL",
            )
        return made

    def same_files(self, commit: str, other: str) -> bool:
        trees = [self._git.run("rev-parse", f"{each}^{{tree}}") for each in (commit, other)]
        return trees[0] == trees[1]

    def changes(self, before: str | None, after: str) -> Changes:
        if before is None:
            return Changes(len(self.files(after)), 0, 0)
        listed = self._git.run("diff-tree", "-r", "--name-status", "--no-renames", before, after)
        kinds = [line[0] for line in listed.splitlines()]
        added, removed = kinds.count("A"), kinds.count("D")
        return Changes(added, len(kinds) - added - removed, removed)

    def push(self, before: str | None, *, orphan: bool) -> None:
        """Pushes the branch. Forced only for an orphan, and only over the commit that was seen."""
        force = [f"--force-with-lease={self._ref}:{before or ''}"] if orphan else []
        self._git.run("push", "--quiet", *force, "origin", f"{self._ref}:{self._ref}")

    def onward(self) -> Onward:
        """Where the branch goes from here: a work tree has it, but has not pushed it yet."""
        if self._local is None:
            return Onward(self._url)
        here = ["-C", str(self._local)]
        if self._git.attempt(*here, "rev-parse", "--is-bare-repository").stdout.strip() == "true":
            return Onward(None)
        remotes = self._git.attempt(*here, "remote").stdout.split()
        remote = "origin" if "origin" in remotes else next(iter(remotes), None)
        url = self._git.attempt(*here, "remote", "get-url", remote).stdout.strip() if remote else None
        return Onward(url or None, remote, self._local)

    def _check_branch(self, given: str) -> None:
        asked = self._git.attempt("check-ref-format", "--branch", self.name)
        if asked.returncode or asked.stdout.strip() != self.name:
            fix = "give one such as gh-pages"
            raise UsageError(f"'{given}' is not a name that git allows", where="--branch", fix=fix)

    def _find_target(self) -> str:
        """The repository's path or URL, as git's settings (`url.*.insteadOf`) may rewrite it."""
        if self._local is not None:
            self._check_repository(self._local)
            return str(self._local)
        if not is_url(self._repo):
            raise InputError(
                "is neither a directory here nor a URL",
                where=redactor(self._repo)(self._repo),
                fix="give a URL or the path of a git repository",
            )
        url = self._git.run("ls-remote", "--get-url", "--", self._repo).strip()
        refuse_helper(url)
        return url

    def _check_repository(self, path: Path) -> None:
        # the ceiling keeps git from taking a repository further up for this one
        self._git.add_to_environment({"GIT_CEILING_DIRECTORIES": str(path.parent)})
        asked = self._git.attempt("-C", str(path if path.is_dir() else path.parent), "rev-parse", "--git-dir")
        if path.is_dir() and not asked.returncode:
            return
        owner = "dubious ownership" in asked.stderr
        raise InputError(
            self._git.reason(asked) if owner else "is not a git repository",
            where=self._repo,
            fix="give the top of a work tree, a bare repository or a URL",
        )

    def _identity(self, repository: Path) -> dict[str, str]:
        """Who commits: what the environment or git's settings say, never a change to either."""
        identity = {}
        for key, fallback in FALLBACK_IDENTITY.items():
            variable = f"GIT_COMMITTER_{key.upper()}"
            configured = self._git.attempt("-C", str(repository), "config", f"user.{key}").stdout.strip()
            identity[variable] = os.environ.get(variable) or configured or fallback
        return identity


@contextmanager
def target_branch(repo: str, branch: str) -> Iterator[TargetBranch]:
    """Yields the branch `branch` of `repo`, a URL or a local repository.

    Raises:
        InputError: `repo` is neither, or git cannot reach it.
        UsageError: git does not allow the branch's name, or `repo` names a program to start.
    """
    with tempfile.TemporaryDirectory(prefix="mkhspc-publish-") as directory:
        yield TargetBranch(Path(directory), repo, branch)
