"""`python -m gtacli`, which is what a launcher starts: torchrun -m gtacli finetune ..."""

import sys

from gtacli.cli import main

if __name__ == "__main__":
    sys.exit(main())
