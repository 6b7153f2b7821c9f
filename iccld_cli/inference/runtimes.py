"""Other runtimes, imported without their telemetry.

`import openvino` sends a usage event through its package `openvino-telemetry` unless the user opted out or `CI` is set;
onnxruntime has the like on Windows. No part of this program reports anything to anyone.
"""

from __future__ import annotations

import os
import sys
from typing import Any

_TELEMETRY = ("openvino_telemetry", "openvino_telemetry.backend")


def import_openvino() -> Any:
    """The module `openvino`, without its telemetry.

    It takes a stub of its own where the telemetry package cannot be imported, which this sees to, for as long as the
    process lives, since some of its parts are imported when they are used.

    Raises:
        ImportError: It is not installed.
    """
    for name in _TELEMETRY:
        sys.modules[name] = None  # type: ignore[assignment]  # the documented way to make an import fail
    import openvino

    return openvino


def import_onnxruntime() -> Any:
    """The module `onnxruntime`, with its telemetry switched off.

    Raises:
        ImportError: It is not installed.
    """
    import onnxruntime

    onnxruntime.disable_telemetry_events()
    return onnxruntime


def threads() -> int:
    """Threads that a runtime is to use: `OMP_NUM_THREADS`, else the processors that this process may use."""
    given = os.environ.get("OMP_NUM_THREADS", "")
    if given.isdecimal() and int(given):
        return int(given)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
