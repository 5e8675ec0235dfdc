"""Studies: a grid of notebook runs in a YAML file, executed to the end, and one table of what came out.

    spec      the YAML file, read and checked
    grid      its combinations of settings
    plan      combinations -> jobs: a run folder, the tasks to be done in it, each by papermill
    state     what is done, running, stopped or failed, read from the run folders alone
    worker    one job, in a process of its own
    local     N workers at a time on this machine
    cluster   the same workers as SLURM jobs, through submitit
    results   results.csv; report  the page; estimate  the time; paper  the paper's numbers

Nothing here keeps a list of what was done: a run is found by the fingerprint of its settings, an evaluation by a hash
of its own, so studies with the same `out` share them.
"""
