"""What is freed is kept: a block that is asked for again costs no new pages."""

import platform
import subprocess
import sys

import pytest

TOUCHED = """
import resource, torch
from seqgen.allocator import keep_large_blocks
if {keep}:
    assert keep_large_blocks()
def touch():
    torch.zeros(2**24).sum()  # 64 MB
touch()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(40):
    touch()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another allocator than glibc's")
def test_large_blocks_cost_few_new_pages() -> None:
    pages = [
        int(subprocess.run([sys.executable, "-c", TOUCHED.format(keep=keep)], capture_output=True, check=True).stdout)
        for keep in (False, True)
    ]
    assert pages[1] < pages[0] / 4  # aligned as torch asks for it, a block finds its place after a few
