"""`make bench`: operators on mps against CUDA (or the CPU where there is none), a row a case.

families/ has the shapes, a file a family. clock.py measures a case; side.py is the process of one side, which
processes.py starts and watches; page.py makes the table on the terminal and docs/performance.md.
"""
