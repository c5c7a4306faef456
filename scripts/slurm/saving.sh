# Choose Python, and wait for a run that saves itself on SLURM's signals. The .sbatch files source this file from the
# project's folder.

if [ -z "${PYTHON:-}" ]; then
    PYTHON=.venv/bin/python
    [ -x "$PYTHON" ] || PYTHON=python
fi

# attend PROCESS COMMAND...: wait for the run, and set `status` to its exit status.
#
# PROCESS: process id of the run, a child of this shell.
# COMMAND: the command that asks the run to save itself and end.
#
# On USR1 (the time limit is near) COMMAND runs, and the job queues again. On TERM, COMMAND runs. A job that SLURM
# preempts queues again as well. In the grace time of a preemption SLURM signals the steps and not this shell, and a job
# that ends early would not come back by itself; so the time of the last preemption is compared before and after.
attend() {
    local process=$1 requeue='' before
    local -a save=("${@:2}")
    before=$(preempted_at)
    trap 'requeue=yes; "${save[@]}" 2>/dev/null' USR1
    trap '"${save[@]}" 2>/dev/null' TERM INT
    status=0
    wait "$process" || status=$?
    while kill -0 "$process" 2>/dev/null; do # a signal ends `wait` at once, while the run still saves itself
        status=0
        wait "$process" || status=$?
    done
    [ "$(preempted_at)" = "$before" ] || requeue=yes
    if [ -n "$requeue" ] && [ "$status" != 0 ]; then
        echo "job $SLURM_JOB_ID saved itself and queues again"
        scontrol requeue "$SLURM_JOB_ID"
    fi
}

# preempted_at: print the time of the job's last preemption.
preempted_at() { scontrol show job "$SLURM_JOB_ID" 2>/dev/null | grep -o 'PreemptTime=[0-9T:-]*'; }
