"""The machines behind the runs: a Ray cluster that outlives every command, and one supervisor on it an attempt."""
