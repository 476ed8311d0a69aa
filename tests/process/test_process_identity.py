from __future__ import annotations

import os
import socket
import subprocess
import sys
import time

import pytest

from mkhspc.process import identity


def test_a_process_is_distinguished_from_a_later_one_of_its_number() -> None:
    begun = identity.process_start_ticks(os.getpid())
    assert begun.isdecimal()
    assert begun == identity.process_start_ticks(os.getpid())
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    assert int(identity.process_start_ticks(child.pid)) >= int(begun)
    child.communicate(b"\n")
    assert identity.process_start_ticks(child.pid) == ""


def test_the_same_host_after_a_restart_or_in_another_container_is_another_place(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ours = identity.host_token()
    assert ours.startswith(f"{socket.gethostname()}~")
    command = [sys.executable, "-c", "from mkhspc.process import identity; print(identity.host_token())"]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == ours
    if os.geteuid() == 0:
        fence = ["unshare", "--pid", "--fork", "--mount-proc"]
        fenced = subprocess.run([*fence, *command], capture_output=True, text=True, check=False)
        if fenced.returncode == 0:  # some containers allow no namespaces of their own
            assert fenced.stdout.strip() != ours
    identity.host_token.cache_clear()
    monkeypatch.setattr(identity, "_text", lambda path: "another boot")
    try:
        assert identity.host_token() != ours
        assert not identity.ProcessId(ours, os.getpid()).is_on_this_host
    finally:
        identity.host_token.cache_clear()


def test_a_process_that_ended_is_not_running() -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    assert not identity.ProcessId(identity.host_token(), ended.pid).is_running
    zombie = subprocess.Popen([sys.executable, "-c", ""], stdout=subprocess.PIPE)
    assert zombie.stdout is not None
    zombie.stdout.read()
    deadline_s = time.monotonic() + 10
    while identity.ProcessId(identity.host_token(), zombie.pid).is_running and time.monotonic() < deadline_s:
        time.sleep(0.01)
    assert not identity.ProcessId(identity.host_token(), zombie.pid).is_running
    zombie.wait()
    ours = identity.ProcessId(identity.host_token(), os.getpid())
    assert ours.is_running
    assert ours.is_on_this_host
    assert not identity.ProcessId("elsewhere", os.getpid()).is_on_this_host
    assert not identity.ProcessId(socket.gethostname(), os.getpid()).is_on_this_host, (
        "a name alone is that of many"
    )
