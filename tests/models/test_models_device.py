from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mkhspc.errors import UsageError
from mkhspc.models import device
from mkhspc.models.device import (
    Batch,
    DeviceMemoryError,
    Footprint,
    Gpu,
    Precision,
    batch_on,
    device_names,
    in_batches,
    is_full,
    is_lost,
)

A100 = Gpu("A100", 42_000_000_000, "bfloat16")
V100 = Gpu("V100", 34_000_000_000, "float16")


@pytest.mark.parametrize(
    ("asked", "gpus", "expected"),
    [
        ("auto", 0, ["cpu"]),
        ("auto", 2, ["cuda:0", "cuda:1"]),
        ("cpu", 2, ["cpu"]),
        ("cuda", 2, ["cuda:0"]),
        ("cuda:1", 2, ["cuda:1"]),
        ("cuda:1,cuda:0", 2, ["cuda:1", "cuda:0"]),
        ("cuda:0, cpu", 1, ["cuda:0", "cpu"]),
    ],
)
def test_names_of_devices(asked: str, gpus: int, expected: list[str]) -> None:
    assert device_names(asked, [A100] * gpus) == expected


def test_auto_leaves_out_what_torch_cannot_compute_on() -> None:
    old, taken = replace(V100, fault="no kernel image"), replace(A100, fault="CUDA error: out of memory")
    assert device_names("auto", [old, A100]) == ["cuda:1"]
    assert device_names("auto", [old, taken]) == ["cuda:1"], "what others hold now can be used later"
    assert device_names("auto", [old, old]) == ["cuda:0", "cuda:1"], "so that the fault is told"


@pytest.mark.parametrize(
    ("asked", "gpus", "what", "fix"),
    [
        ("cuda", 0, "there is no device 'cuda:0'", "there are: cpu, or auto"),
        ("cuda:2", 2, "there is no device 'cuda:2'", "there are: cpu, cuda:0, cuda:1, or auto"),
        ("gpu", 1, "there is no device 'gpu'", "there are: cpu, cuda:0, or auto"),
        ("", 1, "there is no device ''", "there are: cpu, cuda:0, or auto"),
        ("cuda:0,", 1, "there is no device ''", "there are: cpu, cuda:0, or auto"),
        ("cuda,cuda:0", 1, "the device 'cuda:0' is named twice", "each device holds the models once"),
    ],
)
def test_a_device_that_is_not_there_is_an_error_that_names_those_that_are(
    asked: str, gpus: int, what: str, fix: str
) -> None:
    with pytest.raises(UsageError) as caught:
        device_names(asked, [A100] * gpus)
    assert (caught.value.what, caught.value.fix) == (what, fix)


def test_devices_of_torch_are_taken_as_they_are(torch: Any) -> None:
    assert device_names(torch.device("cuda:1"), [A100, V100]) == ["cuda:1"]
    assert device_names(torch.device("cuda"), [A100]) == ["cuda:0"]
    for asked in ("cpu", torch.device("cpu"), torch.device("cpu", 0)):
        assert device.torch_device(asked) == torch.device("cpu")


def test_a_gpu_of_torch_has_its_number(torch: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "_visible_gpus", lambda: [A100, V100])
    assert device.torch_device("cuda") == torch.device("cuda", 0)
    assert device.torch_device("cuda:1") == torch.device("cuda", 1)


BF16: tuple[Precision, ...] = ("bfloat16",)
EITHER: tuple[Precision, ...] = ("bfloat16", "float16")


@pytest.mark.parametrize(
    ("name", "reduced", "expected"),
    [
        ("cuda:0", BF16, "bfloat16"),
        ("cuda:0", EITHER, "bfloat16"),
        ("cuda:0", ("float16",), "float32"),
        ("cuda:0", (), "float32"),
        ("cuda:1", BF16, "float32"),
        ("cuda:1", EITHER, "float16"),
        ("cpu", EITHER, "float32"),
    ],
)
def test_a_model_computes_in_fewer_bits_only_where_it_and_the_gpu_are_made_for_them(
    torch: Any, name: str, reduced: Sequence[Precision], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device, "_visible_gpus", lambda: [A100, V100])
    assert device.precision_of(device.torch_device(name), reduced) == expected


@pytest.mark.parametrize("name", ["cpu", "cuda:0"])
def test_networks_in_float32_are_not_cast(torch: Any, name: str) -> None:
    layer = torch.nn.Linear(3, 2)
    with device.autocast(torch.device(name), "float32"):
        assert layer(torch.ones(1, 3)).dtype == torch.float32
        assert not torch.is_autocast_enabled("cuda")


