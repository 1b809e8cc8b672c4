"""Milliseconds an image of deployed files, in onnxruntime and OpenVINO, the models taking turns."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Run = Callable[[NDArray[np.float32]], object]


@dataclass(frozen=True)
class Latency:
    """One network in one runtime at one size: the median and the quartiles of milliseconds an image."""

    program: str
    network: str
    runtime: str
    imgsz: int
    median: float
    low: float
    high: float
    repetitions: int


def measure(
    files: Mapping[tuple[str, str], Path], *, imgsz: int, threads: int, warmup: int, repetitions: int
) -> list[Latency]:
    """Times every file in every runtime.

    Runtimes come one after the other, so that no pool of waiting threads takes time from another runtime; within one,
    the models take turns, so that whatever else the machine does meets all of them.

    Args:
        files: (program, network) -> ONNX file for one image.
        imgsz: its height and width in pixels.
        threads: of each runtime.
        warmup: turns that are not counted.
        repetitions: turns that are.
    """
    image = np.random.default_rng(0).random((1, 3, imgsz, imgsz), np.float32)
    found = []
    for runtime, open_file in RUNTIMES.items():
        models = {network: open_file(path, threads) for network, path in files.items()}
        times: dict[tuple[str, str], list[float]] = {network: [] for network in models}
        for turn in range(warmup + repetitions):
            for network, run in models.items():
                start = time.perf_counter()
                run(image)
                if turn >= warmup:
                    times[network].append((time.perf_counter() - start) * 1000)
        for (program, network), values in times.items():
            low, median, high = np.quantile(values, (0.25, 0.5, 0.75)).tolist()
            found.append(Latency(program, network, runtime, imgsz, median, low, high, repetitions))
            print(f"  {network}: {runtime} {imgsz} px {median:.1f} ms ({low:.1f} to {high:.1f})", flush=True)
    return found


def _onnxruntime(path: Path, threads: int) -> Run:
    from yolorep.formats.onnx import import_onnxruntime

    onnxruntime = import_onnxruntime()
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = threads
    settings.log_severity_level = 3
    # Otherwise the threads of the model before are still spinning while the next one runs.
    settings.add_session_config_entry("session.force_spinning_stop", "1")
    session = onnxruntime.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda image: session.run(None, {name: image})


def _openvino(path: Path, threads: int) -> Run:
    import openvino

    core = openvino.Core()
    hints = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads}
    request = core.compile_model(core.read_model(str(path)), "CPU", hints).create_infer_request()
    return lambda image: request.infer([image])


#: Name -> opens a file; precision and everything else is the runtime's default.
RUNTIMES: dict[str, Callable[[Path, int], Run]] = {"onnxruntime": _onnxruntime, "OpenVINO": _openvino}


def openvino_precision() -> str:
    """What OpenVINO computes in on this machine by default."""
    import openvino

    return str(openvino.Core().get_property("CPU", "INFERENCE_PRECISION_HINT")).strip("<>").split("'")[1]
