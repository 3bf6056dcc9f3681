"""`python -m geumgo.enclave [module:app …]`: what an image's `cmd` runs."""

from __future__ import annotations

import sys

from geumgo.enclave.program import main

sys.exit(main())
