# Sourced by the .sbatch files, from the project's folder: which Python, and a run that SLURM's signals reach in time.

if [ -z "${PYTHON:-}" ]; then
    PYTHON=.venv/bin/python
    [ -x "$PYTHON" ] || PYTHON=python
fi

# attend PROCESS COMMAND...: wait for PROCESS, the run, of this shell; COMMAND asks it to save itself and end.
#
# On USR1 (time is nearly up) it is asked and the job queues again; on TERM it is asked. A job that SLURM preempts queues
# again too: where it leaves a time of grace, it tells the steps and not this shell, and one that ends early has ended.
# status: what PROCESS ended with.
attend() {
    local process=$1 again='' before
    local -a ask=("${@:2}")
    before=$(preempted_at)
    trap 'again=yes; "${ask[@]}" 2>/dev/null' USR1
    trap '"${ask[@]}" 2>/dev/null' TERM INT
    status=0
    wait "$process" || status=$?
    while kill -0 "$process" 2>/dev/null; do # a signal ends wait, not the run: it saves itself first
        status=0
        wait "$process" || status=$?
    done
    [ "$(preempted_at)" = "$before" ] || again=yes
    if [ -n "$again" ] && [ "$status" != 0 ]; then
        echo "job $SLURM_JOB_ID saved itself and queues again"
        scontrol requeue "$SLURM_JOB_ID"
    fi
}

preempted_at() { scontrol show job "$SLURM_JOB_ID" 2>/dev/null | grep -o 'PreemptTime=[0-9T:-]*'; }
