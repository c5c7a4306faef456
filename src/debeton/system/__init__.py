"""The base of all other packages: nothing here knows data or networks.

- errors.py: the two errors that users meet, and the exit status of a command.
- files.py: files that appear whole or not at all.
- plain_files.py: files of torch.save, read without running code from them.
- locks.py: file locks between processes.
- registry.py: names to values, such as data sets, models and methods.
- seed.py: random streams by name.
- log.py: messages to the console and to log.txt.
- distributed.py: several processes that train together.
- pool.py: work on many items by threads, with results in order.
- cores.py: cores that this process may use.
- memory.py: memory that this process may still use.
- cgroups.py and slurm_limits.py: the limits of control groups and of SLURM.
- jit.py and tbb.py: threads of numba's parallel kernels.
"""
