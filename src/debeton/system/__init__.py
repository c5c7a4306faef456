"""The base of all other packages: nothing here knows data or networks.

- errors.py: the two errors that users meet, and the exit status of a command.
- files.py: files that appear whole or not at all.
- plain_files.py: files of torch.save, read without running code from them.
- plain_pickles.py and plain_parts.py: pickles, read as data, by constructors that trust nothing in them.
- plain_arrays.py and plain_tensors.py: the constructors of arrays and of tensors.
- array_files.py: .npy and .npz files, held against their sizes.
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
