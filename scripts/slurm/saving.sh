# Choose Python, and wait for a run that saves itself on SLURM's signals. The .sbatch files source this file from the
# project's folder.

if [ -z "${PYTHON:-}" ]; then
    PYTHON=.venv/bin/python
    [ -x "$PYTHON" ] || PYTHON=python
fi

# A run touches this file when it has saved itself or a result (debeton.system.progress). It lies on the node of this
# script, where the main process of a run is too.
export DEBETON_PROGRESS=${TMPDIR:-/tmp}/debeton_progress_${SLURM_JOB_ID:-$$}
rm -f "$DEBETON_PROGRESS"
LAST_IDLE_ROUND=3 # a job does not queue again after so many rounds in a row without progress

# attend PROCESS COMMAND...: wait for the run, and set `status` to its exit status.
#
# PROCESS: process id of the run, a child of this shell.
# COMMAND: the command that asks the run to save itself and end.
#
# On USR1 (the time limit is near) COMMAND runs, and the job queues again. On TERM, COMMAND runs. A job that SLURM
# preempts queues again as well. In the grace time of a preemption SLURM signals the steps and not this shell, and a job
# that ends early would not come back by itself; so the time of the last preemption is compared before and after.
#
# A time limit that is hardly longer than SLURM's warning ends every round at its start. Such a job would queue again for
# ever, so it ends with a message and status 1 after LAST_IDLE_ROUND rounds in a row without progress. Those are rounds
# that saved nothing, and rounds that USR1 ended within a minute.
attend() {
    local process=$1 requeue='' early='' before idle=0
    local -a save=("${@:2}")
    before=$(preempted_at)
    trap 'requeue=yes; [ "$SECONDS" -ge 60 ] || early=yes; "${save[@]}" 2>/dev/null' USR1
    trap '"${save[@]}" 2>/dev/null' TERM INT
    status=0
    wait "$process" || status=$?
    while kill -0 "$process" 2>/dev/null; do # a signal ends `wait` at once, while the run still saves itself
        status=0
        wait "$process" || status=$?
    done
    [ "$(preempted_at)" = "$before" ] || requeue=yes
    if [ -z "$requeue" ] || [ "$status" = 0 ]; then
        return
    fi
    if [ -n "$early" ] || [ ! -e "$DEBETON_PROGRESS" ]; then
        idle=$(($(idle_rounds) + 1))
    fi
    if [ "$idle" -ge "$LAST_IDLE_ROUND" ]; then
        echo "error: job $SLURM_JOB_ID was stopped $idle times in a row within a minute, or before it could save itself;" \
            "its time limit is $(of_job TimeLimit), and SLURM warns it 2 minutes before: submit it with a longer --time"
        status=1
        return
    fi
    [ -e "$DEBETON_PROGRESS" ] && echo "job $SLURM_JOB_ID saved itself and queues again" ||
        echo "job $SLURM_JOB_ID was stopped before it could save itself, and queues again"
    rm -f "$DEBETON_PROGRESS"
    scontrol update JobId="$SLURM_JOB_ID" Comment="$IDLE$idle"
    scontrol requeue "$SLURM_JOB_ID"
}

# idle_rounds: print the number of last rounds without progress. It is kept in the job's comment, because a job that
# queues again starts with the environment of its submission.
IDLE=debeton_rounds_without_progress:
idle_rounds() {
    local comment
    comment=$(of_job Comment)
    # Digits only: the number goes into an arithmetic expression, which runs commands of other text.
    [[ $comment =~ ^"$IDLE"([0-9]{1,6})$ ]] && echo "$((10#${BASH_REMATCH[1]}))" || echo 0
}

# of_job FIELD: print a field of the job, such as TimeLimit.
of_job() { scontrol show job "$SLURM_JOB_ID" 2>/dev/null | grep -oE "(^| )$1=[^ ]*" | head -n 1 | cut -d= -f2-; }

# preempted_at: print the time of the job's last preemption.
preempted_at() { scontrol show job "$SLURM_JOB_ID" 2>/dev/null | grep -o 'PreemptTime=[0-9T:-]*'; }
