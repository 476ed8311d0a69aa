"""What `--repo` and `--branch` mean: what is secret in a URL, what must not start, where GitHub shows it."""

from __future__ import annotations

import re
from collections.abc import Callable
from urllib.parse import unquote

from mkhspc.errors import UsageError

PROTOCOLS = ("file", "git", "git+ssh", "http", "https", "ssh", "ssh+git")
"""What git speaks itself or over curl and ssh; for any other name it would start a program of that name."""

SHORTEST_SECRET = 3
"""Characters; a shorter part of a URL is hidden inside URLs alone, for it is part of many words."""

_HEADS = "refs/heads/"
_HELPER = re.compile(r"[A-Za-z0-9+.-]*::")
_SCHEME = re.compile(r"([A-Za-z0-9+.-]+)://")
_USER_PART = re.compile(
    r"(?:(?<=://)|(?<=[a-z]:/)(?!/))(?:[^/\s'\"]*:(?!\d+/)[^\s'\"]*@|[^/?#\s'\"]*@)", re.IGNORECASE
)
"""What stands before the host of a URL; a password may hold any sign, even '/' and '@'."""
_QUERY = re.compile(r"(://[^\s'\"?]*)\?[^\s'\"]*")
_TOKEN = re.compile(r"\b(gh[a-z]_|github_pat_|glpat-)[\w-]{16,}")
"""Tokens of GitHub and GitLab, by the beginnings that their documentation names."""
_SCP_USER = re.compile(r"^(?![^/]*//)[^/]*@")
"""The user of `user@host:path`."""
_ONE_SLASH = re.compile(rf"(?:{'|'.join(map(re.escape, PROTOCOLS))}):/(?!/)")
"""A URL with a slip in it, which git would take for a path on a host called 'https'."""
_GITHUB = re.compile(
    r"(?:(?:https?|git|ssh|git\+ssh|ssh\+git)://)?(?:[^@/]*@)?(?:www\.|ssh\.)?github\.com(?::\d+)?[/:]"
    r"(?P<owner>[\w-]+)/(?P<name>[\w.-]+?)(?:\.git)?/?",
    re.IGNORECASE,
)


def branch_name(given: str) -> str:
    """The name of a branch, which may be given in full as `refs/heads/NAME`.

    Raises:
        UsageError: the full name of something other than a branch.
    """
    name = given.removeprefix(_HEADS)
    if name.startswith("refs/"):
        raise UsageError(f"'{given}' is not a branch", where="--branch", fix="give one such as gh-pages")
    return name


def is_url(repo: str) -> bool:
    """Whether git would take this for a URL, or for `host:path`, if nothing here has that name."""
    return "://" in repo or (":" in repo.split("/")[0] and not _ONE_SLASH.match(repo))


def refuse_helper(url: str) -> None:
    """Refuses a URL for which git would start a program that the URL names.

    Raises:
        UsageError: `helper::address`, or a protocol that git does not speak itself.
    """
    scheme = _SCHEME.match(url)
    if _HELPER.match(url) or (scheme and scheme[1].lower() not in PROTOCOLS):
        raise UsageError(
            f"'{redactor(url)(url)}' names a remote helper, a program that git would start",
            where="--repo",
            fix="give a directory, or a URL of https, ssh or git@host:path",
        )


def redacted(text: str) -> str:
    """A text without the user, password and query of the URLs in it, and without tokens."""
    return _TOKEN.sub("***", _QUERY.sub(r"\1?***", _USER_PART.sub("", text)))


def redactor(repo: str) -> Callable[[str], str]:
    """A function that takes out of a text what is secret in this URL, wherever it stands."""
    user = _user_part(repo)
    longest_first = sorted(_secrets(repo, user), key=len, reverse=True)
    words = [rf"(?<!\w){re.escape(secret)}(?!\w)" for secret in longest_first]
    pattern = re.compile("|".join([rf"(?<!\w){re.escape(user)}" if user else r"(?!)", *words]))

    def redact(text: str) -> str:
        return pattern.sub(lambda found: "***@" if found[0] == user else "***", redacted(text))

    return redact


def _user_part(repo: str) -> str:
    """All that stands before the host, its '@' included; nothing for the user `git`, which hides nothing."""
    found = _USER_PART.search(repo) or _SCP_USER.search(repo)
    return found[0] if found and found[0] != "git@" else ""


def _secrets(repo: str, user: str) -> set[str]:
    """User, password and values of the query, as they are and decoded."""
    query = re.split(r"[?#]", repo.partition(user)[2] if user else repo, maxsplit=1)[1:]
    parts = [user.removesuffix("@"), *re.split(r"[:/@?#]", user), *query]
    parts += [word for text in query for word in re.split(r"[?#&]|\w+=", text)]
    both = {form for part in parts for form in (part, unquote(part))}
    return {part for part in both if len(part) >= SHORTEST_SECRET and part != "git"}


def page_address(url: str, domain: str = "") -> str | None:
    """Where GitHub shows the pages of a repository; None for a repository elsewhere.

    Args:
        domain: the domain of one's own that the branch's `CNAME` names.
    """
    github = _GITHUB.fullmatch(url)
    if github is None:
        return None
    host = f"{github['owner'].lower()}.github.io"
    if domain:
        return f"https://{domain}/"
    return f"https://{host}/" if github["name"].lower() == host else f"https://{host}/{github['name']}/"
