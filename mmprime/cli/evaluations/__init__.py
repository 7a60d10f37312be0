"""What stands behind the tools, one command a file.

Each file of tools/evaluate.py has HELP, add_arguments(parser) and run(options) -> list[Measure], and imports nothing
heavy before it runs. run may raise ValueError for what the user can mend; then nothing is printed as a number.
"""
