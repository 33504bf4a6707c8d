"""The commands `python -m alexatm_jax.data.vocabulary train` and `report`."""

from __future__ import annotations

import sys

from alexatm_jax.data.vocabulary.training import main
from alexatm_jax.log_lines import print_log_lines

if __name__ == "__main__":
    print_log_lines()
    sys.exit(main())
