"""`python -m gateway`."""

from __future__ import annotations

import signal
import sys

# As PID 1, a program without a handler ignores SIGTERM, and the imports below take a second or more.
signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))

from gateway.run import main  # noqa: E402

sys.exit(main())
