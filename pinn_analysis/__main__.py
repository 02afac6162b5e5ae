"""``python -m pinn_analysis``: the command line."""

from pinn_analysis.cli import main

if __name__ == "__main__":
    main(prog_name="pinn-analysis")
