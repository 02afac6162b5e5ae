"""``python -m pinn_analysis``: the command line."""

from pinn_analysis.cli import main

main(prog_name="pinn-analysis")
