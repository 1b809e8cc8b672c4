"""Where and with what something was measured."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from datetime import datetime, timezone
from pathlib import Path

_PACKAGES = ("torch", "ultralytics", "onnxruntime", "openvino", "pycocotools")


def now() -> str:
    """The time, to the second, such that a later one sorts behind."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def machine() -> str:
    """Processor, cores and system."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        names = [line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model n")]
        cpu = names[0] if names else cpu
    return f"{cpu}, {os.cpu_count()} cores, {platform.system()}"


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that matter, as far as they are installed."""
    from yolorep import __version__

    found = {"python": platform.python_version(), "yolorep": __version__}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
