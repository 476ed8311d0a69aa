"""What git, ssh, hooks and servers say reaches the user, and what is secret in a URL does not."""

from __future__ import annotations

import base64
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gitrepos import add_hook, git, write_script
from mkhspc.errors import InputError, UsageError
from mkhspc.gallery.publishing.git import quiet_environment, reason_of
from mkhspc.gallery.publishing.publish import PublishOptions, publish
from mkhspc.gallery.publishing.remote import page_address, redacted, redactor
from processes import command, mkhspc
from webserver import free_port, web

SECRET = "s3cr3t-t0ken"


def refusal(site: Path, repo: object, **settings: str) -> str:
    with pytest.raises(InputError) as refused:
        publish(site, PublishOptions(repo=str(repo), **settings))
    return str(refused.value)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://ada:SECRET@lab.org/x.git", "https://lab.org/x.git"),
        ("https://SECRET@lab.org/x.git", "https://lab.org/x.git"),
        ("https://SECRET:x-oauth-basic@lab.org/x.git", "https://lab.org/x.git"),
        ("https://ada:p@ss/SECRET@lab.org/x.git", "https://lab.org/x.git"),
        ("https://ada:p#SECRET@lab.org/x.git", "https://lab.org/x.git"),
        ("https://lab.org/x.git?private_token=SECRET&a=1", "https://lab.org/x.git?***"),
        ("https://lab.org:8443/x.git?SECRET", "https://lab.org:8443/x.git?***"),
        ("https://lab.org/x.git#SECRET", "https://lab.org/x.git#***"),
        ("ssh://SECRET@lab.org:22/x.git", "ssh://lab.org:22/x.git"),
        ("SECRET@lab.org:x.git", "***@lab.org:x.git"),
        ("ada:SECRET@lab.org:x.git", "***@lab.org:x.git"),
        ("https:/ada:SECRET@lab.org/x.git", "https:/lab.org/x.git"),
        ("git@lab.org:x.git", "git@lab.org:x.git"),
        ("file:///data/a@b.git", "file:///data/a@b.git"),
        ("https://lab.org/x.git", "https://lab.org/x.git"),
    ],
)
def test_what_is_secret_in_a_url_is_not_shown(url: str, shown: str) -> None:
    given = url.replace("SECRET", SECRET)
    assert redactor(given)(given) == shown
    if SECRET in given:
        said = f"fatal: {SECRET}@lab.org: Permission denied; token '{SECRET}' for '{given}/' is no good"
        assert SECRET not in redactor(given)(said)


def test_a_secret_is_known_in_both_its_spellings() -> None:
    redact = redactor("https://ada:p%40ss%2Fword@lab.org/x.git")
    assert redact("user ada, password p@ss/word or p%40ss%2Fword") == "user ***, password *** or ***"


def test_urls_and_tokens_of_others_are_redacted_too() -> None:
    token = "ghp_" + "A1b2" * 9
    said = f"remote: see https://bob:pw@lab.org/x?key=1 or use {token} with ghp_import"
    assert redacted(said) == "remote: see https://lab.org/x?*** or use *** with ghp_import"


@pytest.mark.parametrize("status", [401, 403, 404, 500])
@pytest.mark.parametrize(
    "shape", ["http://ada:{}@{}/x.git", "http://{}@{}/x.git", "http://{1}/x.git?token={0}"]
)
@pytest.mark.parametrize("options", [[], ["--dry-run"]])
def test_a_host_that_refuses_is_an_error_without_the_secret(
    site: Path, nobody: None, status: int, shape: str, options: list[str]
) -> None:
    with web(lambda _: (status, f"no, {SECRET}".encode())) as server:
        repo = shape.format(SECRET, server.address.removeprefix("http://"))
        done = mkhspc("-v", "publish", site, "--repo", repo, *options, timeout_s=60)
    assert done.returncode == 3
    assert "git ls-remote failed: " in done.stderr
    assert SECRET not in done.stdout + done.stderr
    assert base64.b64encode(f"ada:{SECRET}".encode()).decode() not in done.stderr


def test_a_url_that_is_answered_with_a_password_prompt_is_refused_without_one(
    site: Path, nobody: None
) -> None:
    with web(lambda _: (401, b"")) as server:
        said = refusal(site, f"{server.address}/x.git")
    assert "could not read Username" in said or "Authentication failed" in said
    assert said.splitlines()[1].strip() in (
        "no password is asked for: set up a credential helper or an ssh key",
        "the host does not take this user and token: renew them, or use an ssh key",
    )