@pytest.mark.parametrize("precision", EITHER)
def test_networks_on_a_gpu_are_cast(
    torch: Any, precision: Precision, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a GPU only the context itself can be looked at."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *_: True)
    monkeypatch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
    context = device.autocast(torch.device("cuda", 0), precision)
    assert isinstance(context, torch.autocast)
    assert context.device == "cuda"
    assert context.fast_dtype == getattr(torch, precision)


class Small:
    """A device whose memory does for `room` items at once."""

    def __init__(
        self,
        room: int,
        torch: Any,
        error: type[RuntimeError] | None = None,
        says: str = "CUDA out of memory. Tried to allocate 2.00 GiB.\nmore",
    ) -> None:
        self.room = room
        self.error = (error or torch.cuda.OutOfMemoryError)(says)
        self.tried: list[int] = []
        self.told: list[int] = []

    def __call__(self, items: Sequence[int], batch: int) -> Sequence[int]:
        self.tried.append(len(items))
        self.told.append(batch)
        if len(items) > self.room:
            raise self.error
        return [10 * item for item in items]


@pytest.mark.parametrize(
    ("room", "tried"),
    [
        (8, [8, 8, 4]),
        (7, [8, 4, 4, 4, 4, 4]),
        (3, [8, 4, *[2] * 10]),
        (1, [8, 4, 2, *[1] * 20]),
    ],
)
def test_a_full_device_gets_half_as_much_at_once(torch: Any, room: int, tried: list[int]) -> None:
    run = Small(room, torch)
    assert in_batches(range(20), run, Batch(8)) == [10 * n for n in range(20)]
    assert run.tried == tried


@pytest.mark.parametrize(
    ("memory_bytes", "size"), [(1000, 64), (500, 64), (499, 32), (300, 32), (299, 16), (107, 1), (1, 1)]
)
def test_a_gpu_of_less_memory_gets_less_at_once_from_the_start(
    torch: Any, monkeypatch: pytest.MonkeyPatch, memory_bytes: int, size: int
) -> None:
    footprint, usual = Footprint(held_bytes=100, batch_bytes=400), {"cpu": 4, "cuda": 64}
    gpus = [replace(A100, memory_bytes=10**6), replace(A100, memory_bytes=memory_bytes)]
    monkeypatch.setattr(device, "_visible_gpus", lambda: gpus)
    assert batch_on(torch.device("cuda", 1), usual, footprint).size == size
    assert batch_on(torch.device("cuda", 0), usual, footprint).size == 64
    assert batch_on(torch.device("cuda", 1), usual, None).size == 64
    assert batch_on(torch.device("cpu"), usual, footprint).size == 4


def test_the_last_items_are_to_fill_the_batch_that_fits(torch: Any) -> None:
    run = Small(7, torch)
    in_batches(range(11), run, Batch(8))
    assert run.tried == [8, 4, 4, 3]
    assert run.told == [8, 4, 4, 4]


def test_the_batch_that_fits_is_kept_for_later_calls(torch: Any) -> None:
    run, batch = Small(7, torch), Batch(8)
    in_batches(range(11), run, batch)
    in_batches(range(9), run, batch)
    assert batch.size == 4
    assert run.told == [8, 4, 4, 4, 4, 4, 4]


def test_few_items_that_are_not_filled_up_are_halved_themselves(torch: Any) -> None:
    run = Small(1, torch)
    assert in_batches(range(3), run, Batch(1024), pads=False) == [0, 10, 20]
    assert run.tried == [3, 2, 1, 1, 1]


def test_what_does_not_fit_alone_changes_no_batch(torch: Any) -> None:
    batch = Batch(8)
    with pytest.raises(DeviceMemoryError):
        in_batches(range(3), Small(0, torch), batch)
    assert batch.size == 8


NOT_INITIALIZED = [
    "CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`",
    "cuDNN error: CUDNN_STATUS_NOT_INITIALIZED",
]


@pytest.mark.parametrize("says", NOT_INITIALIZED)
def test_a_library_that_does_not_start_may_lack_memory(torch: Any, says: str) -> None:
    run = Small(2, torch, RuntimeError, says)
    assert in_batches(range(4), run, Batch(4)) == [0, 10, 20, 30]
    assert run.tried == [4, 2, 2]


@pytest.mark.parametrize("says", NOT_INITIALIZED)
def test_a_library_that_does_not_even_start_for_one_item_has_lost_its_gpu(torch: Any, says: str) -> None:
    run = Small(0, torch, RuntimeError, says)
    with pytest.raises(RuntimeError, match="NOT_INITIALIZED") as caught:
        in_batches(range(4), run, Batch(4))
    assert run.tried == [4, 2, 1]
    assert is_lost(caught.value)


@pytest.mark.parametrize(
    "says",
    [
        "cuDNN error: CUDNN_STATUS_NOT_SUPPORTED. This error may appear if you passed ...",
        "cuDNN error: CUDNN_STATUS_BAD_PARAM",
        "CUDA error: CUBLAS_STATUS_NOT_SUPPORTED when calling `cublasLtMatmul`",
        "CUDA error: CUBLAS_STATUS_INVALID_VALUE when calling `cublasSgemm`",
    ],
)
def test_a_call_that_is_refused_is_no_lost_gpu_and_no_full_memory(torch: Any, says: str) -> None:
    run = Small(2, torch, RuntimeError, says)
    with pytest.raises(RuntimeError, match="STATUS") as caught:
        in_batches(range(4), run, Batch(4))
    assert run.tried == [4]
    assert not is_lost(caught.value)


@pytest.mark.parametrize(
    "says",
    [
        "CUDA error: out of memory",
        "CUDA driver error: out of memory",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory: you tried "
        "to allocate 32000000000 bytes. Error code 12 (Cannot allocate memory)",
    ],
)
def test_memory_is_full_whoever_says_so(torch: Any, says: str) -> None:
    run = Small(2, torch, RuntimeError, says)
    assert in_batches(range(4), run, Batch(4)) == [0, 10, 20, 30]
    assert run.tried == [4, 2, 2]
    assert not is_lost(RuntimeError(says))


def test_memory_is_full_when_numpy_says_so_and_not_for_other_errors(torch: Any) -> None:
    def run(items: Sequence[int], batch: int) -> Sequence[int]:
        if batch > 2:
            raise MemoryError("Unable to allocate 16.0 GiB")
        return items

    assert in_batches([1, 2, 3], run, Batch(4)) == [1, 2, 3]
    assert not is_full(ValueError("out of memory"))
    assert not is_full(RuntimeError("CUDA error: device-side assert triggered"))


def test_what_does_not_fit_alone_is_an_error(torch: Any) -> None:
    run = Small(0, torch)
    with pytest.raises(DeviceMemoryError, match="Tried to allocate 2") as caught:
        in_batches(range(20), run, Batch(8))
    assert run.tried == [8, 4, 2, 1]
    assert "\nmore" not in str(caught.value)
    assert "smaller model" in caught.value.fix


def test_what_the_failed_attempt_held_is_freed_before_the_next(
    torch: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    alive: set[int] = set()
    seen: list[set[int]] = []

    class Held:
        def __init__(self, size: int) -> None:
            self.size = size
            self.itself = self  # only the collector frees it
            alive.add(size)

        def __del__(self) -> None:
            alive.discard(self.size)

    def run(items: Sequence[int], batch: int) -> Sequence[int]:
        held = Held(len(items))
        if held.size > 2:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return items

    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: seen.append(set(alive)))
    assert in_batches([1, 2, 3, 4], run, Batch(4)) == [1, 2, 3, 4]
    assert seen == [set()]


def test_other_errors_are_no_reason_to_try_less(torch: Any) -> None:
    tried = []

    def run(items: Sequence[int], batch: int) -> Sequence[int]:
        tried.append(len(items))
        raise RuntimeError("CUDA error: device-side assert triggered")

    with pytest.raises(RuntimeError, match="device-side"):
        in_batches([1, 2, 3, 4], run, Batch(4))
    assert tried == [4]


def test_too_few_answers_are_an_error(torch: Any) -> None:
    with pytest.raises(ValueError, match="shorter"):
        in_batches([1, 2, 3], lambda items, _: items[1:], Batch(2))


def test_arrays_are_cut_along_their_first_axis(torch: Any) -> None:
    points = np.arange(14.0).reshape(7, 2)
    found = in_batches(points, lambda part, _: part.sum(axis=1), Batch(3))
    np.testing.assert_array_equal(found, points.sum(axis=1))


def test_nothing_takes_no_batch(torch: Any) -> None:
    run = Small(3, torch)
    assert in_batches([], run, Batch(8)) == []
    assert run.tried == []


def test_an_error_of_the_gpu_itself_is_told_from_others(torch: Any) -> None:
    assert is_lost(torch.AcceleratorError("CUDA error: unspecified launch failure"))
    assert is_lost(RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling cublasSgemm"))
    assert is_lost(RuntimeError("CUDA driver error: invalid argument"))
    assert is_lost(RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"))
    assert not is_lost(torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."))
    assert not is_lost(RuntimeError("The size of tensor a (3) must match the size of tensor b (4)"))
    assert not is_lost(ValueError("CUDA error: so to speak"))


@pytest.mark.parametrize(("required", "outcome"), [("0", "1 skipped"), ("1", "no_such_package is not")])
def test_a_package_that_is_missing_skips_a_file_of_tests_and_fails_it_where_it_is_required(
    required: str, outcome: str, tmp_path: Path
) -> None:
    tests = tmp_path / "test_it.py"
    tests.write_text("from conftest import need\nneed('no_such_package')\ndef test_it(): pass\n")
    environment = {**os.environ, "REQUIRE_MODELS": required, "PYTHONPATH": str(Path(__file__).parents[1])}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", tmp_path, tests]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=tmp_path)
    assert outcome in done.stdout
    assert done.returncode == (2 if required == "1" else 5), done.stdout


def test_gpus_are_found_by_a_process_of_its_own(torch: Any) -> None:
    code = (
        "import sys; from mkhspc.models.device import find_gpus; print(len(find_gpus()));"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(torch.cuda.device_count()), "False"]


def test_gpus_are_reported_with_their_memory_and_precision(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    _pretend_torch(
        tmp_path,
        monkeypatch,
        "from types import SimpleNamespace as Some\n"
        "ampere = Some(name='A100', total_memory=42, major=8, minor=0)\n"
        "volta = Some(name='V100', total_memory=34, major=7, minor=0)\n"
        "cards = [ampere, volta]\n"
        "def free(number):\n"
        "    if number: raise RuntimeError('CUDA error: out of memory\\nmore')\n"
        "    return 40, 42\n"
        "cuda = Some(device_count=lambda: len(cards), get_device_properties=cards.__getitem__,\n"
        "    get_device_capability=lambda n: (cards[n].major, cards[n].minor), mem_get_info=free,\n"
        "    get_arch_list=lambda: ['sm_70', 'sm_80'])\n"
        "print('a greeting')\n",
    )
    assert device.find_gpus() == [
        Gpu("A100", 42, "bfloat16", free_bytes=40),
        Gpu("V100", 34, "float16", fault="CUDA error: out of memory"),
    ]


@pytest.mark.parametrize(
    ("capability", "built_for", "runs"),
    [
        ((8, 0), ["sm_70", "sm_80"], True),
        ((8, 9), ["sm_80", "sm_90"], True),
        ((6, 1), ["sm_70", "sm_80", "compute_80"], False),
        ((12, 0), ["sm_80", "sm_90"], False),
        ((12, 0), ["sm_80", "compute_90"], True),
        ((12, 0), ["sm_90", "sm_120"], True),
        ((9, 0), ["sm_90a"], True),
        ((8, 0), ["sm_86"], False),
        ((9, 0), ["gfx90a"], True),
    ],
)
def test_a_gpu_for_which_this_torch_was_not_built_is_reported(
    capability: tuple[int, int], built_for: list[str], runs: bool
) -> None:
    said = device._missing_kernels(capability, built_for)
    assert (said == "") == runs
    assert runs or f"compute capability {capability[0]}.{capability[1]}, but for sm_" in said


def test_what_lies_in_the_working_directory_is_not_started(
    torch: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "mkhspc").mkdir()
    for name in ("mkhspc/__init__.py", "json.py"):
        (tmp_path / name).write_text("raise ImportError('of the working directory')")
    monkeypatch.chdir(tmp_path)
    assert len(device.find_gpus()) == torch.cuda.device_count()


def test_a_torch_that_does_not_start_is_reported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _pretend_torch(tmp_path, monkeypatch, "raise OSError('libcudart.so.13: cannot open shared object file')")
    with pytest.raises(UsageError, match="torch does not start: OSError: libcudart") as caught:
        device.find_gpus()
    assert "mkhspc[models]" in caught.value.fix


def _pretend_torch(folder: Path, monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    (folder / "torch.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(folder))
    monkeypatch.syspath_prepend(str(folder))


def test_without_torch_it_is_said_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UsageError, match="torch, which is not installed") as caught:
        device.find_gpus()
    assert "pip install 'mkhspc[models]'" in caught.value.fix


def test_a_driver_that_hangs_is_reported_after_a_while(torch: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "ANSWER_S", 0.01)
    with pytest.raises(device.TorchError, match=r"did not list the GPUs within 0\.01 s"):
        device.find_gpus()
