"""A stateful model of spool and courier: parts to drive by hand, and a plain reference.

``process``     one program: a spool and its courier, driven step by step, that can be killed
``destination`` a server that answers as told and remembers what it took
``reference``   what must be true, in plain dictionaries
``disk``        what lies in a spool directory, read with SQL of its own
``world``       all of it together: the actions
``machine``     the actions in any order, chosen by hypothesis

What a death is here: the bytes that the process had written are put back after its
connections are closed, so the next one finds what SIGKILL leaves (``Process.kill``). No
power cuts: those are the crash images' (``tests/crash``). Time stands still unless it is
moved or looked at, and no thread runs by itself, so a run can be repeated.
"""
