"""Replaces a file by rename and promises each version; leaves out one sync if told to.

Usage: replace_file.py DIRECTORY VERSIONS [no-file-sync|no-directory-sync]
"""

import os
import sys

directory, versions, *left_out = sys.argv[1:]
os.chdir(directory)
parent = os.open(".", os.O_RDONLY)

for version in range(int(versions)):
    with open("draft", "wb", buffering=0) as draft:
        draft.write(b"%d\n" % version * 1000)
        if "no-file-sync" not in left_out:
            os.fsync(draft.fileno())
    os.rename("draft", "current")
    if "no-directory-sync" not in left_out:
        os.fsync(parent)
    os.write(1, b"ACK %d\n" % version)
