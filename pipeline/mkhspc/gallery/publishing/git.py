"""Git, run so that nothing it starts can ask a question; why it failed, in its words and without a secret."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from mkhspc.errors import InputError
from mkhspc.gallery.publishing.remote import PROTOCOLS

MOST_LINES = 8
"""Lines of git's, ssh's and hooks' own words that an error repeats."""
MOST_CHARACTERS = 300
"""Of one such line."""

SSH_OPTIONS = "-o BatchMode=yes -o ConnectTimeout=30 -o ServerAliveInterval=20"
"""ssh asks for nothing, and gives up a host that does not answer (seconds)."""

NO_QUESTIONS = {
    "GIT_TERMINAL_PROMPT": "0",
    "GCM_INTERACTIVE": "never",
    "SSH_ASKPASS_REQUIRE": "never",
}
SLOW_TRANSFER = {"GIT_HTTP_LOW_SPEED_LIMIT": "1", "GIT_HTTP_LOW_SPEED_TIME": "120"}
"""Over HTTP git gives up after 120 s without a byte, unless the user has said otherwise."""

_LEFT_OUT = {
    "GIT_DIR",
    "GIT_WORK_TREE",
    "GIT_INDEX_FILE",
    "GIT_OBJECT_DIRECTORY",
    "GIT_COMMON_DIR",
    "GIT_ALTERNATE_OBJECT_DIRECTORIES",
    "GIT_NAMESPACE",
    "GIT_PREFIX",
    "SSH_ASKPASS",
}
"""Variables that point git to another repository, as hooks set them, or open a window that asks."""

_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|[\x00-\x08\x0b-\x1f\x7f]")
_EMPTY_WORDS = re.compile(
    r"(hint:.*|remote:|To \S+|@+|Everything up-to-date|error: failed to push some refs to .*"
    r"|Please make sure you have the correct access rights|and the repository exists\.)?"
)
"""Lines that say nothing of the reason."""
_VAGUE = ("fatal: Could not read from remote repository.", "fatal: the remote end hung up unexpectedly")
"""What git says when the reason was said by somebody else."""

_SELF_EVIDENT = re.compile(r"! \[.*(checked out|fetch first|non-fast-forward|stale info)\)")
"""What git refuses by itself, in one line; what else it says are paragraphs of advice."""

FIXES = {
    "checked out": "check out another branch there, or publish to a bare repository or a URL",
    "fetch first": "somebody else has published meanwhile: look at what they did, then run it again",
    "non-fast-forward": "somebody else has published meanwhile: look at what they did, then run it again",
    "stale info": "somebody else has published meanwhile: look at what they did, then run it again",
    "hook declined": "a hook of that repository refuses it: do as it says, or ask who keeps it",
    "Permission denied (": "ssh has no key that this host takes: add one with `ssh-add`, then try again",
    "Host key verification failed": "log in there once with `ssh` and compare its key, then run it again",
    "terminal prompts disabled": "no password is asked for: set up a credential helper or an ssh key",
    "Authentication failed": "the host does not take this user and token: renew them, or use an ssh key",
    "Could not resolve host": "check the address and the network",
}
"""What a user can do, by words of the reason."""


class Git:
    """Git in one directory.

    Args:
        redact: takes secrets out of what is shown.
        where: the repository that errors name.
    """

    def __init__(self, directory: Path, redact: Callable[[str], str], where: str) -> None:
        self._directory = directory
        self._redact = redact
        self._where = where
        self._environment = quiet_environment(os.environ)
        ssh = self.attempt("config", "core.sshCommand").stdout.strip()
        self._environment = quiet_environment(os.environ, ssh)

    def run(self, *arguments: str) -> str:
        """What git printed.

        Raises:
            InputError: git failed; its reason and that of ssh, hooks and servers is given.
        """
        done = self.attempt(*arguments)
        if done.returncode:
            said = self.reason(done)
            raise InputError(f"git {arguments[0]} failed: {said}", where=self._where, fix=fix_of(said))
        return done.stdout

    def attempt(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self.call(["git", *arguments])

    def call(self, command: Sequence[str]) -> subprocess.CompletedProcess[str]:
        """Runs a command away from any terminal, so that not even ssh finds one to ask at."""
        return _call(command, self._directory, self._environment)

    def add_to_environment(self, variables: Mapping[str, str]) -> None:
        self._environment |= variables

    def reason(self, done: subprocess.CompletedProcess[str]) -> str:
        return self._redact(reason_of(done.stderr, done.stdout))


def quiet_environment(given: Mapping[str, str], ssh_of_settings: str = "") -> dict[str, str]:
    """An environment in which git asks nothing, and starts no program that a URL names.

    Args:
        ssh_of_settings: git's own setting `core.sshCommand`, or nothing.
    """
    kept = {name: value for name, value in given.items() if name not in _LEFT_OUT}
    ssh = given.get("GIT_SSH_COMMAND") or ssh_of_settings or shlex.quote(given.get("GIT_SSH") or "ssh")
    takes_options = "plink" not in ssh.lower()  # PuTTY has other options; without a terminal it cannot ask
    allowed = given.get("GIT_ALLOW_PROTOCOL", ":".join(PROTOCOLS)).split(":")
    return {
        **SLOW_TRANSFER,
        **kept,
        **NO_QUESTIONS,
        "GIT_SSH_COMMAND": f"{ssh} {SSH_OPTIONS}" if takes_options else ssh,
        "GIT_ALLOW_PROTOCOL": ":".join(name for name in allowed if name in PROTOCOLS),
        "LC_ALL": "C",
    }


def reason_of(*outputs: str) -> str:
    """Why git failed: the words of hooks, servers, ssh and git itself, on one line."""
    lines = [_ESCAPES.sub("", line).strip() for output in outputs for line in re.split(r"[\r\n]+", output)]
    telling = list(dict.fromkeys(line for line in lines if not _EMPTY_WORDS.fullmatch(line)))
    telling = [line for line in telling if line not in _VAGUE] or telling
    verdicts = [line for line in telling if line.startswith("! ")]
    if any(map(_SELF_EVIDENT.match, verdicts)):
        telling = verdicts
    words = [line for line in telling if line not in verdicts]
    more = [f"and {len(words) - MOST_LINES} lines more"] if len(words) > MOST_LINES else []
    return "; ".join(map(_shortened, [*words[:MOST_LINES], *more, *verdicts])) or "no reason given"


def _shortened(line: str) -> str:
    return line if len(line) <= MOST_CHARACTERS else f"{line[:MOST_CHARACTERS]}..."


def fix_of(reason: str) -> str:
    """What to do about it, or nothing if that is not known."""
    return next((fix for words, fix in FIXES.items() if words in reason), "")


def _call(
    command: Sequence[str], directory: Path, environment: Mapping[str, str]
) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            command,
            cwd=directory,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,
            check=False,
        )
    except FileNotFoundError as error:
        raise InputError("git is not installed", fix="install it; Debian: apt-get install git") from error
