"""python -m aqr_bench COMMAND: the aqr-bench command, where it is not on the PATH."""

import sys

from aqr_bench.cli.main import main

if __name__ == "__main__":  # worker processes import this file as well
    sys.exit(main())
