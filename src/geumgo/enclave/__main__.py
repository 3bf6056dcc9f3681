"""`python -m geumgo.enclave [module:app …]`: what an image's `cmd` runs."""

from __future__ import annotations

import os
import sys

from geumgo.enclave.program import main

status = main()
sys.stdout.flush()
sys.stderr.flush()
# At once: an operation that never returns holds a thread, and the interpreter would wait for it.
os._exit(status)
