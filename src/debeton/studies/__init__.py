"""Studies: many runs described by one YAML file of variants, axes and seeds.

study_file: the format of a study file, and its reader.
study: a study, and the jobs that it describes.
jobs: a job, and the placeholders in its settings.
search: random search over ranges of settings.
state: the state of every job, read from the run folders.
runner: runs jobs on this machine.
commands: the processes of these jobs.
manifest: the numbered jobs of a study, for SLURM.
slurm: submits a study to SLURM.
collect: the report of a study.
published: published numbers, shown beside the measured ones.
"""
