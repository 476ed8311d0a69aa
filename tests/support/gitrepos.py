"""Git repositories for tests of publishing, and hooks in them."""

from __future__ import annotations

import subprocess
from pathlib import Path

HOOK = "#!/bin/sh\n"


def git(directory: Path, *arguments: str) -> str:
    """Runs git as Ada; returns what it printed."""
    who = ["-c", "user.name=Ada", "-c", "user.email=ada@example.org"]
    command = ["git", "-C", str(directory), *who, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def make_bare(path: Path) -> Path:
    path.mkdir()
    git(path, "init", "--quiet", "--bare", ".")
    return path


def make_work_tree(path: Path) -> Path:
    """A repository with a commit, a staged change, an unstaged one and an untracked file."""
    path.mkdir()
    git(path, "init", "--quiet", "--initial-branch=main")
    (path / "a.txt").write_text("1")
    git(path, "add", "a.txt")
    git(path, "commit", "--quiet", "--message=first")
    (path / "a.txt").write_text("2")
    git(path, "add", "a.txt")
    (path / "a.txt").write_text("3")
    (path / "new.txt").write_text("new")
    return path


def add_hook(repository: Path, name: str, script: str) -> None:
    """Puts a shell script into the place of a hook of a bare repository."""
    write_script(repository / "hooks" / name, script)


def write_script(path: Path, script: str) -> Path:
    """A shell script that can be run."""
    path.parent.mkdir(exist_ok=True)
    path.write_text(HOOK + script)
    path.chmod(0o755)
    return path


def commit_files(repository: Path, branch: str, files: dict[str, str], scratch: Path) -> None:
    """Puts files on a branch of a repository, on top of what it holds."""
    clone = scratch / "clone"
    git(scratch, "clone", "--quiet", str(repository), str(clone))
    exists = bool(git(clone, "ls-remote", "origin", f"refs/heads/{branch}"))
    git(clone, "checkout", "--quiet", *((branch,) if exists else ("--orphan", branch)))
    for name, text in files.items():
        (clone / name).parent.mkdir(parents=True, exist_ok=True)
        (clone / name).write_text(text)
    git(clone, "add", "--all")
    git(clone, "commit", "--quiet", "--message=theirs")
    git(clone, "push", "--quiet", "origin", branch)
    subprocess.run(["rm", "-r", str(clone)], check=True)
