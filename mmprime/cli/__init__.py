"""What every command line shares: exit codes, one line for each kind of error, output that is not lost."""
