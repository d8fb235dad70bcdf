"""The command line settles the allocator before torch is there."""

import os
import subprocess
import sys

import pytest

ASK = """
import os, sys
from gtacli.cli import main
main(["--version"])
print(os.environ["THP_MEM_ALLOC_ENABLE"], "torch" in sys.modules)
"""


@pytest.mark.parametrize(("own", "expected"), [(None, "1 False"), ("0", "0 False")])
def test_huge_pages_unless_the_user_says_otherwise(own: str | None, expected: str) -> None:
    env = {k: v for k, v in os.environ.items() if k != "THP_MEM_ALLOC_ENABLE"}
    if own is not None:
        env["THP_MEM_ALLOC_ENABLE"] = own
    done = subprocess.run(
        [sys.executable, "-c", ASK], env=env, check=True, capture_output=True, text=True
    )
    assert done.stdout.splitlines()[-1] == expected
