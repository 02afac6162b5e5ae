"""Why your PINN does not train: one call that measures, names a cause, and says what to do.

`diagnose` takes any network on any problem.  It measures what the other modules teach, each
measurement by itself, and every **cause** is one function of the measurements, in one table:

=========================  ==========================================================================
cause                      seen by
=========================  ==========================================================================
wrong sign or coefficient  the known solution does not solve the equation
contradictory data         the known solution misses values; or one term makes the rest unsolvable
missing condition          two different fields meet every term
precision                  residuals in float32 are rounding
inputs not scaled          an axis far from size 1 reaches the first layer as it is
unstable step              one step moves the field by more than its size
saturated units            activations without slope
collapsed constraint       a hard constraint lets the network move on a part of the domain only
units of terms             residuals of one term are thousands of times larger, whatever the network
too few points             residuals are large beside the points, which do not determine the solution
overfitted points          the same beside points that do
weak term                  a term is outpulled by another, and is the one that is not met
frequency too high         the residual is in modes of the kernel that do not move
too few steps              the loss goes on falling
=========================  ==========================================================================

What the problem itself has wrong is distinguished from bad training by solving it without training (`solving`).
Nothing but a known solution, or data, can show a wrong sign or coefficient: without them none is claimed.
"""

from pinn_analysis.diagnosis._diagnose import Diagnosis as Diagnosis, diagnose as diagnose
from pinn_analysis.diagnosis._findings import CAUSES as CAUSES, CERTAINTY as CERTAINTY, Finding as Finding, find as find
from pinn_analysis.diagnosis._measure import MEASUREMENTS as MEASUREMENTS
