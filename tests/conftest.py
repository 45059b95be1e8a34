"""What all tests share."""

from __future__ import annotations

import os
import signal
import sys
import threading

from hypothesis import HealthCheck, settings

# A job in the background is often started deaf to Ctrl-C, and would make deaf all that the tests start and interrupt.
if threading.current_thread() is threading.main_thread():
    signal.signal(signal.SIGINT, signal.default_int_handler)

# No test is timed: the machine may be busy building.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")

# Every process that a test starts would compile the package again.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