@pytest.mark.parametrize(
    "repo",
    ["fd::17", "fd::17/foo", "ext::sh -c 'touch MARK'", "transport::address", "::x", "a.b+c-d::x", "ext://x", "foo://h/x",
     "ftp://lab.org/x"],
)  # fmt: skip
def test_a_program_that_a_url_names_is_not_started(
    site: Path, nobody: None, tmp_path: Path, repo: str
) -> None:
    mark = tmp_path / "mark"
    given = repo.replace("MARK", str(mark))
    start_s = time.monotonic()
    done = mkhspc("publish", site, "--repo", given, timeout_s=60)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines()[-2:] == [
        f"mkhspc: --repo: '{given}' names a remote helper, a program that git would start",
        "  give a directory, or a URL of https, ssh or git@host:path",
    ]
    assert not mark.exists()
    assert time.monotonic() - start_s < 30


def test_a_setting_of_git_cannot_smuggle_a_program_in(site: Path, nobody: None, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    settings = tmp_path / "gitconfig"
    settings.write_text(
        f'[url "ext::touch {mark} "]\n insteadOf = https://lab.invalid/\n[protocol "ext"]\n allow = always\n'
    )
    with pytest.raises(UsageError, match="names a remote helper"):
        publish(site, PublishOptions(repo="https://lab.invalid/x"))
    settings.write_text(settings.read_text().replace("insteadOf", "pushInsteadOf"))
    assert "ls-remote failed" in refusal(site, "https://lab.invalid/x")
    assert not mark.exists()


def test_a_short_name_that_git_knows_is_a_url(site: Path, bare: Path, tmp_path: Path) -> None:
    (tmp_path / "gitconfig").write_text(f'[url "file://{bare.parent}/"]\n insteadOf = lab://\n')
    publish(site, PublishOptions(repo=f"lab://{bare.name}"))
    assert git(bare, "cat-file", "-t", "gh-pages:site.json") == "blob"


@pytest.mark.parametrize("hook", ["pre-receive", "update"])
def test_a_hook_that_refuses_is_heard(site: Path, bare: Path, hook: str) -> None:
    script = "echo 'No sites on Fridays.' >&2\nprintf '\\033[31mAsk Ada\\033[0m, room 7\\n'\nexit 1\n"
    add_hook(bare, hook, script)
    said = refusal(site, bare).splitlines()
    assert said[0].startswith(f"{bare}: git push failed: remote: ")
    assert {"remote: No sites on Fridays.", "remote: Ask Ada, room 7"} < set(
        said[0].removeprefix(f"{bare}: git push failed: ").split("; ")
    )
    assert "! [remote rejected] gh-pages -> gh-pages (" in said[0]
    assert said[1:] == ["  a hook of that repository refuses it: do as it says, or ask who keeps it"]
    assert git(bare, "for-each-ref") == ""


def test_a_hook_that_says_much_is_heard_at_first(site: Path, bare: Path) -> None:
    add_hook(bare, "pre-receive", "for i in $(seq 500); do echo line $i; done; exit 1\n")
    said = refusal(site, bare)
    assert "git push failed: remote: line 1; remote: line 2;" in said
    assert "; remote: line 8; and 492 lines more; ! [remote rejected] gh-pages" in said
    assert len(said) < 1000


def test_a_hook_that_repeats_a_secret_is_heard_without_it(site: Path, bare: Path) -> None:
    add_hook(
        bare, "pre-receive", f"echo 'bad token in https://ada:{SECRET}@lab.org/x?key={SECRET}'; exit 1\n"
    )
    assert "remote: bad token in https://lab.org/x?***" in refusal(site, bare)


def test_a_hook_of_the_user_is_heard(site: Path, bare: Path, tmp_path: Path) -> None:
    write_script(tmp_path / "hooks" / "pre-push", "echo 'ask before you push' >&2; exit 1\n")
    (tmp_path / "gitconfig").write_text(f"[core]\n hooksPath = {tmp_path / 'hooks'}\n")
    assert refusal(site, bare).startswith(f"{bare}: git push failed: ask before you push")


@pytest.mark.parametrize(
    ("said_by_ssh", "fix"),
    [
        ("git@lab.invalid: Permission denied (publickey).", "ssh has no key that this host takes"),
        ("Host key verification failed.", "log in there once with `ssh`"),
        ("ssh: Could not resolve hostname lab.invalid: Name or service not known", ""),
        ("kex_exchange_identification: Connection closed by remote host", ""),
    ],
)
def test_what_ssh_says_is_heard(
    site: Path, nobody: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, said_by_ssh: str, fix: str
) -> None:
    script = write_script(
        tmp_path / "bin" / "ssh", f"echo \"$@\" >> {tmp_path}/asked; echo '{said_by_ssh}' >&2; exit 255\n"
    )
    monkeypatch.setenv("PATH", f"{script.parent}:{os.environ['PATH']}")
    said = refusal(site, "git@lab.invalid:x.git").splitlines()
    assert said[0] == f"git@lab.invalid:x.git: git ls-remote failed: {said_by_ssh}"
    assert " ".join(said[1:]).strip().startswith(fix)
    assert "-o BatchMode=yes" in (tmp_path / "asked").read_text()


@pytest.mark.parametrize("variable", ["GIT_SSH_COMMAND", "GIT_SSH", "core.sshCommand"])
def test_an_ssh_of_ones_own_is_used(
    site: Path, nobody: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, variable: str
) -> None:
    script = write_script(
        tmp_path / "bin" / "ownssh", f'echo "$@" >> {tmp_path}/asked\necho refused >&2\nexit 255\n'
    )
    if variable == "core.sshCommand":
        (tmp_path / "gitconfig").write_text(f"[core]\n sshCommand = {script}\n")
    else:
        monkeypatch.setenv(variable, str(script))
    said = refusal(site, "SECRET@lab.invalid:x.git")
    assert said == "***@lab.invalid:x.git: git ls-remote failed: refused"
    assert "BatchMode=yes" in (tmp_path / "asked").read_text()


def test_what_git_starts_finds_no_terminal_to_ask_at(
    site: Path, nobody: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    seen = tmp_path / "seen"
    look = f"(: < /dev/tty) 2>/dev/null && echo a terminal >> {seen} || echo none >> {seen}\n"
    monkeypatch.setenv("GIT_SSH_COMMAND", str(write_script(tmp_path / "bin" / "ownssh", f"{look}exit 255\n")))
    at_a_terminal = [sys.executable, "-c", "import pty, sys; pty.spawn(sys.argv[1:])"]
    subprocess.run([*at_a_terminal, "sh", "-c", look], check=True, stdin=subprocess.DEVNULL, timeout=60)
    publish_it = command("publish", site, "--repo", "git@lab.invalid:x.git")
    subprocess.run([*at_a_terminal, *publish_it], check=True, stdin=subprocess.DEVNULL, timeout=60)
    assert set(seen.read_text().splitlines()[1:]) == {"none"}
    assert seen.read_text().startswith("a terminal\n")


def test_git_asks_nothing(site: Path, nobody: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    script = write_script(tmp_path / "bin" / "askpass", f"touch {tmp_path}/asked; echo x\n")
    monkeypatch.setenv("SSH_ASKPASS", str(script))
    monkeypatch.setenv("DISPLAY", ":0")
    with web(lambda _: (401, b"")) as server:
        refusal(site, f"{server.address}/x.git")
    assert not (tmp_path / "asked").exists()
    made = quiet_environment({"SSH_ASKPASS": "x", "GIT_DIR": "y", "GIT_ALLOW_PROTOCOL": "https:ext"})
    assert (made["GIT_TERMINAL_PROMPT"], made["GIT_ALLOW_PROTOCOL"]) == ("0", "https")
    assert not {"SSH_ASKPASS", "GIT_DIR"} & set(made)
    assert quiet_environment({"GIT_SSH_COMMAND": "plink -x"})["GIT_SSH_COMMAND"] == "plink -x"


def test_a_refused_connection_is_said(site: Path, nobody: None) -> None:
    assert "Connection refused" in refusal(site, f"git://127.0.0.1:{free_port()}/x.git")


def test_a_url_with_one_slash_is_no_host_named_https(site: Path, nobody: None) -> None:
    said = refusal(site, f"https:/ada:{SECRET}@lab.org/x.git")
    assert said.splitlines()[0] == "https:/lab.org/x.git: is neither a directory here nor a URL"


def test_reasons_are_those_that_tell_something() -> None:
    said = (
        "remote: \x1b[1;31mGitLab: You are not allowed\x1b[K\nremote: \nTo lab.org:x.git\n"
        " ! [remote rejected] a -> a (pre-receive hook declined)\n"
        "error: failed to push some refs to 'lab.org:x.git'\n"
    )
    assert reason_of(said) == (
        "remote: GitLab: You are not allowed; ! [remote rejected] a -> a (pre-receive hook declined)"
    )
    assert (
        reason_of("fatal: Could not read from remote repository.\n")
        == "fatal: Could not read from remote repository."
    )
    assert reason_of("", "") == "no reason given"
    assert reason_of("remote: To publish, ask Ada\n") == "remote: To publish, ask Ada"


@pytest.mark.parametrize(
    ("url", "domain", "page"),
    [
        ("https://github.com/Lab/Marrow.git", "", "https://lab.github.io/Marrow/"),
        ("git@github.com:lab/marrow-1.0.git", "", "https://lab.github.io/marrow-1.0/"),
        ("ssh://git@github.com/lab/marrow/", "", "https://lab.github.io/marrow/"),
        ("ssh://git@ssh.github.com:443/lab/marrow.git", "", "https://lab.github.io/marrow/"),
        (f"https://x:{SECRET}@github.com/lab/marrow", "", "https://lab.github.io/marrow/"),
        ("https://github.com/lab/lab.github.io.git", "", "https://lab.github.io/"),
        ("git@github.com:lab/marrow.git", "marrow.lab.org", "https://marrow.lab.org/"),
        ("https://gitlab.com/lab/marrow.git", "", None),
        ("https://gitlab.com/lab/marrow.git", "marrow.lab.org", None),
        ("https://github.com.evil.org/lab/marrow.git", "", None),
        ("https://evil.org/github.com/lab/marrow", "", None),
        ("https://notgithub.com/lab/marrow", "", None),
        ("https://github.com/lab", "", None),
        ("/data/github.com/lab/marrow", "", None),
        ("", "", None),
    ],
)
def test_the_page_of_a_repository_on_github(url: str, domain: str, page: str | None) -> None:
    assert page_address(url, domain) == page


def said_after(site: Path, repo: object, *options: str) -> list[str]:
    done = mkhspc("publish", site, "--repo", repo, *options, timeout_s=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


SETTING = (
    "On GitHub: Settings > Pages > Build and deployment: 'Deploy from a branch',"
    " branch gh-pages, folder / (root)"
)


def test_after_a_bare_repository_nothing_is_invented(site: Path, bare: Path) -> None:
    said = said_after(site, bare)
    assert said[0].startswith("gh-pages: now ")
    assert said[1:] == [SETTING]


@pytest.mark.parametrize("remote", ["origin", "upstream"])
def test_after_a_work_tree_its_push_is_still_to_do(site: Path, work_tree: Path, remote: str) -> None:
    git(work_tree, "remote", "add", remote, f"https://x:{SECRET}@github.com/Lab/marrow.git")
    todo = f"git -C {work_tree} push {remote} gh-pages"
    assert said_after(site, work_tree, "--dry-run")[1:] == [
        SETTING, "The page: https://lab.github.io/marrow/", f"Then: {todo}",
    ]  # fmt: skip
    for _ in range(2):
        said = said_after(site, work_tree)
        assert said[1:] == [SETTING, "The page: https://lab.github.io/marrow/", f"Still to do: {todo}"]
    assert said[0].endswith("nothing to publish")
    assert SECRET not in "".join(said)


def test_the_push_that_is_still_to_do_works_as_printed(site: Path, work_tree: Path, bare: Path) -> None:
    said = said_after(site, work_tree)
    assert said[-1] == (
        f"Still to do: git -C {work_tree} remote add origin URL && git -C {work_tree} push origin gh-pages"
    )
    todo = said[-1].removeprefix("Still to do: ").replace("URL", str(bare))
    subprocess.run(todo, shell=True, check=True, capture_output=True)
    assert git(bare, "rev-parse", "gh-pages") == git(work_tree, "rev-parse", "gh-pages")


def test_waiting_for_a_dead_address_comes_after_what_was_done(site: Path, bare: Path) -> None:
    done = mkhspc("publish", site, "--repo", bare, "--wait", f"http://127.0.0.1:{free_port()}/", timeout_s=60)
    assert done.returncode == 4
    assert done.stdout.splitlines()[1] == SETTING
    assert "does not show the new site: the connection is refused, for 1" in done.stderr


def test_an_address_that_is_none_is_refused_before_anything_is_sent(site: Path, bare: Path) -> None:
    done = mkhspc("publish", site, "--repo", bare, "--wait", f"https://a:{SECRET}@lab.org/", timeout_s=60)
    assert done.returncode == 2
    assert SECRET not in done.stderr
    assert git(bare, "for-each-ref") == ""
